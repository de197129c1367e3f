"""The position of each event in the feed of its account, and the ids of its callbacks."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_OF_EVENT = (
    "FROM deliveries WHERE deliveries.account_id = events.account_id "
    "AND deliveries.invoice_key = events.invoice_key AND deliveries.sequence = events.sequence"
)


def upgrade() -> None:
    """
    Add the columns, with the ids of the deliveries that are kept, and the index.

    Events that are stored already come first, in the order of their invoices. On PostgreSQL, a
    process of an older version gives its events a right position, because it is the default.
    """
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    op.add_column(
        "events",
        sa.Column("position", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
    )
    op.add_column("events", sa.Column("callbacks", sa.Text()))
    made = "json_object_agg(callback, id)" if is_postgresql else "json_group_object(callback, id)"
    op.execute(
        f"UPDATE events SET callbacks = (SELECT CAST({made} AS TEXT) {_OF_EVENT}) "  # noqa: S608 -- our own text
        f"WHERE EXISTS (SELECT 1 {_OF_EVENT})"
    )
    if is_postgresql:
        op.execute(
            "ALTER TABLE events ALTER COLUMN position "
            "SET DEFAULT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)"
        )
    op.create_index("events_feed", "events", ["account_id", "position", "invoice_key", "sequence"])
    op.create_table(
        "feed_bases", sa.Column("base", sa.BigInteger(), primary_key=True, autoincrement=False)
    )


def downgrade() -> None:
    """Remove what was added; positions are given anew by an upgrade."""
    op.drop_table("feed_bases")
    op.drop_index("events_feed", table_name="events")
    with op.batch_alter_table("events") as batch:
        batch.drop_column("callbacks")
        batch.drop_column("position")
