import asyncio

import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError

from schemas.money import CURRENCIES
from service.database.opening import open_database
from service.errors import SchemaError
from service.storage.schema import migrate, prepare
from service.storage.tables import invoices, metadata
from tests.rows import (
    TWO,
    a_callback,
    a_delivery,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    failed,
    lease_deliveries,
    lease_invoice,
    rows_of,
)
from tests.storage.older import REVISIONS, config, down, head, insert_rows, reflected, up

ROWS = {
    "invoices": [
        {
            **{"key": "k1", "account_id": "dev", "id": "1", "title": None, "customer": "Ms. A"},
            **{"customer_email": None, "total_minor": 2**53 + 1, "currency": "USD"},
            **{"status": "paid", "created_at": 1, "callback_url": "https://a", "callback": "paid"},
            **{
                "url": 'https://a/é?"\\',
                "origin": "https://a:443",
                "event_count": 2,
                "due_at": None,
            },
            **{"leased_until": None, "lease_token": 3},
        },
        {
            **{"key": "k2", "account_id": "other", "id": "1", "title": "très", "customer": "B"},
            **{"customer_email": "b@example.com", "total_minor": 1, "currency": "EUR"},
            **{"status": "received", "created_at": 2, "callback_url": None, "callback": None},
            **{"url": None, "origin": None, "event_count": 1, "due_at": 2},
            **{"leased_until": 3, "lease_token": 1},
        },
    ],
    "events": [
        {"invoice_key": key, "sequence": number, "description": "d", "paid": number == 2}
        | {"collector": "sandbox", "at": number}
        for key, number in (("k1", 1), ("k1", 2), ("k2", 1))
    ],
    "deliveries": [
        {"id": id_, "account_id": account_id, "invoice_key": key, "sequence": number}
        | {"callback": "paid", "url": "https://a/1", "origin": "https://a:443", "body": b"\x00{}"}
        | {"status": status, "reason": None, "attempt_count": 2, "failure_count": 1}
        | {"created_at": 1, "due_at": 9, "settled_at": None, "leased_until": 8, "lease_token": 2}
        for id_, account_id, key, number, status in (
            ("m1", "dev", "k1", 1, "dead"),
            ("m2", "dev", "k1", 2, "pending"),
            ("m3", "other", "k2", 1, "pending"),
        )
    ],
    "attempts": [
        {"delivery_id": id_, "number": number, "started_at": 1, "duration_ms": 12}
        | {"status_code": None, "outcome": "lost", "detail": "d", "response_body": None}
        for id_, number in (("m1", 1), ("m1", 2), ("m3", 10))
    ],
    "origins": [{"origin": "https://a:443", "held_until": 7}],
}
"""Rows of the first schema; two accounts use the same id."""


def described(tx):
    """Everything that the database knows about its tables, except the order of their columns."""
    inspector = inspect(tx)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(name)
            },
            "primary key": inspector.get_pk_constraint(name),
            "unique": inspector.get_unique_constraints(name),
            "references": inspector.get_foreign_keys(name),
            "indexes": {
                index["name"]: (index["column_names"], index["unique"], condition(index))
                for index in inspector.get_indexes(name)
            },
        }
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }


def without_key_names(tables):
    """The description of *tables* without the names of keys: SQLite may omit them."""
    return {
        name: {
            **table,
            "primary key": table["primary key"]["constrained_columns"],
            "references": [{**reference, "name": None} for reference in table["references"]],
        }
        for name, table in tables.items()
    }


def condition(index):
    """The condition of a partial index."""
    options = index.get("dialect_options", {})
    return [str(value) for name, value in options.items() if name.endswith("_where")]


def stored(tx):
    """All rows by table, on whatever schema."""
    return {
        table.name: sorted((dict(row) for row in tx.execute(select(table)).mappings()), key=repr)
        for table in reflected(tx)
    }


async def test_an_empty_database_gets_the_newest_schema(empty):
    """The first migration makes every table, and returns the old and the new revision."""
    assert (None, head()) == await migrate(empty)

    assert {*metadata.tables, "alembic_version"} == set(
        await empty.read(lambda tx: inspect(tx).get_table_names())
    )


