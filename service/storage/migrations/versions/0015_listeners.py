"""Listeners: their connections, the attempts that they work on, and keys to listen."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "listeners",
        sa.Column("account_id", sa.Text()),
        sa.Column("origin", sa.Text()),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "origin", name="listeners_primary"),
    )
    op.create_table(
        "listener_attempts",
        sa.Column("account_id", sa.Text()),
        sa.Column("delivery_id", sa.Text()),
        sa.Column("number", sa.Integer(), autoincrement=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.LargeBinary()),
        sa.PrimaryKeyConstraint(
            "account_id", "delivery_id", "number", name="listener_attempts_primary"
        ),
    )
    op.create_index("listener_attempts_deadline", "listener_attempts", ["deadline_at"])
    op.create_table(
        "listen_keys",
        sa.Column("prefix", sa.Text(), primary_key=True),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("listen_keys_account", "listen_keys", ["account_id", "expires_at"])


def downgrade() -> None:
    """Remove the tables; deliveries for listeners stay pending."""
    for table in ("listen_keys", "listener_attempts", "listeners"):
        op.drop_table(table)
