"""Mails and their attempts, the keys of pay links, and what an invoice tells about its money."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ADDED = {
    "locale": sa.Text,
    "amount_refunded_minor": sa.BigInteger,
    "overpaid_minor": sa.BigInteger,
    "mismatch": sa.Boolean,
}
"""Columns that may be null: an older version, which does not know them, inserts rows as well."""


def upgrade() -> None:
    """Add the columns and the tables."""
    for name, type_ in _ADDED.items():
        op.add_column("invoices", sa.Column(name, type_()))
    op.create_table(
        "mails",
        sa.Column("account_id", sa.Text()),
        sa.Column("id", sa.Text()),
        sa.Column("invoice_key", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger()),
        sa.Column("leased_until", sa.BigInteger()),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("leased_by", sa.Integer()),
        sa.PrimaryKeyConstraint("account_id", "id", name="mails_primary"),
    )
    op.create_index("mails_invoice", "mails", ["account_id", "invoice_key"])
    is_pending = sa.text("status = 'pending'")
    op.create_index(
        "mails_due", "mails", ["due_at"], sqlite_where=is_pending, postgresql_where=is_pending
    )
    op.create_table(
        "mail_attempts",
        sa.Column("account_id", sa.Text()),
        sa.Column("mail_id", sa.Text()),
        sa.Column("number", sa.Integer(), autoincrement=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("code", sa.Integer()),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("account_id", "mail_id", "number", name="mail_attempts_primary"),
    )
    op.create_table(
        "account_pay_keys",
        sa.Column("account_id", sa.Text(), primary_key=True),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("prefix", name="account_pay_keys_prefix"),
    )


def downgrade() -> None:
    """Remove the tables and the columns."""
    for table in ("account_pay_keys", "mail_attempts", "mails"):
        op.drop_table(table)
    with op.batch_alter_table("invoices") as batch:
        for name in _ADDED:
            batch.drop_column(name)
