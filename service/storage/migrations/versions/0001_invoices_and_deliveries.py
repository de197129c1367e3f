"""Invoices, their events, the deliveries of those and every attempt made."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "invoices",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text()),
        sa.Column("customer", sa.Text(), nullable=False),
        sa.Column("customer_email", sa.Text()),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("callback_url", sa.Text()),
        sa.Column("callback", sa.Text()),
        sa.Column("url", sa.Text()),
        sa.Column("origin", sa.Text()),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("leased_until", sa.BigInteger()),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("account_id", "id", name="invoices_account_id_id"),
    )
    op.create_index("invoices_newest", "invoices", ["account_id", "key"])
    op.create_index(
        "invoices_due",
        "invoices",
        ["due_at"],
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "events",
        sa.Column("invoice_key", sa.Text(), sa.ForeignKey("invoices.key"), primary_key=True),
        sa.Column("sequence", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("paid", sa.Boolean(), nullable=False),
        sa.Column("collector", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("invoice_key", sa.Text(), sa.ForeignKey("invoices.key"), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("callback", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("failure_count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger()),
        sa.Column("leased_until", sa.BigInteger()),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
    )
    op.create_index("deliveries_invoice", "deliveries", ["invoice_key", "sequence"], unique=True)
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["due_at", "origin"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "attempts",
        sa.Column("delivery_id", sa.Text(), sa.ForeignKey("deliveries.id"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.Column("response_body", sa.Text()),
    )
    op.create_table(
        "origins",
        sa.Column("origin", sa.Text(), primary_key=True),
        sa.Column("held_until", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    """Drop them, and everything in them."""
    for table in ("origins", "attempts", "deliveries", "events", "invoices"):
        op.drop_table(table)
