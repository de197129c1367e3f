"""Attempts tell why they were made, and invoices by which request they came."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what earlier versions can be said to have done: an event first, then retries."""
    op.add_column("invoices", sa.Column("request_id", sa.Text()))
    op.add_column("invoices", sa.Column("traceparent", sa.Text()))
    op.add_column("deliveries", sa.Column("cause", sa.Text()))
    op.add_column("attempts", sa.Column("cause", sa.Text()))
    # Their request ids are unknown; the key is unique as well.
    op.execute("UPDATE invoices SET request_id = key")
    op.execute(
        "UPDATE deliveries SET cause = CASE WHEN attempt_count = 0 THEN 'event' ELSE 'retry' END"
    )
    op.execute("UPDATE attempts SET cause = CASE WHEN number = 1 THEN 'event' ELSE 'retry' END")
    _require("invoices", "request_id")
    _require("deliveries", "cause")
    _require("attempts", "cause")


def downgrade() -> None:
    """Forget it again; what is pending because of a redelivery stays pending."""
    _drop("invoices", "request_id", "traceparent")
    _drop("deliveries", "cause")
    _drop("attempts", "cause")


def _require(table: str, name: str) -> None:
    with op.batch_alter_table(table) as batch:
        batch.alter_column(name, existing_type=sa.Text(), nullable=False)


def _drop(table: str, *names: str) -> None:
    with op.batch_alter_table(table) as batch:
        for name in names:
            batch.drop_column(name)