async def test_migrating_again_changes_nothing(database):
    """A migration on the newest schema changes nothing, so that every start may migrate."""
    before = await database.read(described)

    assert (head(), head()) == await migrate(database)

    assert before == await database.read(described)


async def test_migrating_again_keeps_all_rows(store, database):
    """A restart loses no row."""
    await store.accept(an_invoice())
    before = await rows_of(database, invoices)

    await migrate(database)

    assert before == await rows_of(database, invoices)


async def test_concurrent_migrations_all_succeed(url):
    """Of several processes that migrate an empty database, one makes the schema and all succeed."""
    databases = [open_database(url) for _ in range(3)]
    try:
        given = await asyncio.gather(*map(migrate, databases))
    finally:
        for database in databases:
            await database.close()

    assert [(None, head()), (head(), head()), (head(), head())] == sorted(
        given, key=lambda revisions: revisions[0] or ""
    )


async def test_declared_tables_match_the_migrations(database):
    """The tables in the code and those in the database are the same, including the indexes."""

    def differences(tx):
        return compare_metadata(MigrationContext.configure(tx), metadata)

    assert [] == await database.read(differences)


async def test_every_detail_of_the_tables_matches_the_migrations(empty):
    """Keys, the column order of indexes and their conditions are the same too."""
    await empty.change_schema(metadata.create_all)
    declared = await empty.read(described)
    await empty.change_schema(metadata.drop_all)

    await migrate(empty)

    assert declared == await empty.read(described)
    conditions = [condition for _, _, condition in declared["deliveries"]["indexes"].values()]
    assert [False, True, True, True] == sorted(map(bool, conditions))


async def test_migrations_can_be_undone_and_repeated(database):
    """Each revision can be undone and applied again, and the schema is the same."""
    before = await database.read(described)

    await down(database, "base")
    assert {} == await database.read(described)

    await migrate(database)
    assert before == await database.read(described)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_rows_of_an_older_schema_survive_upgrade_and_downgrade(empty, revision):
    """A migration loses and changes no stored value, in either direction."""
    await up(empty, revision)
    await empty.write(insert_rows, ROWS)
    before, first = await empty.read(stored), await empty.read(described)

    await migrate(empty)
    after = await empty.read(stored)
    await down(empty, revision)

    assert without_key_names(first) == without_key_names(await empty.read(described))
    assert before == await empty.read(stored)
    accounts = {"k1": "dev", "k2": "other", "m1": "dev", "m3": "other"}
    causes = {1: "event", 2: "retry", 10: "retry"}
    ids = {(row["invoice_key"], row["sequence"]): row["id"] for row in before["deliveries"]}
    for row in after["events"]:
        # The ids of deliveries are stored with their events, in any form of JSON.
        row["callbacks"] = orjson.loads(row["callbacks"])
    for row in before["events"]:
        added = {"account_id": accounts[row["invoice_key"]], "position": 0}
        told = {"callbacks": {"paid": ids[row["invoice_key"], row["sequence"]]}}
        assert {**row, **added, **told} in after["events"]
    for row in before["attempts"]:
        added = {"account_id": accounts[row["delivery_id"]], "cause": causes[row["number"]]}
        added["transmission"] = None
        assert {**row, **added} in after["attempts"]
    # Tables that the older schemas did not have are empty.
    sizes = dict.fromkeys(after, 0) | {name: len(rows) for name, rows in before.items()}
    assert sizes == {name: len(rows) for name, rows in after.items()}
    assert [as_of_now(row) for row in before["invoices"]] == after["invoices"]
    assert [delivery_of_now(row) for row in before["deliveries"]] == after["deliveries"]
    assert before["origins"] == after["origins"]


def delivery_of_now(row):
    """A *row* of `deliveries` of an older schema, as it is on the newest schema."""
    # The receiver of a settled delivery is set when it is redelivered.
    is_pending = row["status"] == "pending"
    receiver = f"{row['account_id']} {row['origin']}" if is_pending else " "
    return {**row, "cause": "retry", "receiver": receiver, "is_asked": False, "leased_by": None}


