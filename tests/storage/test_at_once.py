"""What PostgreSQL does in one statement: it has the same results as a transaction of several."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Engine, event, select

from service.database.at_once import AtOnce
from service.database.group_commit import GroupCommit
from service.database.postgres import PostgresDatabase
from service.domain.states import Acceptance
from service.errors import StorageUnavailable
from service.storage.store import Store
from service.storage.tables import attempts, deliveries, events
from tests.clock import START
from tests.rows import (
    LEASE,
    a_delivery,
    a_failing_state,
    a_step,
    add_delivery,
    an_event,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    rows_of,
)

COUNT = 3


@pytest.fixture
async def database(postgres_url):
    """A database on the newest schema."""
    database = PostgresDatabase(postgres_url)
    yield database
    await database.close()


@pytest.fixture
def store(database):
    """The store on that database."""
    return Store(database)


@pytest.fixture
def statements():
    """The first words of the statements that are sent, as a tracer of SQLAlchemy sees them."""
    seen = []

    def record(_connection, _cursor, statement, *_):
        seen.append(statement.partition(" ")[0])

    event.listen(Engine, "before_cursor_execute", record)
    yield seen
    event.remove(Engine, "before_cursor_execute", record)


async def accepted(store, count=COUNT):
    """Invoices that this process has leased."""
    made = [an_invoice(f"{n}") for n in range(count)]
    await asyncio.gather(*(store.accept(one, START + LEASE) for one in made))
    return made


async def take(store, invoice, number, *, leased_until=START + LEASE):
    """Take the step that pays *invoice*."""
    step = a_step(invoice, event=an_event(delivery_id=f"msg_{number}"))
    return await store.take_step(step, [a_delivery(step, leased_until=leased_until)])


async def test_an_invoice_takes_three_statements(store, statements):
    """An acceptance, a step and a settlement are one statement each."""
    (invoice,) = await accepted(store, 1)
    (delivery,) = await take(store, invoice, 1)

    assert await store.settle(delivered(delivery))

    assert ["INSERT", "WITH", "WITH"] == statements


async def accept_begun(store, invoice, number, *, leased_until=START + LEASE):
    """Accept *invoice* with the step that pays it."""
    step = a_step(invoice, event=an_event(delivery_id=f"msg_{number}"))
    return await store.accept_begun(step, [a_delivery(step, leased_until=leased_until)])


async def test_an_invoice_that_is_accepted_with_a_step_takes_two_statements(store, statements):
    """The acceptance with the step is one statement, and the settlement is another one."""
    acceptance, (delivery,) = await accept_begun(store, an_invoice("1"), 1)

    assert Acceptance.STORED is acceptance
    assert await store.settle(delivered(delivery))
    assert ["WITH", "WITH"] == statements


async def test_of_invoices_that_come_together_each_new_one_is_stored_once(store, database):
    """Where not all ids are new, the new ones have their events and deliveries, each once."""
    await accept_begun(store, an_invoice("0"), 0)
    items = [an_invoice("0"), an_invoice("0", title="Another"), *map(an_invoice, "12")]

    found = await asyncio.gather(*(accept_begun(store, one, n) for n, one in enumerate(items, 5)))

    kinds = [Acceptance.REPLAYED, Acceptance.CONFLICT, *[Acceptance.STORED] * 2]
    assert kinds == [acceptance for acceptance, _ in found]
    assert [None, None] == [inserted for _, inserted in found[:2]]
    assert [["msg_7"], ["msg_8"]] == [[one.id for one in inserted] for _, inserted in found[2:]]
    stored = await database.read(lambda tx: sorted(tx.scalars(select(deliveries.c.id))))
    assert ["msg_0", "msg_7", "msg_8"] == stored
    assert 3 == len(await rows_of(database, events))


async def test_nobody_has_to_watch(store):
    """The driver runs the same statements where no tracer watches, with the same results."""
    (invoice,) = await accepted(store, 1)
    (delivery,) = await take(store, invoice, 1)

    assert START + LEASE == delivery.leased_until
    assert await store.settle(delivered(delivery))
    assert not await store.settle(delivered(delivery))


async def test_a_known_id_is_told_apart(store):
    """Where not all ids are new, each acceptance is told as it is; the new one is stored."""
    await accepted(store, 1)
    items = [an_invoice("0"), an_invoice("0", customer="Somebody else"), an_invoice("new")]

    found = await asyncio.gather(*map(store.accept, items))

    assert [Acceptance.REPLAYED, Acceptance.CONFLICT, Acceptance.STORED] == found


async def test_each_step_is_decided_by_its_own_lease(store, database, statements):
    """Of several steps, those whose leases are lost write nothing, and need no second statement."""
    first, second, third = await accepted(store)
    stale = replace(second, lease_token=second.lease_token + 1)
    statements.clear()

    one, none, three = await asyncio.gather(
        take(store, first, 1), take(store, stale, 2), take(store, third, 3)
    )

    assert ["WITH"] == statements
    assert (["msg_1"], None, ["msg_3"]) == ([d.id for d in one], none, [d.id for d in three])
    stored = await database.read(lambda tx: set(tx.scalars(select(deliveries.c.id))))
    assert {"msg_1", "msg_3"} == stored


async def test_each_settlement_is_decided_by_its_own_lease(store, database):
    """Of several settlements, those whose leases are lost record no attempt."""
    made = [await take(store, one, n) for n, one in enumerate(await accepted(store))]
    (first,), (second,), (third,) = made
    stale = replace(second, lease_token=second.lease_token + 1)

    settled = await asyncio.gather(*(store.settle(delivered(one)) for one in (first, stale, third)))

    assert [True, False, True] == settled
    recorded = await database.read(lambda tx: set(tx.scalars(select(attempts.c.delivery_id))))
    assert {first.id, third.id} == recorded


async def test_a_lease_settles_once_in_one_statement(store, database):
    """If two settlements of one lease come together, the first one alone is recorded."""
    (delivery,) = await take(store, (await accepted(store, 1))[0], 1)

    settled = await asyncio.gather(*(store.settle(delivered(delivery)) for _ in range(2)))

    assert [True, False] == sorted(settled, reverse=True)
    assert 1 == len(await rows_of(database, attempts))


async def test_a_state_of_the_receiver_is_stored_with_the_attempt(store):
    """Where more has to be written than the attempt, a transaction writes it."""
    (delivery,) = await take(store, (await accepted(store, 1))[0], 1)
    cooling = a_failing_state(delivery, cooldown_until=START + LEASE)

    assert await store.settle(replace(failed(delivery), receiver_state=cooling))

    (following,) = await take(store, (await store_another(store)), 2)
    assert following.leased_until is None


async def store_another(store):
    """One more invoice that this process has leased."""
    invoice = an_invoice("another")
    await store.accept(invoice, START + LEASE)
    return invoice


async def test_a_delivery_to_a_resting_receiver_is_stored_without_a_lease(store, database):
    """Its row has neither the lease nor its process, and it is due later."""
    (delivery,) = await take(store, (await accepted(store, 1))[0], 1)
    held = a_failing_state(delivery, held_until=START + LEASE)
    await store.settle(replace(failed(delivery), receiver_state=held))
    await store.join(START)

    await take(store, await store_another(store), 2)

    row = next(one for one in await rows_of(database, deliveries) if one["id"] == "msg_2")
    assert (None, 0, None) == (row["leased_until"], row["lease_token"], row["leased_by"])


async def test_each_release_is_decided_by_its_own_lease(store):
    """A lease that was lost is not given up again; the others are due at once."""
    for number in range(COUNT):
        await add_delivery(store, f"{number}", delivery_id=f"msg_{number}")
    first, second, third = await lease_deliveries(store)
    stale = replace(second, lease_token=second.lease_token + 1)

    released = await asyncio.gather(*map(store.release, (first, stale, third)))

    assert [True, False, True] == released
    again = await lease_deliveries(store)
    assert {first.id, third.id} == {one.id for one in again}


async def test_bytes_and_any_text_arrive_unchanged(store, database):
    """Whatever a body and a text contain, they are stored as they are."""
    (invoice,) = await accepted(store, 1)
    body, said = bytes(range(256)) + b'\\x41"', "\\ \" \n\t \x7f é 漢 🎈 {'a'}"
    step = a_step(invoice, event=an_event(said))
    await store.take_step(step, [replace(a_delivery(step, leased_until=START + LEASE), body=body)])

    (row,) = await rows_of(database, deliveries)
    (told,) = (await store.history.feed("dev", after=None, limit=1)).items

    assert (body, said) == (bytes(row["body"]), told.description)


async def test_a_pooler_gets_transactions(postgres_url, statements):
    """Where statements cannot stay prepared, each of them is part of a transaction."""
    database = PostgresDatabase(postgres_url, has_prepared_statements=False)
    store = Store(database)
    try:
        (invoice,) = await accepted(store, 1)
        assert await take(store, invoice, 1)
    finally:
        await database.close()

    assert "WITH" not in statements


async def test_a_statement_that_fails_divides_its_items(database):
    """An item that cannot be written fails alone, also where one statement writes them all."""

    def divide(tx, items):
        return [1 // one for one in items]

    def prepare(items):
        numbers = [1 // one for one in items]
        return AtOnce("SELECT $1::bigint", (numbers[0],), lambda _found: numbers)

    commits = GroupCommit(database, lambda _size: None, {divide: prepare})

    results = await asyncio.gather(
        *(commits.run(divide, one) for one in (1, 0, 1)), return_exceptions=True
    )

    assert [1, 1] == [results[0], results[2]]
    assert isinstance(results[1], ZeroDivisionError)


async def test_a_statement_ends_at_the_deadline(database, monkeypatch):
    """A statement that waits for too long fails as an unavailable database; the next one works."""
    ready = AtOnce("SELECT $1::text", ("ready",), lambda found: found)
    asleep = AtOnce("SELECT pg_sleep($1)", (30.0,), lambda found: found)
    # Opening a connection may take longer than the short deadline, which is of one statement.
    await database.write_at_once(ready)

    with monkeypatch.context() as short, pytest.raises(StorageUnavailable):
        short.setattr(database._writers, "_timeout_seconds", 0.2)
        await database.write_at_once(asleep)

    assert "ready" == (await database.write_at_once(ready))[0][0]
