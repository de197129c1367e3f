"""Accounts, their API keys and their signing secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "accounts",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger()),
        sa.UniqueConstraint("name", name="accounts_name"),
    )
    op.create_table(
        "account_keys",
        sa.Column("prefix", sa.Text(), primary_key=True),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
    )
    op.create_index("account_keys_account", "account_keys", ["account_id"])
    op.create_table(
        "account_secrets",
        sa.Column("account_id", sa.Text()),
        sa.Column("id", sa.Text()),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("account_id", "id", name="account_secrets_primary"),
    )


def downgrade() -> None:
    """Drop the accounts, their keys and their secrets."""
    for table in ("account_secrets", "account_keys", "accounts"):
        op.drop_table(table)
