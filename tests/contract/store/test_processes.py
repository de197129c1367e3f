import asyncio
from dataclasses import replace

import pytest

from service.domain.states import Acceptance, InvoiceStatus
from service.storage.steps import LeaseRound
from service.storage.tables import attempts, deliveries, events, invoices, origins
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    TWO,
    a_round,
    a_step,
    add_delivery,
    an_event,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    lease_invoice,
    rows_of,
    take_step,
)

STORED, REPLAYED, CONFLICT = Acceptance.STORED, Acceptance.REPLAYED, Acceptance.CONFLICT
COUNT = 60


@pytest.fixture
async def many(store):
    """As many invoices as two processes can quarrel about; half of them already paid."""
    ids = [f"i{number:02}" for number in range(COUNT)]
    await asyncio.gather(
        *(store.accept(an_invoice(id_, origin=(ONE, TWO)[int(id_[1:]) % 2])) for id_ in ids)
    )
    due = await store.lease_invoices(LeaseRound(START, START + LEASE, COUNT // 2))
    steps = (a_step(one, event=an_event(delivery_id=f"msg_{one.id}")) for one in due.invoices)
    assert all(await asyncio.gather(*(take_step(store, step) for step in steps)))


async def everything(database):
    """Every row there is."""
    tables = (invoices, events, deliveries, attempts, origins)
    return [await rows_of(database, table) for table in tables]


# What one writes


async def test_what_was_committed_is_there_for_everybody(store, elsewhere):
    """Another process sees a write as soon as it has returned."""
    await add_delivery(store)

    assert InvoiceStatus.PAID == (await elsewhere.find_invoice("dev", "1"))["status"]
    assert "msg_1" == (await elsewhere.find_delivery("dev", "msg_1"))["id"]


async def test_what_was_committed_survives_its_process(store, another_store):
    """A process that starts finds what the one before it wrote, and goes on with it."""
    await add_delivery(store)
    await store._database.close()

    assert await (next_one := another_store()).settle(delivered(await lease_delivery(next_one)))


async def test_what_cannot_be_written_takes_nobody_with_it(store, elsewhere, database):
    """Among callers that write together, one that fails fails alone and leaves nothing behind."""
    given = await asyncio.gather(
        store.accept(an_invoice("1")),
        store.accept(an_invoice("2", customer=None)),
        store.accept(an_invoice("3")),
        return_exceptions=True,
    )

    assert (STORED, STORED) == (given[0], given[2])
    assert isinstance(given[1], Exception)
    assert ["1", "3"] == [row["id"] for row in await rows_of(database, invoices)]
    assert STORED is await elsewhere.accept(an_invoice("2"))


async def test_readers_never_see_half_a_transaction(store, elsewhere):
    """While one process writes, what another reads belongs together at every moment."""
    await add_delivery(store)
    is_over = asyncio.Event()

    async def write():
        for number in range(30):
            now = START + number * SECOND
            delivery = await lease_delivery(store, now=now)
            await store.settle(failed(delivery, due_at=now + SECOND, at=now))
        is_over.set()

    async def read():
        told = []
        while not is_over.is_set():
            told.append(await elsewhere.find_delivery("dev", "msg_1"))
            await asyncio.sleep(0)
        return told

    told, _ = await asyncio.gather(read(), write())

    assert [one["attempt_count"] for one in told] == [len(one["attempts"]) for one in told]
    assert 30 == (await elsewhere.find_delivery("dev", "msg_1"))["attempt_count"]


# The same id in two places


async def test_an_id_is_stored_by_one_of_them(store, elsewhere, database):
    """Of those that accept the same invoice at the same time, one stores it; nobody fails."""
    ids = [f"i{number}" for number in range(COUNT)]
    here, there = [an_invoice(id_) for id_ in ids], [an_invoice(id_) for id_ in reversed(ids)]

    given = await asyncio.gather(*map(store.accept, here), *map(elsewhere.accept, there))

    answers = zip(given[:COUNT], reversed(given[COUNT:]), strict=True)
    assert {frozenset({STORED, REPLAYED})} == {frozenset(pair) for pair in answers}
    stored = {one.key for one, end in zip([*here, *there], given, strict=True) if end is STORED}
    assert stored == {row["key"] for row in await rows_of(database, invoices)}


async def test_other_content_in_the_other_process_is_a_conflict(store, elsewhere):
    """Where two contents race for an id, one of them is stored and the other is told."""
    ids = [f"i{number}" for number in range(COUNT)]

    given = await asyncio.gather(
        *(store.accept(an_invoice(id_, title="here")) for id_ in ids),
        *(elsewhere.accept(an_invoice(id_, title="there")) for id_ in reversed(ids)),
    )

    answers = zip(given[:COUNT], reversed(given[COUNT:]), strict=True)
    for id_, (here, there) in zip(ids, answers, strict=True):
        assert {STORED, CONFLICT} == {here, there}
        title = "here" if here is STORED else "there"
        assert title == (await elsewhere.find_invoice("dev", id_))["title"]


# Leases


@pytest.mark.usefixtures("many")
async def test_no_invoice_is_leased_by_both(store, elsewhere):
    """However many rounds two processes make at the same time, each invoice is in one of them."""
    round_ = LeaseRound(START, START + LEASE, 7)

    rounds = await asyncio.gather(
        *(process.lease_invoices(round_) for _ in range(10) for process in (store, elsewhere))
    )

    ids = [one.id for due in rounds for one in due.invoices]
    assert len(set(ids)) == len(ids)
    left = [one.id for one in (await store.lease_invoices(replace(round_, limit=COUNT))).invoices]
    assert COUNT // 2 == len(ids) + len(left)


@pytest.mark.usefixtures("many")
async def test_no_delivery_is_leased_by_both(store, elsewhere):
    """However many rounds two processes make at the same time, each delivery is in one of them."""
    rounds = await asyncio.gather(
        *(lease_deliveries(process, limit=7) for _ in range(10) for process in (store, elsewhere))
    )

    ids = [one.id for found in rounds for one in found]
    assert len(set(ids)) == len(ids)
    assert COUNT // 2 == len(ids) + len(await lease_deliveries(store))


@pytest.mark.usefixtures("many")
async def test_a_lost_attempt_is_told_once(store, elsewhere, database):
    """Two processes that find the same leases run out take each of them over once."""
    await lease_deliveries(store)

    rounds = await asyncio.gather(
        *(lease_deliveries(process, now=START + LEASE) for process in (store, elsewhere))
    )

    rows, told, *_ = (await everything(database))[2:]
    assert COUNT // 2 == sum(map(len, rounds)) == len(told)
    assert {(2, 1)} == {(row["lease_token"], row["attempt_count"]) for row in rows}


async def test_a_lease_is_seen_by_the_other(store, elsewhere):
    """What one process works on, another leaves alone until the lease has run out."""
    await add_delivery(store)
    await store.accept(an_invoice("2"))
    await lease_delivery(store)
    await lease_invoice(store)

    assert [] == await lease_deliveries(elsewhere)
    assert [] == (await elsewhere.lease_invoices(LeaseRound(START, START + LEASE, 9))).invoices
    assert "msg_1" == (await lease_delivery(elsewhere, now=START + LEASE)).id
    assert "2" == (await lease_invoice(elsewhere, now=START + LEASE)).id


async def test_a_stale_lease_settles_nothing_from_elsewhere(store, elsewhere, database):
    """Who outlived its lease changes nothing once another process has it."""
    await add_delivery(store)
    stale = await lease_delivery(store)
    held = await lease_delivery(elsewhere, now=START + LEASE)
    before = await everything(database)

    assert not await store.settle(delivered(stale))
    assert not await store.settle(failed(stale, due_at=START, held_until=START + 9 * LEASE))
    assert not await store.release(stale)
    assert before == await everything(database)

    assert await elsewhere.settle(delivered(held))


async def test_a_stale_lease_takes_no_step_from_elsewhere(store, elsewhere, database):
    """Who outlived its lease on an invoice changes nothing once another process has it."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    held = await lease_invoice(elsewhere, now=START + LEASE)
    before = await everything(database)

    assert not await take_step(store, a_step(stale, event=an_event("Late", delivery_id="msg_2")))
    assert before == await everything(database)

    assert await take_step(elsewhere, a_step(held, event=an_event()))


async def test_of_two_settlements_at_the_same_time_one_counts(store, elsewhere, database):
    """Two processes that believe to hold the same lease write one attempt for it."""
    for number in range(COUNT):
        await add_delivery(store, f"{number:02}")
    found = await lease_deliveries(store)

    given = await asyncio.gather(
        *(store.settle(delivered(one)) for one in found),
        *(elsewhere.settle(failed(one, due_at=START + LEASE)) for one in reversed(found)),
    )

    ends = list(zip(given[:COUNT], reversed(given[COUNT:]), strict=True))
    assert {frozenset({True, False})} == {frozenset(pair) for pair in ends}
    rows, told, _ = (await everything(database))[2:]
    assert [1] * COUNT == [row["attempt_count"] for row in rows]
    assert ["delivered" if here else "pending" for here, _ in ends] == [r["status"] for r in rows]
    assert COUNT == len(told)


@pytest.mark.usefixtures("many")
async def test_everything_at_the_same_time_ends(store, elsewhere, database):
    """Processes that accept, collect, lease, settle and give back at once are in nobody's way."""

    async def work(process, name):
        for number in range(8):
            now = START + number * SECOND
            due = await process.lease_invoices(LeaseRound(now, now + LEASE, 5))
            found = await lease_deliveries(process, now=now, limit=6)
            accepting = [process.accept(an_invoice(f"{name}{number}{n}")) for n in range(3)]
            collecting = [
                take_step(process, a_step(one, event=an_event(delivery_id=f"msg_{one.id}")))
                for one in due.invoices
            ]
            hold = now + SECOND / 2
            settling = [
                process.settle(failed(one, due_at=now + SECOND, held_until=hold, at=now))
                for one in found[:4]
            ]
            releasing = [process.release(one) for one in found[4:]]
            assert all(await asyncio.gather(*accepting, *collecting, *settling, *releasing))

    await asyncio.gather(work(store, "a"), work(store, "b"), work(elsewhere, "c"))

    rows, told, made, tries, _ = await everything(database)
    assert COUNT + 3 * 8 * 3 == len(rows)
    assert len(told) == len(made) == sum(row["event_count"] for row in rows)
    assert len(tries) == sum(row["attempt_count"] for row in made)
    assert {None} == {row["leased_until"] for row in [*rows, *made]}


# Holds


async def test_a_hold_of_one_is_seen_by_the_other(store, elsewhere):
    """An origin that asked one process to be left alone is left alone by all."""
    await add_delivery(store, "1")
    await add_delivery(store, "2", at=START + SECOND)
    hold = START + LEASE
    await store.settle(failed(await lease_delivery(store), due_at=hold, held_until=hold))

    due = await elsewhere.lease_deliveries(a_round(now=START + SECOND))
    assert ([], hold) == (list(due.deliveries), due.next_due_at)
    assert hold == (await elsewhere.find_delivery("dev", "msg_2"))["due_at"]
    assert ["msg_1", "msg_2"] == sorted(
        one.id for one in await lease_deliveries(elsewhere, now=hold)
    )


async def test_the_latest_of_holds_that_come_from_both_counts(store, elsewhere, database):
    """Whoever writes last, the origin is left alone until the latest instant it asked for."""
    for number in range(10):
        await add_delivery(store, str(number))
    ends = [
        failed(one, due_at=START, held_until=START + seconds * SECOND)
        for seconds, one in enumerate(await lease_deliveries(store), start=1)
    ]

    await asyncio.gather(*map(store.settle, ends[::-2]), *map(elsewhere.settle, ends[::2]))

    assert [{"origin": ONE, "held_until": START + 10 * SECOND}] == await rows_of(database, origins)


# Waking each other


@pytest.mark.parametrize("kind", ["postgresql", "memory"], indirect=True)
async def test_what_one_has_made_due_wakes_the_other(store, elsewhere):
    """A process that listens is told of invoices and deliveries that another one wrote."""
    elsewhere.listen()
    store.listen()
    for signal in (store.deliveries_due, elsewhere.invoices_due):
        # Who begins to listen looks once: something may have been announced before.
        await woken_by(signal)

    await store.accept(an_invoice())
    await woken_by(elsewhere.invoices_due)
    invoice = await lease_invoice(elsewhere)

    await take_step(elsewhere, a_step(invoice, event=an_event()))
    await woken_by(store.deliveries_due)
    assert "msg_1" == (await lease_delivery(store)).id


async def woken_by(signal):
    """Wait for *signal*, and clear it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await signal.wait()
    signal.clear()
