"""Storage commitment: what we asked of destinations, and what senders asked of us."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make their tables."""
    op.create_table(
        "commitments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("kept_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("asked_at", db.clock.Moment(), nullable=True),
        sa.Column("answered_at", db.clock.Moment(), nullable=True),
        sa.Column("committed", sa.JSON(), nullable=False),
        sa.Column("failed", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["deliveries.id"],
            name=op.f("fk_commitments_delivery_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitments")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_commitments_transaction_uid")),
    )
    op.create_index(op.f("ix_commitments_delivery_id"), "commitments", ["delivery_id"])
    op.create_table(
        "commitment_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sender_ae", sa.String(length=16), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("objects", sa.JSON(), nullable=False),
        sa.Column("asked_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("reported_at", db.clock.Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_requests")),
        sa.UniqueConstraint(
            "sender_ae", "transaction_uid", name=op.f("uq_commitment_requests_sender_ae_transaction_uid")
        ),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("commitment_requests")
    op.drop_index(op.f("ix_commitments_delivery_id"), "commitments")
    op.drop_table("commitments")
