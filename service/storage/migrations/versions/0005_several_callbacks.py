"""An invoice may have several evaluated callbacks, and an event a delivery for each of them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_MOVED = ("callback", "url", "origin")


def upgrade() -> None:
    """Move the one callback of each invoice into a list."""
    op.add_column("invoices", sa.Column("callbacks", sa.Text()))
    quoted = " || ',' || ".join(f"CAST({_quote()}({name}) AS TEXT)" for name in _MOVED)
    op.execute(
        f"UPDATE invoices SET callbacks = '[[' || {quoted} || ']]'"  # noqa: S608 -- our own names
        " WHERE callback IS NOT NULL"
    )
    with op.batch_alter_table("invoices") as batch:
        for name in _MOVED:
            batch.drop_column(name)
    op.drop_index("deliveries_event", table_name="deliveries")
    op.create_index(
        "deliveries_order",
        "deliveries",
        ["account_id", "invoice_key", "callback", "sequence"],
        unique=True,
    )


def downgrade() -> None:
    """Move the first callback of each list back; fails if an event has several deliveries."""
    op.drop_index("deliveries_order", table_name="deliveries")
    op.create_index(
        "deliveries_event", "deliveries", ["account_id", "invoice_key", "sequence"], unique=True
    )
    for position, name in enumerate(_MOVED):
        op.add_column("invoices", sa.Column(name, sa.Text()))
        op.execute(
            f"UPDATE invoices SET {name} = {_first_of_list(position)}"  # noqa: S608 -- our own names
            " WHERE callbacks IS NOT NULL"
        )
    with op.batch_alter_table("invoices") as batch:
        batch.drop_column("callbacks")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _quote() -> str:
    """The function of this database that makes a text a JSON string."""
    return "json_quote" if _is_sqlite() else "to_json"


def _first_of_list(position: int) -> str:
    if _is_sqlite():
        return f"json_extract(callbacks, '$[0][{position}]')"
    return f"CAST(callbacks AS JSON) -> 0 ->> {position}"
