"""Signing in to the console, and the results of checks that it has run."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; nothing else changes."""
    op.create_table(
        "console_links",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("account_id", sa.Text),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_index("console_links_expires", "console_links", ["expires_at"])
    op.create_table(
        "console_sessions",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("account_id", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_index("console_sessions_account", "console_sessions", ["account_id", "created_at"])
    op.create_index("console_sessions_expires", "console_sessions", ["expires_at"])
    op.create_table(
        "receiver_checks",
        sa.Column("account_id", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("conforms", sa.Boolean, nullable=False),
        sa.Column("checked_at", sa.BigInteger, nullable=False),
        sa.Column("checks", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "url", name="receiver_checks_primary"),
    )


def downgrade() -> None:
    """Remove the tables: everyone signs in again, and runs the checks again."""
    op.drop_table("receiver_checks")
    op.drop_table("console_sessions")
    op.drop_table("console_links")
