"""Invoices store the decimals of their currency; the migration adds them to existing invoices."""

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
"""Currencies that ISO 4217 has withdrawn; there may be stored invoices in them."""


async def change(database, move, revision):
    """Migrate *database* to *revision*, up or down as *move* says."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))

    def run(tx):
        config.attributes["connection"] = tx
        move(config, revision)

    await database.change_schema(run)


@pytest.fixture
async def old(empty):
    """A database on the previous schema, with one invoice of each currency."""
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
    """The migration adds the decimals of every stored currency, including withdrawn ones."""
    await migrate(old)

    stored = {row["currency"]: row["decimals"] for row in await rows_of(old, invoices)}
    assert {**CURRENCIES, **WITHDRAWN} == stored


async def test_downgrade_and_upgrade_keep_every_invoice(old):
    """A downgrade removes only the column, and an upgrade adds it again."""
    await migrate(old)
    before = await rows_of(old, invoices)

    await change(old, command.downgrade, "0005")
    columns = await old.read(lambda tx: inspect(tx).get_columns("invoices"))
    assert "decimals" not in {column["name"] for column in columns}

    await migrate(old)
    assert before == await rows_of(old, invoices)


async def test_an_older_version_may_store_without_decimals(database):
    """The column stays empty then, so that both versions can use the new schema."""
    row = text(
        "INSERT INTO invoices (account_id, key, id, customer, total_minor, currency, status,"
        " created_at, event_count, lease_token, request_id)"
        " VALUES ('dev', 'k', '1', 'c', 12345, 'JPY', 'paid', 1, 0, 0, 'r')"
    )
    await database.write(lambda tx: tx.execute(row).close())

    assert [None] == [row["decimals"] for row in await rows_of(database, invoices)]


async def test_decimals_are_stored_with_the_invoice(store, database):
    """The collector and the account can read the decimals of an accepted invoice."""
    await store.accept(an_invoice(currency="KWD", decimals=3))

    assert [3] == [row["decimals"] for row in await rows_of(database, invoices)]
    assert 3 == (await lease_invoice(store)).decimals
