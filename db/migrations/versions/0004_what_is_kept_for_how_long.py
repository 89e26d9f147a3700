"""What is kept for how long: legal holds, removals, backups."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make their columns and tables, and the indexes that the look for old studies needs."""
    op.add_column("studies", sa.Column("held_because", sa.Text(), nullable=True))
    for column in ("files_removed_at", "prepared_removed_at"):
        op.add_column("studies", sa.Column(column, db.clock.Moment(), nullable=True))
    op.add_column("instances", sa.Column("removed_at", db.clock.Moment(), nullable=True))
    op.add_column("reports", sa.Column("removed_at", db.clock.Moment(), nullable=True))
    op.create_table(
        "removals",
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_removals")),
    )
    op.create_table(
        "removed_studies",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("removed_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("study_uid", name=op.f("pk_removed_studies")),
    )
    op.create_table(
        "backups",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("began_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("lease_until", db.clock.Moment(), nullable=True),
        sa.Column("ended_at", db.clock.Moment(), nullable=True),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backups")),
    )
    op.create_index(op.f("ix_backups_lease_until"), "backups", ["lease_until"])
    op.create_index(op.f("ix_instances_series_uid"), "instances", ["series_uid"])
    _partial_index("ix_studies_with_files", "files_removed_at")
    _partial_index("ix_studies_with_prepared", "prepared_removed_at")


def _partial_index(name: str, column: str) -> None:
    unset = sa.text(f"{column} IS NULL")
    op.create_index(name, "studies", ["last_received_at"], sqlite_where=unset, postgresql_where=unset)


def downgrade() -> None:
    """Drop them."""
    for name in ("ix_studies_with_prepared", "ix_studies_with_files"):
        op.drop_index(name, "studies")
    op.drop_index(op.f("ix_instances_series_uid"), "instances")
    for table in ("backups", "removed_studies", "removals"):
        op.drop_table(table)
    op.drop_column("reports", "removed_at")
    op.drop_column("instances", "removed_at")
    for column in ("prepared_removed_at", "files_removed_at", "held_because"):
        op.drop_column("studies", column)
