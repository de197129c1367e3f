"""Databases on the schemas of earlier versions, and the migrations between schemas."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, insert

from service.storage import schema
from service.storage.tables import metadata

MIGRATIONS = Path(schema.__file__).parent / "migrations"
REVISIONS = ("0001", "0002", "0003", "0004")
"""The last revision of every earlier version."""

ADDED = {
    "account_id": lambda row, accounts: accounts[row.get("invoice_key", row.get("delivery_id"))],
    "cause": lambda row, _: (
        "event" if row.get("number") == 1 or row.get("attempt_count") == 0 else "retry"
    ),
    "request_id": lambda row, _: row["key"],
    "traceparent": lambda *_: None,
}
"""The columns that later schemas have added, and their values where a migration adds them."""


def config(tx=None):
    """The configuration of Alembic, on the transaction *tx*."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["connection"] = tx
    return made


async def up(database, revision):
    """Apply the migrations up to *revision*."""
    await database.change_schema(lambda tx: command.upgrade(config(tx), revision))


async def down(database, revision):
    """Undo the migrations after *revision*."""
    await database.change_schema(lambda tx: command.downgrade(config(tx), revision))


def head():
    """The newest revision."""
    return ScriptDirectory.from_config(config()).get_current_head()


def reflected(tx):
    """The tables that the database has now."""
    existing = MetaData()
    # All of them at once: one by one, each would be read again for every table that refers to it.
    existing.reflect(tx)
    return [existing.tables[name] for name in metadata.tables if name in existing.tables]


def insert_rows(tx, rows):
    """Insert *rows*, by table and with the columns of the first schema, into the present schema."""
    existing = {table.name: table for table in reflected(tx)}
    accounts = {row["key"]: row["account_id"] for row in rows["invoices"]}
    accounts |= {row["id"]: row["account_id"] for row in rows["deliveries"]}
    for name, given in rows.items():
        names = existing[name].columns.keys()
        values = [
            {one: row[one] if one in row else ADDED[one](row, accounts) for one in names}
            for row in given
        ]
        tx.execute(insert(existing[name]), values)
