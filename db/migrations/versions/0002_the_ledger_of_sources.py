"""The ledger of what source PACS hold, day by day."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make its table, and the index by which a sender's day is found."""
    op.create_table(
        "ledger_days",
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("counted_at", db.clock.Moment(), nullable=True),
        sa.Column("not_asked_because", sa.Text(), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("source", "day", name=op.f("pk_ledger_days")),
    )
    op.create_index(op.f("ix_studies_sender_ae_study_date"), "studies", ["sender_ae", "study_date"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index(op.f("ix_studies_sender_ae_study_date"), "studies")
    op.drop_table("ledger_days")
