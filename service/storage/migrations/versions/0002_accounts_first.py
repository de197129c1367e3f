"""Keys begin with the account, foreign keys go, due deliveries are indexed by origin first."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_PENDING = sa.text("status = 'pending'")
_DEAD = sa.text("status = 'dead'")
_COLLECTED = sa.text("due_at IS NOT NULL")

_CONVENTION = {
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
"""What PostgreSQL calls the constraints that 0001 left without a name."""


def upgrade() -> None:
    """Put the account in front of every key."""
    _drop_indexes("invoices_newest", "invoices_due", "deliveries_invoice", "deliveries_due")
    _drop_references()
    for child, parent, reference, key in (
        ("events", "invoices", "invoice_key", "key"),
        ("attempts", "deliveries", "delivery_id", "id"),
    ):
        op.add_column(child, sa.Column("account_id", sa.Text()))
        of_child, of_parent = _named(child, reference), _named(parent, key)
        account_id = sa.select(of_parent.c.account_id).where(
            of_parent.c[key] == of_child.c[reference]
        )
        op.execute(sa.update(of_child).values(account_id=account_id.scalar_subquery()))
    for table, columns in (
        ("invoices", ["account_id", "key"]),
        ("deliveries", ["account_id", "id"]),
        ("events", ["account_id", "invoice_key", "sequence"]),
        ("attempts", ["account_id", "delivery_id", "number"]),
    ):
        _change_key(table, f"{table}_pkey", f"{table}_primary", columns)
    _create_index("invoices_due", "invoices", ["due_at"], where=_COLLECTED)
    op.create_index(
        "deliveries_event", "deliveries", ["account_id", "invoice_key", "sequence"], unique=True
    )
    _create_index("deliveries_due", "deliveries", ["origin", "due_at"], where=_PENDING)
    _create_index("deliveries_dead", "deliveries", ["account_id", "id"], where=_DEAD)


def downgrade() -> None:
    """Remove the account from the keys; no row is lost."""
    _drop_indexes("invoices_due", "deliveries_event", "deliveries_due", "deliveries_dead")
    for table, columns in (
        ("invoices", ["key"]),
        ("deliveries", ["id"]),
        ("events", ["invoice_key", "sequence"]),
        ("attempts", ["delivery_id", "number"]),
    ):
        _change_key(table, f"{table}_primary", f"{table}_pkey", columns)
    for table in ("events", "attempts"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("account_id")
    _refer("events", "events_invoice_key_fkey", ["invoice_key"], ["key"])
    _refer("deliveries", "deliveries_invoice_key_fkey", ["invoice_key"], ["key"])
    _refer("attempts", "attempts_delivery_id_fkey", ["delivery_id"], ["id"])
    op.create_index("invoices_newest", "invoices", ["account_id", "key"])
    _create_index("invoices_due", "invoices", ["due_at"], where=_COLLECTED)
    op.create_index("deliveries_invoice", "deliveries", ["invoice_key", "sequence"], unique=True)
    _create_index("deliveries_due", "deliveries", ["due_at", "origin"], where=_PENDING)


_PARENTS = {"events": "invoices", "deliveries": "invoices", "attempts": "deliveries"}


def _named(table: str, key: str) -> sa.TableClause:
    return sa.table(table, sa.column("account_id"), sa.column(key))


def _drop_indexes(*names: str) -> None:
    for name in names:
        op.drop_index(name, table_name=name.partition("_")[0])


def _drop_references() -> None:
    # SQLite makes a table anew to change it: first those that nothing else refers to.
    for table, column in (
        ("attempts", "delivery_id"),
        ("deliveries", "invoice_key"),
        ("events", "invoice_key"),
    ):
        with op.batch_alter_table(table, naming_convention=_CONVENTION) as batch:
            batch.drop_constraint(f"{table}_{column}_fkey", type_="foreignkey")


def _change_key(table: str, before: str, name: str, columns: list[str]) -> None:
    with op.batch_alter_table(table, naming_convention=_CONVENTION) as batch:
        batch.drop_constraint(before, type_="primary")
        for column in columns:
            batch.alter_column(column, nullable=False)
        batch.create_primary_key(name, columns)


def _refer(table: str, name: str, columns: list[str], to: list[str]) -> None:
    with op.batch_alter_table(table) as batch:
        batch.create_foreign_key(name, _PARENTS[table], columns, to)


def _create_index(name: str, table: str, columns: Sequence[str], *, where: Any) -> None:
    op.create_index(name, table, list(columns), sqlite_where=where, postgresql_where=where)
