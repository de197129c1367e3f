"""Stripe: keys of accounts, checkouts, payments, refunds, and the webhooks that were taken."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "account_stripe_keys",
        sa.Column("account_id", sa.Text(), primary_key=True),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "checkouts",
        sa.Column("account_id", sa.Text()),
        sa.Column("id", sa.Text()),
        sa.Column("invoice_key", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("failure_count", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Text()),
        sa.Column("url", sa.Text()),
        sa.Column("is_declined", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("failing_since", sa.BigInteger()),
        sa.PrimaryKeyConstraint("account_id", "id", name="checkouts_primary"),
    )
    is_active = "status IN ('creating', 'open', 'processing')"
    _index("checkouts_active", "checkouts", is_active, "account_id", "invoice_key", unique=True)
    _index("checkouts_due", "checkouts", "due_at IS NOT NULL", "due_at")
    _index("checkouts_failing", "checkouts", "failing_since IS NOT NULL", "failing_since")
    op.create_table(
        "payments",
        sa.Column("account_id", sa.Text()),
        sa.Column("id", sa.Text()),
        sa.Column("invoice_key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("payment_intent", sa.Text()),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("dispute_id", sa.Text()),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("failing_since", sa.BigInteger()),
        sa.PrimaryKeyConstraint("account_id", "id", name="payments_primary"),
    )
    op.create_index("payments_invoice", "payments", ["account_id", "invoice_key"])
    op.create_index("payments_intent", "payments", ["account_id", "payment_intent"])
    _index("payments_due", "payments", "due_at IS NOT NULL", "due_at")
    _index("payments_failing", "payments", "failing_since IS NOT NULL", "failing_since")
    op.create_table(
        "refunds",
        sa.Column("account_id", sa.Text()),
        sa.Column("id", sa.Text()),
        sa.Column("payment_id", sa.Text()),
        sa.Column("invoice_key", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("asked_minor", sa.BigInteger()),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("failure_count", sa.Integer(), nullable=False),
        sa.Column("refund_id", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "id", "payment_id", name="refunds_primary"),
    )
    op.create_index("refunds_invoice", "refunds", ["account_id", "invoice_key"])
    op.create_index("refunds_payment", "refunds", ["account_id", "payment_id"])
    op.create_table(
        "stripe_events",
        sa.Column("account_id", sa.Text()),
        sa.Column("id", sa.Text()),
        sa.Column("payment_intent", sa.Text()),
        sa.Column("dispute_id", sa.Text()),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "id", name="stripe_events_primary"),
    )
    op.create_index("stripe_events_intent", "stripe_events", ["account_id", "payment_intent"])
    op.create_index("stripe_events_received", "stripe_events", ["received_at"])


def _index(name: str, table: str, condition: str, *columns: str, unique: bool = False) -> None:
    """Index *columns* of the rows that meet *condition*."""
    where = sa.text(condition)
    op.create_index(
        name, table, [*columns], unique=unique, sqlite_where=where, postgresql_where=where
    )


def downgrade() -> None:
    """Remove the tables."""
    for table in (
        "stripe_events",
        "refunds",
        "payments",
        "checkouts",
        "account_stripe_keys",
    ):
        op.drop_table(table)
