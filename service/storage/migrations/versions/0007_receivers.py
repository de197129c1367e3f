"""Deliveries are counted by receiver, and a receiver has a state of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_PENDING = sa.text("status = 'pending'")
_ANSWERED = sa.text("answered_at IS NOT NULL")


def upgrade() -> None:
    """
    Add columns and a table; an older version that runs beside this one does not use them.

    It needs no index by origin, but finds due deliveries more slowly without it. With it, a plan
    of PostgreSQL may take it for the new one.
    """
    op.add_column(
        "deliveries", sa.Column("receiver", _binary_text(), nullable=False, server_default=" ")
    )
    op.add_column(
        "deliveries",
        sa.Column("is_asked", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    # The API user's part of the URL is not known here.
    op.execute(
        "UPDATE deliveries SET receiver = account_id || ' ' || origin WHERE status = 'pending'"
    )
    op.drop_index("deliveries_due", table_name="deliveries")
    op.create_index(
        "deliveries_waiting",
        "deliveries",
        ["receiver", "due_at"],
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    )
    op.create_index(
        "deliveries_asked",
        "deliveries",
        ["receiver"],
        sqlite_where=sa.text("is_asked = 1"),
        postgresql_where=sa.text("is_asked"),
    )
    op.create_table(
        "receivers",
        sa.Column("receiver", _binary_text(), primary_key=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("answered_at", sa.BigInteger()),
        sa.Column("failing_since", sa.BigInteger()),
        sa.Column("cooldown_until", sa.BigInteger()),
        sa.Column("held_until", sa.BigInteger()),
    )
    op.create_index(
        "receivers_answered",
        "receivers",
        ["answered_at"],
        sqlite_where=_ANSWERED,
        postgresql_where=_ANSWERED,
    )


def downgrade() -> None:
    """Remove what was added."""
    op.drop_table("receivers")
    op.drop_index("deliveries_asked", table_name="deliveries")
    op.drop_index("deliveries_waiting", table_name="deliveries")
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["origin", "due_at"],
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    )
    with op.batch_alter_table("deliveries") as batch:
        batch.drop_column("is_asked")
        batch.drop_column("receiver")


def _binary_text() -> sa.Text:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
