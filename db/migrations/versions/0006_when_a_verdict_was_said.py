"""When a person said a verdict, where that is not when it came; and a quick look for what supersedes one."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column and the index."""
    op.add_column("verdicts", sa.Column("said_at", db.clock.Moment(), nullable=True))
    op.create_index(op.f("ix_verdicts_supersedes"), "verdicts", ["supersedes"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index(op.f("ix_verdicts_supersedes"), "verdicts")
    op.drop_column("verdicts", "said_at")
