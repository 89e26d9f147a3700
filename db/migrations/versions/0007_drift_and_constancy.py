"""Drift and constancy: what is compared with what, and which engine computed a finding."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column and the tables."""
    op.add_column("findings", sa.Column("engine", sa.String(length=96), server_default="", nullable=False))
    op.create_table(
        "drift_references",
        sa.Column("sender_ae", sa.String(length=16), nullable=False),
        sa.Column("view", sa.String(length=16), nullable=False),
        sa.Column("network_digest", sa.String(length=64), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("until_finding", sa.Integer(), nullable=False),
        sa.Column("began_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("compared", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("sender_ae", "view", "network_digest", name=op.f("pk_drift_references")),
    )
    op.create_table(
        "drift_holds",
        sa.Column("sender_ae", sa.String(length=16), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.Column("since", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("sender_ae", name=op.f("pk_drift_holds")),
    )
    op.create_table(
        "constancy_runs",
        sa.Column("slot", sa.String(length=32), nullable=False),
        sa.Column("studies", sa.JSON(), nullable=False),
        sa.Column("began_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("sent_at", db.clock.Moment(), nullable=True),
        sa.Column("ended_at", db.clock.Moment(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("found", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("slot", name=op.f("pk_constancy_runs")),
    )
    op.create_table(
        "constancy_records",
        sa.Column("network_digest", sa.String(length=64), nullable=False),
        sa.Column("engine", sa.String(length=96), nullable=False),
        sa.Column("phantom", sa.String(length=64), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("recorded_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("network_digest", "engine", "phantom", name=op.f("pk_constancy_records")),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("constancy_records", "constancy_runs", "drift_holds", "drift_references"):
        op.drop_table(table)
    op.drop_column("findings", "engine")
