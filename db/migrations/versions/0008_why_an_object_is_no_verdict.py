"""Why an object in which a person may have spoken brought no verdict."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make its column."""
    op.add_column("instances", sa.Column("no_verdict_because", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("instances", "no_verdict_because")
