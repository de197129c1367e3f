"""Attempts tell what was sent and what came back."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of attempts that exist, it is not known."""
    op.add_column("attempts", sa.Column("transmission", sa.Text()))


def downgrade() -> None:
    """Remove the column."""
    with op.batch_alter_table("attempts") as batch:
        batch.drop_column("transmission")
