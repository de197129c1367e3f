"""The feed on PostgreSQL, where transactions commit in another order than that of their begin."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from sqlalchemy import insert, text, update

from service.database.engine import Lane
from service.storage import feed, steps
from service.storage.schema import prepare
from service.storage.tables import events
from tests.rows import a_step, add_delivery, an_event, an_invoice, read_all, rows_of


@pytest.fixture
def kind():
    """SQLite has one writer at a time."""
    return "postgresql"


@asynccontextmanager
async def transaction(database):
    """A transaction that has its number; it is rolled back unless the test commits it."""
    async with database._engines[Lane.WRITE].connect() as connection:
        await connection.execute(text("SELECT pg_current_xact_id()"))
        yield connection
        with suppress(Exception):
            await connection.rollback()


async def report(connection, invoice, number):
    """Write an event of *invoice* in an open transaction."""
    event = replace(an_event(f"event {number}"), callbacks=("invoice_notification",))
    step = a_step(invoice, status=None, event=event)
    assert [] == await connection.run_sync(steps.report_one, step, [], None)


async def accepted(store, *names):
    """New invoices without callback URLs."""
    made = [an_invoice(name, origin=None) for name in names]
    for one in made:
        await store.accept(one)
    return made


def told(items):
    """The invoice and the description of each item."""
    return [(one.invoice_id, one.description) for one in items]


async def test_a_reader_between_two_commits_skips_nothing(store, database):
    """What commits first and began last is given out after what began before it has ended."""
    one, two = await accepted(store, "1", "2")
    async with transaction(database) as older, transaction(database) as younger:
        await report(older, one, "a")
        await report(younger, two, "b")
        await younger.commit()
        between, after = await read_all(store)
        await older.commit()
    behind, _ = await read_all(store, after=after)

    assert [] == between
    assert [("1", "event a"), ("2", "event b")] == told(behind)


async def test_a_transaction_that_is_rolled_back_hides_nothing(store, database):
    """When an older transaction ends without a commit, what waited for it is given out."""
    one, two = await accepted(store, "1", "2")
    async with transaction(database) as older, transaction(database) as younger:
        await report(older, one, "a")
        await report(younger, two, "b")
        await younger.commit()
        await older.rollback()

        assert [("2", "event b")] == told((await read_all(store))[0])


async def test_the_events_of_an_invoice_keep_their_order(store, database):
    """An event that an older transaction writes later comes after the earlier event."""
    (one,) = await accepted(store, "1")
    async with transaction(database) as older:
        async with transaction(database) as younger:
            await report(younger, one, "a")
            await younger.commit()
        await report(older, one, "b")
        await older.commit()

    assert [("1", "event a"), ("1", "event b")] == told((await read_all(store, limit=1))[0])


async def test_an_event_behind_a_cursor_of_its_invoice_is_not_skipped(store, database):
    """A reader that has seen the earlier event is given the later one of an older transaction."""
    (one, other) = await accepted(store, "1", "2")
    async with transaction(database) as older:
        async with transaction(database) as younger:
            await report(younger, one, "a")
            await younger.commit()
        _, after = await read_all(store)
        await report(older, one, "b")
        await report(older, other, "c")
        _, after = await read_all(store, after=after)
        await older.commit()

    assert {("1", "event a"), ("1", "event b"), ("2", "event c")} == set(
        told((await read_all(store, after=after))[0])
    )


async def test_a_writing_transaction_anywhere_delays_the_feed_and_loses_nothing(store, database):
    """A transaction that writes and stays open holds back what comes after it, for so long."""
    async with transaction(database):
        await add_delivery(store, "1")
        held, after = await read_all(store)
        heads = await store.history.feed_heads(["dev"])

    assert ([], {}) == (held, heads)
    assert ["msg_1"] == [one.id for one in (await read_all(store, after=after))[0]]


async def test_readers_between_many_writers_skip_nothing(store, database):
    """Whatever several writers commit in whatever order, a reader is told all of it in order."""
    made = await accepted(store, *map(str, range(8)))
    seen, has_ended = [], asyncio.Event()

    async def write(worker):
        for number in range(12):
            async with transaction(database) as connection:
                for invoice in made[worker::4] if number % 2 else made[worker : worker + 1]:
                    await report(connection, invoice, f"{worker}-{number}")
                await connection.commit()

    async def read():
        after = None
        while True:
            is_last = has_ended.is_set()
            items, after = await read_all(store, after=after, limit=3)
            seen.extend(told(items))
            if is_last:
                return
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    await asyncio.gather(*map(write, range(4)))
    has_ended.set()
    await reader

    stored = [(row["sequence"], row["description"]) for row in await rows_of(database, events)]
    assert sorted(name for _, name in stored) == sorted(name for _, name in seen)
    for invoice in made:
        in_order = [name for id_, name in seen if id_ == invoice.id]
        rows = [row for row in await rows_of(database, events) if row["invoice_key"] == invoice.key]
        assert [row["description"] for row in rows] == in_order


async def test_a_database_restored_into_another_server_goes_on(store, database):
    """Where the numbers of transactions are smaller, new events come after the stored ones."""
    await add_delivery(store, "1")
    far = 10**15
    moved = update(events).values(position=events.c.position + far)
    await database.write(lambda tx: tx.execute(moved).close())

    await asyncio.gather(prepare(database), prepare(database))
    _, after = await read_all(store)
    await add_delivery(store, "2")
    await prepare(database)

    assert ["msg_1", "msg_2"] == [one.id for one in (await read_all(store))[0]]
    assert ["msg_2"] == [one.id for one in (await read_all(store, after=after))[0]]


async def test_processes_that_start_together_on_a_restored_database_do_not_fail(store, database):
    """Of two that prepare the feed at one moment, the second one finds it prepared."""
    await add_delivery(store, "1")
    moved = update(events).values(position=events.c.position + 10**15)
    await database.write(lambda tx: tx.execute(moved).close())

    async with transaction(database) as first, transaction(database) as second:
        await first.run_sync(feed.rebase)
        rebased = asyncio.create_task(second.run_sync(feed.rebase))
        while not await waiting_statements(database):
            assert not rebased.done()
        await first.commit()
        await rebased
        await second.commit()

    assert ["msg_1"] == [one.id for one in (await read_all(store))[0]]


async def waiting_statements(database):
    """How many statements wait for another transaction."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return await database.read(lambda tx: tx.scalar(waiting))


async def test_an_older_version_gives_its_events_their_position(store, database):
    """A process that does not know the column inserts a right position: it is the default."""
    await add_delivery(store, "1")
    _, after = await read_all(store)
    (row,) = await rows_of(database, events)
    row = {key: one for key, one in row.items() if key not in {"position", "callbacks"}}
    row |= {"sequence": 2, "description": "Refunded"}

    await database.write(lambda tx: tx.execute(insert(events), row).close())

    assert [("1", "Refunded")] == told((await read_all(store, after=after))[0])