def as_of_now(row):
    """A *row* of `invoices` of an older schema, as it is on the newest schema."""
    kept = {name: value for name, value in row.items() if name not in {"callback", "url", "origin"}}
    evaluated = [[row["callback"], row["url"], row["origin"]]]
    callbacks = orjson.dumps(evaluated).decode() if row["callback"] else None
    added = {"request_id": row["key"], "traceparent": None, "callbacks": callbacks}
    unknown = dict.fromkeys(
        ("locale", "amount_refunded_minor", "overpaid_minor", "mismatch", "leased_by")
    )
    return {**kept, **added, **unknown, "decimals": CURRENCIES[row["currency"]]}


@pytest.mark.parametrize("revision", REVISIONS)
async def test_rows_of_the_newest_schema_survive_downgrade_and_upgrade(store, database, revision):
    """A downgrade keeps all stored values, except request ids and places in the feed."""
    await add_two_events(store)
    await add_delivery(store, "2", account_id="other")
    await store.accept(an_invoice("3", origin=None))
    delivery, *_ = await lease_deliveries(store, limit=1)
    await store.settle(failed(delivery, due_at=delivery.created_at))
    before = await database.read(stored)
    if revision < "0004":
        for row in before["invoices"]:
            row["request_id"] = row["key"]
    for row in before["events"]:
        row["position"] = 0

    await down(database, revision)
    await migrate(database)

    after = await database.read(stored)
    for row in [*before["events"], *after["events"]]:
        row["callbacks"] = orjson.loads(row["callbacks"])
    assert before == after
    assert delivery.id == (await lease_deliveries(store, limit=1))[0].id


async def test_several_deliveries_of_an_event_prevent_a_downgrade(store, database):
    """Older schemas have one delivery for each event: the downgrade fails before it loses one."""
    callbacks = (a_callback(TWO), a_callback(TWO, name="another"))
    await store.accept(an_invoice(callbacks=callbacks))
    step = a_step(await lease_invoice(store), event=an_event())
    new = [a_delivery(step), a_delivery(step, callback=1, delivery_id="msg_2")]
    assert new == await store.take_step(step, new)
    before = await database.read(stored)

    with pytest.raises(IntegrityError):
        await down(database, "0004")

    assert before == await database.read(stored)


async def test_a_failed_migration_changes_nothing(empty):
    """All migrations run in one transaction: no part of a failed one stays."""

    def make_in_the_way(tx):
        tx.exec_driver_sql("CREATE TABLE attempts (other TEXT)")

    await empty.write(make_in_the_way)
    before = await empty.read(described)

    with pytest.raises(Exception, match="attempts"):
        await migrate(empty)

    assert before == await empty.read(described)


def test_there_is_one_newest_revision():
    """The revisions form one line without branches."""
    assert 1 == len(ScriptDirectory.from_config(config()).get_heads())


async def test_a_schema_of_a_newer_version_is_refused(database):
    """A schema that this version does not know stops the start with an error and is not changed."""
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    await database.write(lambda tx: tx.execute(newer).close())

    with pytest.raises(SchemaError, match=r"9999.*newer version"):
        await migrate(database)


# Preparing


async def test_concurrent_starts_find_the_newest_schema(url):
    """Of several processes that start on an empty database, one makes the schema; all succeed."""
    databases = [open_database(url) for _ in range(3)]
    try:
        await asyncio.gather(*map(prepare, databases))

        assert {*metadata.tables} == set(await databases[0].read(described))
    finally:
        for database in databases:
            await database.close()


@pytest.mark.parametrize("revision", ["0001", "9999"])
async def test_an_older_or_newer_schema_is_refused(database, revision):
    """On another schema nothing is changed, and the error names the command that migrates."""
    other = text(f"UPDATE alembic_version SET version_num = '{revision}'")
    await database.write(lambda tx: tx.execute(other).close())

    with pytest.raises(SchemaError, match=rf"{revision}.*{head()}.*invoices migrate"):
        await prepare(database)
