"""Attempts have a cause, and invoices the id and the trace of the request that created them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of attempts that exist, the first gets the cause `event`, others `retry`."""
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
    """Remove the columns; deliveries that are pending because of a redelivery stay pending."""
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
