"""Pending mails by account: the oldest mail of each account is found by one index lookup."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    is_pending = sa.text("status = 'pending'")
    op.create_index(
        "mails_waiting",
        "mails",
        ["account_id", "due_at"],
        sqlite_where=is_pending,
        postgresql_where=is_pending,
    )


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("mails_waiting", "mails")
