"""Receivers have ids, can be paused, and have counts of every hour; accounts have an address."""

from hashlib import sha256

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_ADDED = {
    "id": sa.Text,
    "paused_at": sa.BigInteger,
    "failed_at": sa.BigInteger,
    "reason": sa.Text,
    "answering_since": sa.BigInteger,
    "notice": sa.Text,
}
"""Columns that may be null: an older version, which does not know them, inserts rows as well."""

_INDEXES = {
    "receivers_failing": (["failing_since"], "failing_since IS NOT NULL AND notice IS NULL"),
    "receivers_still_failing": (
        ["notice", "failing_since"],
        "failing_since IS NOT NULL AND notice IS NOT NULL",
    ),
    "receivers_recovering": (
        ["answering_since"],
        "failing_since IS NULL AND notice IS NOT NULL",
    ),
}

_COUNTS = (
    *("delivered_count", "failed_count"),
    *(
        f"within_{one}_ms"
        for one in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
    ),
    "longer",
)

_BATCH = 1_000


def upgrade() -> None:
    """Add the columns and the table; an older version that runs beside this one pauses nothing."""
    for name, type_ in _ADDED.items():
        op.add_column("receivers", sa.Column(name, type_()))
    op.add_column("accounts", sa.Column("email", sa.Text()))
    _fill_ids()
    op.create_index("receivers_id", "receivers", ["id", "receiver"])
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "receivers", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "receiver_hours",
        sa.Column("receiver", sa.Text().with_variant(sa.Text(collation="C"), "postgresql")),
        sa.Column("hour", sa.BigInteger(), autoincrement=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint("receiver", "hour", name="receiver_hours_primary"),
    )
    op.create_index("receiver_hours_hour", "receiver_hours", ["hour", "receiver"])


def _fill_ids() -> None:
    """Give the receivers that are known their ids, some at a time."""
    tx = op.get_bind()
    table = sa.table("receivers", sa.column("receiver", sa.Text), sa.column("id", sa.Text))
    name = table.c.receiver
    filling = (
        sa.update(table).where(name == sa.bindparam("known")).values(id=sa.bindparam("new_id"))
    )
    after = ""
    while names := tx.scalars(
        sa.select(name).where(name > after).order_by(name).limit(_BATCH)
    ).all():
        rows = [
            {"known": one, "new_id": f"rcv_{sha256(one.encode()).hexdigest()[:32]}"}
            for one in names
        ]
        tx.execute(filling, rows).close()
        after = names[-1]


def downgrade() -> None:
    """Remove what was added."""
    op.drop_table("receiver_hours")
    for name in ("receivers_id", *_INDEXES):
        op.drop_index(name, table_name="receivers")
    with op.batch_alter_table("accounts") as batch:
        batch.drop_column("email")
    with op.batch_alter_table("receivers") as batch:
        for name in _ADDED:
            batch.drop_column(name)
