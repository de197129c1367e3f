"""The decimals of stored invoices: filled for those that are there, kept for those that come."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from schemas.money import CURRENCIES
from service.storage import schema
from service.storage.schema import migrate
from service.storage.tables import invoices
from tests.rows import an_invoice, lease_invoice, rows_of

WITHDRAWN = {"BGN": 2, "HRK": 2}
"""Currencies that ISO 4217 lists no more; invoices in them are stored."""


async def change(database, move, revision):
    """Bring *database* to *revision*, by *move*."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))

    def run(tx):
        config.attributes["connection"] = tx
        move(config, revision)

    await database.change_schema(run)


@pytest.fixture
async def old(empty):
    """A database on the schema before, with one invoice of each currency."""
    await change(empty, command.upgrade, "0005")
    row = text(
        "INSERT INTO invoices (account_id, key, id, customer, total_minor, currency, status,"
        " created_at, event_count, lease_token, request_id)"
        " VALUES ('dev', :code, :code, 'c', 12345, :code, 'paid', 1, 0, 0, 'r')"
    )
    rows = [{"code": code} for code in {**CURRENCIES, **WITHDRAWN}]
    await empty.write(lambda tx: tx.execute(row, rows).close())
    return empty


async def test_old_invoices_get_the_decimals_of_their_currency(old):
    """The migration fills in what every stored currency has, of withdrawn ones too."""
    await migrate(old)

    stored = {row["currency"]: row["decimals"] for row in await rows_of(old, invoices)}
    assert {**CURRENCIES, **WITHDRAWN} == stored


async def test_the_way_down_and_up_keeps_every_invoice(old):
    """Nothing but the column comes and goes."""
    await migrate(old)
    before = await rows_of(old, invoices)

    await change(old, command.downgrade, "0005")
    columns = await old.read(lambda tx: inspect(tx).get_columns("invoices"))
    assert "decimals" not in {column["name"] for column in columns}

    await migrate(old)
    assert before == await rows_of(old, invoices)


async def test_an_older_version_may_store_without_decimals(database):
    """The column is empty then, so that both versions can run on the new schema."""
    row = text(
        "INSERT INTO invoices (account_id, key, id, customer, total_minor, currency, status,"
        " created_at, event_count, lease_token, request_id)"
        " VALUES ('dev', 'k', '1', 'c', 12345, 'JPY', 'paid', 1, 0, 0, 'r')"
    )
    await database.write(lambda tx: tx.execute(row).close())

    assert [None] == [row["decimals"] for row in await rows_of(database, invoices)]


async def test_decimals_are_stored_with_the_invoice(store, database):
    """What an invoice comes with is there for its collection and for its account."""
    await store.accept(an_invoice(currency="KWD", decimals=3))

    assert [3] == [row["decimals"] for row in await rows_of(database, invoices)]
    assert 3 == (await lease_invoice(store)).decimals
