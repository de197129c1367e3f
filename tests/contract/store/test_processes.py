import asyncio
from dataclasses import replace

import pytest

from service.domain.states import Acceptance, InvoiceStatus
from service.storage.leases import LeaseRound
from service.storage.tables import attempts, deliveries, events, invoices, receivers
from tests.clock import START, woken_by
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    TWO,
    a_receiver,
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
    waiting_receivers,
)

STORED, REPLAYED, CONFLICT = Acceptance.STORED, Acceptance.REPLAYED, Acceptance.CONFLICT
COUNT = 60


@pytest.fixture
async def many(store):
    """Invoices for which two processes compete; half of them are paid."""
    ids = [f"i{number:02}" for number in range(COUNT)]
    await asyncio.gather(
        *(store.accept(an_invoice(id_, origin=(ONE, TWO)[int(id_[1:]) % 2])) for id_ in ids)
    )
    due = await store.lease_invoices(LeaseRound(START, START + LEASE, COUNT // 2))
    steps = (a_step(one, event=an_event(delivery_id=f"msg_{one.id}")) for one in due.invoices)
    assert all(await asyncio.gather(*(take_step(store, step) for step in steps)))


async def everything(database):
    """Every row of the store."""
    tables = (invoices, events, deliveries, attempts, receivers)
    return [await rows_of(database, table) for table in tables]


# Writes of one process


async def test_committed_rows_are_visible_to_other_processes(store, elsewhere):
    """Another process sees a write as soon as the write has returned."""
    await add_delivery(store)

    assert InvoiceStatus.PAID == (await elsewhere.history.find_invoice("dev", "1"))["status"]
    assert "msg_1" == (await elsewhere.history.find_delivery("dev", "msg_1"))["id"]


async def test_committed_rows_survive_their_process(store, another_store):
    """A process that starts finds the rows of the process before it, and continues with them."""
    await add_delivery(store)
    await store._database.close()

    assert await (next_one := another_store()).settle(delivered(await lease_delivery(next_one)))


async def test_a_failed_write_does_not_fail_the_others(store, elsewhere, database):
    """Of callers that write together, one that fails fails alone and stores nothing."""
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


async def test_readers_never_see_part_of_a_transaction(store, elsewhere):
    """While one process writes, another process reads consistent rows at every moment."""
    await add_delivery(store)
    is_over = asyncio.Event()

    async def write():
        for number in range(30):
            now = START + number * SECOND
            delivery = await lease_delivery(store, now=now)
            await store.settle(failed(delivery, due_at=now + SECOND, at=now))
        is_over.set()

    async def read():
        shown = []
        while not is_over.is_set():
            shown.append(await elsewhere.history.find_delivery("dev", "msg_1"))
            await asyncio.sleep(0)
        return shown

    shown, _ = await asyncio.gather(read(), write())

    assert [one["attempt_count"] for one in shown] == [len(one["attempts"]) for one in shown]
    assert 30 == (await elsewhere.history.find_delivery("dev", "msg_1"))["attempt_count"]


# The same id in two processes


async def test_an_id_is_stored_by_one_process(store, elsewhere, database):
    """Of processes that accept the same invoice at the same time, one stores it and none fails."""
    ids = [f"i{number}" for number in range(COUNT)]
    here, there = [an_invoice(id_) for id_ in ids], [an_invoice(id_) for id_ in reversed(ids)]

    given = await asyncio.gather(*map(store.accept, here), *map(elsewhere.accept, there))

    answers = zip(given[:COUNT], reversed(given[COUNT:]), strict=True)
    assert {frozenset({STORED, REPLAYED})} == {frozenset(pair) for pair in answers}
    stored = {one.key for one, end in zip([*here, *there], given, strict=True) if end is STORED}
    assert stored == {row["key"] for row in await rows_of(database, invoices)}


async def test_other_content_in_another_process_is_a_conflict(store, elsewhere):
    """If two processes store different contents under one id, one of them gets a conflict."""
    ids = [f"i{number}" for number in range(COUNT)]

    given = await asyncio.gather(
        *(store.accept(an_invoice(id_, title="here")) for id_ in ids),
        *(elsewhere.accept(an_invoice(id_, title="there")) for id_ in reversed(ids)),
    )

    answers = zip(given[:COUNT], reversed(given[COUNT:]), strict=True)
    for id_, (here, there) in zip(ids, answers, strict=True):
        assert {STORED, CONFLICT} == {here, there}
        title = "here" if here is STORED else "there"
        assert title == (await elsewhere.history.find_invoice("dev", id_))["title"]


# Leases


@pytest.mark.usefixtures("many")
async def test_no_invoice_is_leased_by_two_processes(store, elsewhere):
    """If two processes lease at the same time, each invoice is in one of their rounds."""
    round_ = LeaseRound(START, START + LEASE, 7)

    rounds = await asyncio.gather(
        *(process.lease_invoices(round_) for _ in range(10) for process in (store, elsewhere))
    )

    ids = [one.id for due in rounds for one in due.invoices]
    assert len(set(ids)) == len(ids)
    left = [one.id for one in (await store.lease_invoices(replace(round_, limit=COUNT))).invoices]
    assert COUNT // 2 == len(ids) + len(left)


@pytest.mark.usefixtures("many")
async def test_no_delivery_is_leased_by_two_processes(store, elsewhere):
    """If two processes lease at the same time, each delivery is in one of their rounds."""
    rounds = await asyncio.gather(
        *(lease_deliveries(process, limit=7) for _ in range(10) for process in (store, elsewhere))
    )

    ids = [one.id for found in rounds for one in found]
    assert len(set(ids)) == len(ids)
    assert COUNT // 2 == len(ids) + len(await lease_deliveries(store))


@pytest.mark.usefixtures("many")
async def test_a_lost_attempt_is_recorded_once(store, elsewhere, database):
    """Two processes that find the same expired leases take each of them over once."""
    await lease_deliveries(store)

    rounds = await asyncio.gather(
        *(lease_deliveries(process, now=START + LEASE) for process in (store, elsewhere))
    )

    rows, recorded, *_ = (await everything(database))[2:]
    assert COUNT // 2 == sum(map(len, rounds)) == len(recorded)
    assert {(2, 1)} == {(row["lease_token"], row["attempt_count"]) for row in rows}


async def test_a_lease_is_visible_to_other_processes(store, elsewhere):
    """A delivery that one process has leased is not leased by another before the lease runs out."""
    await add_delivery(store)
    await store.accept(an_invoice("2"))
    await lease_delivery(store)
    await lease_invoice(store)

    assert [] == await lease_deliveries(elsewhere)
    assert [] == (await elsewhere.lease_invoices(LeaseRound(START, START + LEASE, 9))).invoices
    assert "msg_1" == (await lease_delivery(elsewhere, now=START + LEASE)).id
    assert "2" == (await lease_invoice(elsewhere, now=START + LEASE)).id


async def test_a_stale_lease_settles_nothing_in_another_process(store, elsewhere, database):
    """A process whose lease another process has taken over cannot settle the delivery."""
    await add_delivery(store)
    stale = await lease_delivery(store)
    held = await lease_delivery(elsewhere, now=START + LEASE)
    before = await everything(database)

    assert not await store.settle(delivered(stale))
    assert not await store.settle(failed(stale, due_at=START, held_until=START + 9 * LEASE))
    assert not await store.release(stale)
    assert before == await everything(database)

    assert await elsewhere.settle(delivered(held))


async def test_a_stale_lease_takes_no_step_in_another_process(store, elsewhere, database):
    """A process whose lease another process has taken over cannot take a step of the invoice."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    held = await lease_invoice(elsewhere, now=START + LEASE)
    before = await everything(database)

    assert not await take_step(store, a_step(stale, event=an_event("Late", delivery_id="msg_2")))
    assert before == await everything(database)

    assert await take_step(elsewhere, a_step(held, event=an_event()))


async def test_of_two_concurrent_settlements_one_is_recorded(store, elsewhere, database):
    """Two processes that settle with the same lease record one attempt."""
    for number in range(COUNT):
        await add_delivery(store, f"{number:02}")
    found = await lease_deliveries(store)

    given = await asyncio.gather(
        *(store.settle(delivered(one)) for one in found),
        *(elsewhere.settle(failed(one, due_at=START + LEASE)) for one in reversed(found)),
    )

    ends = list(zip(given[:COUNT], reversed(given[COUNT:]), strict=True))
    assert {frozenset({True, False})} == {frozenset(pair) for pair in ends}
    rows, recorded, _ = (await everything(database))[2:]
    assert [1] * COUNT == [row["attempt_count"] for row in rows]
    assert ["delivered" if here else "pending" for here, _ in ends] == [r["status"] for r in rows]
    assert COUNT == len(recorded)


@pytest.mark.usefixtures("many")
async def test_all_operations_run_concurrently(store, elsewhere, database):
    """Processes that accept, collect, lease, settle and release at the same time all succeed."""

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

    rows, recorded, made, tries, _ = await everything(database)
    assert COUNT + 3 * 8 * 3 == len(rows)
    assert len(recorded) == len(made) == sum(row["event_count"] for row in rows)
    assert len(tries) == sum(row["attempt_count"] for row in made)
    assert {None} == {row["leased_until"] for row in [*rows, *made]}


# Holds


async def test_a_hold_is_visible_to_other_processes(store, elsewhere):
    """A hold that one process records applies in all processes."""
    await add_delivery(store, "1")
    await add_delivery(store, "2", at=START + SECOND)
    hold = START + LEASE
    await store.settle(failed(await lease_delivery(store), due_at=hold, held_until=hold))

    (waiting,) = await waiting_receivers(elsewhere, now=START + SECOND)
    assert hold == waiting.resting_until
    assert [] == await lease_deliveries(elsewhere, now=START + SECOND)
    assert hold == (await elsewhere.history.find_delivery("dev", "msg_2"))["due_at"]
    assert ["msg_1", "msg_2"] == sorted(
        one.id for one in await lease_deliveries(elsewhere, now=hold)
    )


async def test_the_latest_of_concurrent_holds_applies(store, elsewhere, database):
    """The latest end of the holds applies, whichever process writes last."""
    for number in range(10):
        await add_delivery(store, str(number))
    ends = [
        failed(one, due_at=START, held_until=START + seconds * SECOND)
        for seconds, one in enumerate(await lease_deliveries(store), start=1)
    ]

    await asyncio.gather(*map(store.settle, ends[::-2]), *map(elsewhere.settle, ends[::2]))

    (state,) = await rows_of(database, receivers)
    assert (a_receiver(), START + 10 * SECOND) == (state["receiver"], state["held_until"])


# Notifications between processes


@pytest.mark.parametrize("kind", ["postgresql", "memory"], indirect=True)
async def test_due_rows_wake_other_processes(store, elsewhere):
    """A process that listens is woken by invoices and deliveries of another process."""
    elsewhere.listen()
    store.listen()
    for signal in (store.deliveries_due, elsewhere.invoices_due):
        # A new listener is woken once, because it may have missed notifications.
        await woken_by(signal)

    await store.accept(an_invoice())
    await woken_by(elsewhere.invoices_due)
    invoice = await lease_invoice(elsewhere)

    await take_step(elsewhere, a_step(invoice, event=an_event()))
    await woken_by(store.deliveries_due)
    assert "msg_1" == (await lease_delivery(store)).id
