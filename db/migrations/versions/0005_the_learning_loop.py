"""The learning loop: networks' states, snapshots, runs of the night, alerts."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_IN_SERVICE = sa.text("state IN ('champion', 'shadow')")
_OPEN = sa.text("ended_at IS NULL")


def upgrade() -> None:
    """Make its columns and tables; what read so far is retired until the settings' network is loaded again."""
    _patients_and_snapshots()
    _runs()
    _networks()
    op.add_column("findings", sa.Column("shadow", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("findings", sa.Column("statistics", sa.JSON(), nullable=True))
    op.add_column("verdicts", sa.Column("origin", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_verdicts_created_at"), "verdicts", ["created_at"])
    op.create_index(op.f("ix_verdicts_uid_origin"), "verdicts", ["uid", "origin"], unique=True)
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("raised_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("seen_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("ended_at", db.clock.Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index(
        "ix_alerts_open",
        "alerts",
        ["kind", "subject"],
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )


def _patients_and_snapshots() -> None:
    op.create_table(
        "patient_parts",
        sa.Column("patient", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("since", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("patient", name=op.f("pk_patient_parts")),
    )
    op.create_table(
        "snapshots",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("left_out", sa.JSON(), nullable=False),
        sa.Column("made_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_snapshots")),
    )


def _runs() -> None:
    for column in (
        sa.Column("slot", sa.String(length=32), nullable=True),
        sa.Column("state", sa.String(length=16), server_default="trained", nullable=False),
        sa.Column("folder", sa.Text(), server_default="", nullable=False),
        sa.Column("network_digest", sa.String(length=64), server_default="", nullable=False),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("gate", sa.JSON(), nullable=True),
        sa.Column("tracking", sa.Text(), server_default="", nullable=False),
    ):
        op.add_column("training_runs", column)
    _reference("training_runs", "snapshot_digest VARCHAR(64)", "snapshots (digest)")
    op.create_index(op.f("ix_training_runs_slot"), "training_runs", ["slot"], unique=True)
    op.execute("UPDATE training_runs SET state = 'failed' WHERE error IS NOT NULL")


def _reference(table: str, column: str, to: str) -> None:
    """Add a foreign key's column: in SQLite, Alembic would copy the table, which others refer to."""
    key = f"fk_{table}_{column.split()[0]}"
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} CONSTRAINT {key} REFERENCES {to}")


def _networks() -> None:
    for column in (
        sa.Column("state", sa.String(length=16), server_default="retired", nullable=False),
        sa.Column("path", sa.Text(), server_default="", nullable=False),
        sa.Column("is_settings", sa.Boolean(), server_default=sa.true(), nullable=False),
    ):
        op.add_column("network_versions", column)
    _reference("network_versions", "run_id INTEGER", "training_runs (id)")
    op.create_index(
        "ix_network_versions_in_service",
        "network_versions",
        ["state"],
        unique=True,
        sqlite_where=_IN_SERVICE,
        postgresql_where=_IN_SERVICE,
    )
    op.create_table(
        "network_changes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.Column("at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_network_changes")),
        sa.ForeignKeyConstraint(
            ["digest"], ["network_versions.digest"], name=op.f("fk_network_changes_digest")
        ),
    )
    op.create_index(op.f("ix_network_changes_digest"), "network_changes", ["digest"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("network_changes")
    op.drop_index("ix_network_versions_in_service", "network_versions")
    op.drop_index(op.f("ix_training_runs_slot"), "training_runs")
    for table, columns in {
        "network_versions": ("run_id", "is_settings", "path", "state"),
        "training_runs": (
            "snapshot_digest",
            "tracking",
            "gate",
            "progress",
            "network_digest",
            "folder",
            "state",
            "slot",
        ),
    }.items():
        for column in columns:
            op.drop_column(table, column)
    for table in ("alerts", "snapshots", "patient_parts"):
        op.drop_table(table)
    for index in ("ix_verdicts_uid_origin", "ix_verdicts_created_at"):
        op.drop_index(op.f(index), "verdicts")
    op.drop_column("verdicts", "origin")
    for column in ("statistics", "shadow"):
        op.drop_column("findings", column)
