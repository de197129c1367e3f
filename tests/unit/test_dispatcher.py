import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from service.api.application import OPERATIONS
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.database import group_commit
from service.delivery.dispatcher import LEASE_MARGIN, POSTPONEMENT, SETTLE_MARGIN
from service.delivery.failures import NoAnswer
from service.delivery.fairness import LEASE_AHEAD
from service.delivery.health import COOLDOWN_FIRST
from service.domain.outcomes import AttemptOutcome
from service.domain.receivers import id_of
from service.domain.states import Acceptance
from service.errors import StorageUnavailable
from service.loops import POLL
from service.storage.tables import deliveries
from service.telemetry.metrics import Metrics
from tests.clock import PATIENCE_SECONDS, START, ManualClock, idle
from tests.fakes import FakeReceivers, WatchedMemory, WatchedStore, answer, assembled
from tests.memory import Loss
from tests.rows import (
    ONE,
    SECOND,
    THREE,
    TWO,
    a_callback,
    a_receiver,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    failed,
    lease_deliveries,
    lease_delivery,
    lease_due,
    lease_invoice,
    rows_of,
    take_step,
)
from tests.samples import samples_of

TIMEOUT = 15 * SECOND
LEASE = TIMEOUT + LEASE_MARGIN
DELIVERED = ("delivered", ["delivered"])


@pytest.fixture
def memory():
    """The stored rows; a test can block the writes."""
    return WatchedMemory()


@pytest.fixture
def store(memory):
    """The store of the process whose dispatcher runs."""
    return WatchedStore(memory)


@pytest.fixture
def elsewhere(memory):
    """The store of another process on the same memory."""
    return WatchedStore(memory)


@pytest.fixture
def receivers():
    """All receivers."""
    return FakeReceivers()


@pytest.fixture
def clock(monkeypatch):
    """The clock of the dispatcher."""
    # For others, a settlement waits in the time of the machine.
    monkeypatch.setattr(group_commit, "COMPANY_SECONDS", 0)
    return ManualClock()


@pytest.fixture
def metrics():
    """The metrics of the dispatcher."""
    return Metrics()


@pytest.fixture
def dispatching(store, receivers, clock, metrics):
    """Runs the dispatcher of a process, and drains it at the end of the block."""

    @asynccontextmanager
    async def run(*, on=store, concurrency=8, origin_concurrency=4, operations=OPERATIONS):
        service = assembled(
            on,
            receivers=receivers,
            clock=clock,
            metrics=metrics,
            operations=operations,
            retry_schedule=(5 * SECOND, 300 * SECOND),
            callback_timeout=TIMEOUT,
            callback_concurrency=concurrency,
            origin_concurrency=origin_concurrency,
        )
        dispatcher = service.dispatcher
        running = asyncio.create_task(dispatcher.run())
        try:
            await clock.parked()
            yield dispatcher, running
        finally:
            dispatcher.drain()
            receivers.let_all_go()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running

    return run


async def add_deliveries(store, origin, *names):
    """Add a delivery `msg_{name}` to *origin* for each of *names*."""
    for name in names:
        await add_delivery(store, name, origin=origin)


async def answered_once(store, receivers, *origins):
    """Make receivers known as answering, so that they get more than one attempt at a time."""
    for count, origin in enumerate(origins or [ONE]):
        await add_delivery(store, f"opening{count}", origin=origin)
        await store.settled.reaches(count + 1)
    store.settled.entries.clear()
    receivers.requests.entries.clear()
    receivers.answered.entries.clear()


def reserve(dispatcher, origin):
    """Reserve a lease for a new delivery."""
    return dispatcher._reserve(a_receiver(origin), origin)


def cancel(dispatcher, origin):
    """Cancel a reserved lease, like a failed write does."""
    dispatcher._cancel(a_receiver(origin), origin)
    dispatcher._begin_attempts()


async def quiet(clock):
    """Wait until the dispatcher waits and the tasks that it started have begun."""
    await idle()
    await clock.parked()


async def state_of(store, id_):
    """The state of a delivery and the outcomes of its attempts."""
    found = await store.history.find_delivery("dev", id_)
    return found["status"], [attempt["outcome"] for attempt in found["attempts"]]


# Starting attempts


async def test_a_delivery_is_attempted_at_once(dispatching, store, receivers, clock):
    """A delivery is attempted as soon as it is committed, without any delay."""
    async with dispatching():
        await add_delivery(store)
        await store.settled.reaches(1)

    assert START == clock.now()
    assert ["msg_1"] == receivers.ids
    assert ("delivered", ["delivered"]) == await state_of(store, "msg_1")


async def test_waiting_deliveries_are_attempted_at_the_start(dispatching, store, receivers):
    """The first round finds the deliveries that another process has left."""
    await add_deliveries(store, ONE, "1", "2")

    async with dispatching():
        await store.settled.reaches(2)

    assert ["msg_1", "msg_2"] == sorted(receivers.ids)


async def test_the_poll_finds_deliveries_of_other_processes(dispatching, elsewhere, store, clock):
    """Without a signal, a delivery is found within the poll interval."""
    async with dispatching():
        await add_delivery(elsewhere)
        assert clock.now() + POLL == await clock.parked()
        clock.advance(POLL)
        await store.settled.reaches(1)

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_1")


async def test_two_processes_share_deliveries_without_repetition(
    dispatching, store, elsewhere, receivers, memory
):
    """Of several dispatchers on one database, exactly one sends each delivery."""
    names = [str(number) for number in range(40)]
    await add_deliveries(store, ONE, *names[::2])
    await add_deliveries(store, TWO, *names[1::2])

    async with dispatching(), dispatching(on=elsewhere):
        await receivers.answered.reaches(40)

    assert sorted(f"msg_{name}" for name in names) == sorted(receivers.ids)
    assert {"delivered"} == {row["status"] for row in await rows_of(memory, deliveries)}


# Limits


async def test_attempts_in_flight_are_limited(dispatching, store, receivers, clock):
    """No more attempts are in flight than the concurrency allows, to any receivers."""
    origins = [f"https://r{number}.example:443" for number in range(6)]

    async with dispatching(concurrency=2):
        await answered_once(store, receivers, *origins)
        for number, origin in enumerate(origins):
            receivers.hang(origin)
            await add_delivery(store, str(number), origin=origin)
        await receivers.requests.reaches(2)
        await quiet(clock)
        assert 2 == len(receivers.requests)
        receivers.let_all_go()
        await store.settled.reaches(6)

    assert 2 == receivers.peak


async def test_attempts_to_one_origin_are_limited(dispatching, store, receivers, clock):
    """One origin gets no more than its limit of slots, even if other slots are free."""
    names = [str(number) for number in range(9)]

    async with dispatching(concurrency=8, origin_concurrency=3):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        await add_deliveries(store, ONE, *names)
        await receivers.requests.reaches(3)
        await quiet(clock)
        assert 3 == len(receivers.requests)
        receivers.let_all_go()
        await store.settled.reaches(9)

    assert 3 == receivers.peaks[ONE]
    assert sorted(f"msg_{name}" for name in names) == sorted(receivers.ids)


@pytest.mark.parametrize("is_before", [True, False], ids=["backlog", "fresh"])
async def test_a_hanging_origin_delays_no_other(
    dispatching, store, elsewhere, receivers, clock, is_before
):
    """Deliveries to other origins are not delayed by the backlog of an origin that hangs."""
    receivers.hang(ONE)
    names = [f"one{number}" for number in range(3 * LEASE_AHEAD * 4)]
    if is_before:
        await add_deliveries(elsewhere, ONE, *names)
        await add_delivery(elsewhere, "two", origin=TWO)

    async with dispatching(concurrency=16, origin_concurrency=1):
        if not is_before:
            await answered_once(store, receivers, TWO)
            await add_deliveries(store, ONE, *names)
            await add_delivery(store, "two", origin=TWO)
        await store.settled.reaches(1)
        assert ("delivered", ["delivered"]) == await state_of(store, "msg_two")
        assert (START, 1) == (clock.now(), receivers.in_flight[ONE])


async def test_free_slots_are_used_at_once(dispatching, store, receivers, clock):
    """A backlog larger than all leases is delivered without any delay."""
    names = [str(number) for number in range(5 * LEASE_AHEAD)]
    await add_deliveries(store, ONE, *names)

    async with dispatching(concurrency=2, origin_concurrency=1):
        await store.settled.reaches(len(names))

    assert START == clock.now()
    assert 1 == receivers.peaks[ONE]


async def test_capacity_that_becomes_free_during_a_round_is_used_at_once(
    dispatching, store, elsewhere, receivers, clock, memory
):
    """Deliveries that a round left for lack of capacity do not wait for the poll."""
    first = [f"a{number}" for number in range(LEASE_AHEAD - 1)]

    async with dispatching(concurrency=2, origin_concurrency=1):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        await add_deliveries(store, ONE, *first)
        await receivers.requests.reaches(1)
        # There is capacity for one more lease of this origin; two deliveries remain.
        await add_deliveries(elsewhere, ONE, "b0", "b1", "b2")
        await quiet(clock)
        memory.shut()
        store.deliveries_due.set()
        await memory.reached()
        receivers.let_go(ONE, 4)
        await receivers.answered.reaches(4)
        memory.open()
        receivers.let_all_go()
        await store.settled.reaches(len(first) + 3)

    assert START == clock.now()


async def test_a_backlog_ends_although_new_deliveries_arrive(
    dispatching, store, receivers, clock, monkeypatch
):
    """A round with capacity for all due deliveries ends the backlog despite new deliveries."""
    refused_count = 0

    async def lease_while_more_comes_in(round_):
        nonlocal refused_count
        if refused_count < 5 and reserve(dispatcher, ONE) is None:
            refused_count += 1
        return await lease(round_)

    async with dispatching() as (dispatcher, _):
        await answered_once(store, receivers)
        kept_count = 0
        while reserve(dispatcher, ONE):
            kept_count += 1
        await add_delivery(store, "old")
        await quiet(clock)
        lease = dispatcher._store.lease_deliveries
        monkeypatch.setattr(dispatcher._store, "lease_deliveries", lease_while_more_comes_in)
        for _ in range(kept_count):
            cancel(dispatcher, ONE)
        await quiet(clock)

        assert 1 == refused_count
        assert reserve(dispatcher, ONE)
        cancel(dispatcher, ONE)


async def test_an_unknown_origin_is_probed_first(dispatching, store, receivers, clock):
    """A new receiver gets one attempt at a time until it has answered."""
    receivers.hang(ONE)

    async with dispatching(origin_concurrency=3):
        await add_deliveries(store, ONE, "1", "2", "3", "4")
        await receivers.requests.reaches(1)
        await quiet(clock)
        assert 1 == receivers.in_flight[ONE]
        receivers.let_go(ONE, 1)
        await receivers.requests.reaches(4)

    assert 3 == receivers.peaks[ONE]


async def test_a_hundred_hanging_receivers_leave_slots_for_others(
    dispatching, store, receivers, clock
):
    """While a hundred new receivers hang, one that has answered lately is called at once."""
    names = [f"https://r{number}.example:443" for number in range(100)]

    async with dispatching(concurrency=256, origin_concurrency=16):
        await answered_once(store, receivers)
        for number, origin in enumerate(names):
            receivers.hang(origin)
            await add_deliveries(store, origin, *(f"{number}-{event}" for event in range(10)))
        await receivers.requests.reaches(32)
        await quiet(clock)
        await add_delivery(store, "healthy", origin=ONE)
        await store.settled.reaches(1)

        assert ("delivered", ["delivered"]) == await state_of(store, "msg_healthy")
        assert START == clock.now()
        # A quarter of the half that is for receivers which have not answered; and the healthy one.
        assert 33 == receivers.peak


async def test_slow_origins_leave_slots_for_others(dispatching, store, receivers, clock):
    """Slow receivers that have answered before do not get every slot."""
    names = [f"https://r{number}.example:443" for number in range(2)]

    async with dispatching(concurrency=8, origin_concurrency=4):
        for number, origin in enumerate(names):
            await add_delivery(store, f"{number}", origin=origin)
        await store.settled.reaches(2)
        for number, origin in enumerate(names):
            receivers.hang(origin)
            await add_deliveries(store, origin, *(f"{number}-{event}" for event in range(8)))
        await quiet(clock)
        await add_delivery(store, "healthy", origin=ONE)
        await store.settled.reaches(3)

        assert ("delivered", ["delivered"]) == await state_of(store, "msg_healthy")


# Failures


async def test_deliveries_of_a_failing_origin_keep_their_attempts(
    dispatching, store, receivers, clock
):
    """A failing receiver gets one probe at a time; its other deliveries keep their attempts."""
    names = [str(number) for number in range(20)]
    receivers.answers[ONE].extend([NoAnswer(AttemptOutcome.UNREACHABLE, "")] * 4)

    async with dispatching():
        await add_deliveries(store, ONE, *names)
        for count in (1, 2, 3, 4):
            await store.settled.reaches(count)
            await clock.parked()
            assert count == len(receivers.requests)
            clock.advance(COOLDOWN_FIRST * 2 ** (count - 1))
        await store.settled.reaches(4 + 16)
        await quiet(clock)
        assert 16 == sum([await state_of(store, f"msg_{name}") == DELIVERED for name in names])
        clock.advance(300 * SECOND)
        await store.settled.reaches(4 + 20)


async def test_a_failing_origin_is_leased_for_one_probe(dispatching, store, receivers, clock):
    """All deliveries of a failing receiver except one stay in the database."""
    receivers.answers[ONE].append(NoAnswer(AttemptOutcome.UNREACHABLE, ""))

    async with dispatching():
        await add_delivery(store, "first")
        await store.settled.reaches(1)
        store.leased.entries.clear()
        await add_deliveries(store, ONE, *"abcdefgh")
        receivers.hang(ONE)
        clock.advance(3 * SECOND)
        await idle()

        assert 1 == len(store.leased)


async def test_reserved_slots_that_are_not_needed_are_used(dispatching, store, receivers):
    """Slots that were kept for another origin are used when that has no delivery."""
    async with dispatching(concurrency=8, origin_concurrency=8) as (dispatcher, _):
        await answered_once(store, receivers)
        assert reserve(dispatcher, TWO)
        receivers.hang(ONE)
        await add_deliveries(store, ONE, *"abcdefgh")
        await idle()
        assert 4 == receivers.in_flight[ONE]

        cancel(dispatcher, TWO)
        await idle()

        assert 8 == receivers.in_flight[ONE]


async def test_a_failure_closes_an_origin_until_the_next_answer(
    dispatching, store, receivers, clock
):
    """After a failure a receiver is probed, and one answer ends the probing."""
    names = [str(number) for number in range(12)]

    async with dispatching(origin_concurrency=4):
        await answered_once(store, receivers)
        receivers.answers[ONE].append(answer(500))
        await add_deliveries(store, ONE, *names)
        await store.settled.reaches(12)

    assert START == clock.now()


async def test_a_failed_attempt_is_repeated_after_the_schedule(
    dispatching, store, receivers, clock
):
    """The next attempt is made exactly when the schedule says, with the same bytes."""
    receivers.answers[ONE].extend([answer(500), NoAnswer(AttemptOutcome.TIMEOUT, "")])

    async with dispatching():
        await add_delivery(store)
        await store.settled.reaches(1)
        for count, delay in ((1, 5 * SECOND), (2, 300 * SECOND)):
            await clock.parked()
            clock.advance(delay - timedelta(microseconds=1))
            await quiet(clock)
            assert count == len(receivers.requests)
            clock.advance(timedelta(microseconds=1))
            await store.settled.reaches(count + 1)

    assert ("delivered", ["refused", "timeout", "delivered"]) == await state_of(store, "msg_1")
    assert 1 == len({(one.body, one.headers["webhook-id"]) for one in receivers.requests.entries})


async def test_a_dead_delivery_is_never_attempted_again(dispatching, store, receivers, clock):
    """After the last failure of the schedule, no more requests are sent at any time."""
    receivers.answers[ONE].extend([answer(500)] * 9)

    async with dispatching():
        await add_delivery(store)
        for count in (1, 2, 3):
            await store.settled.reaches(count)
            await clock.parked()
            clock.advance(300 * SECOND)
        await quiet(clock)
        clock.advance(timedelta(days=9))
        await quiet(clock)

    assert ("dead", ["refused"] * 3) == await state_of(store, "msg_1")
    assert 3 == len(receivers.requests)


async def test_an_error_on_our_side_is_not_an_attempt(dispatching, store, receivers, clock, caplog):
    """An error before the request is logged and not recorded; the delivery is postponed."""
    receivers.answers[ONE].append(LookupError("a defect"))

    async with dispatching() as (_, running):
        await add_delivery(store, "1", origin=ONE)
        await add_delivery(store, "2", origin=TWO)
        await store.settled.reaches(1)
        await store.released.reaches(1)
        assert not running.done()
        assert ("delivered", ["delivered"]) == await state_of(store, "msg_2")
        assert ("pending", []) == await state_of(store, "msg_1")
        assert "attempt.failed" in caplog.messages

        await clock.parked()
        clock.advance(POSTPONEMENT)
        await store.settled.reaches(2)

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_1")


async def test_errors_on_our_side_do_not_count_as_failures(dispatching, store, receivers, clock):
    """After any number of errors on our side, the delivery is pending and attempted again."""
    receivers.answers[ONE].extend([StorageUnavailable("unreadable")] * 5)

    async with dispatching():
        await add_delivery(store, "1", origin=ONE)
        for count in range(1, 6):
            await store.released.reaches(count)
            await clock.parked()
            clock.advance(POSTPONEMENT)
        await store.settled.reaches(1)

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_1")


async def test_errors_on_our_side_do_not_change_the_state_of_a_receiver(
    dispatching, store, receivers
):
    """After an error on our side, an unknown origin still gets one attempt at a time."""
    receivers.answers[ONE].append(LookupError("a defect"))

    async with dispatching():
        await add_delivery(store, "1", origin=ONE)
        await store.released.reaches(1)
        receivers.hang(ONE)
        await add_deliveries(store, ONE, "2", "3")
        await receivers.requests.reaches(2)
        await idle()
        assert 1 == receivers.peaks[ONE]
        receivers.let_all_go()


async def test_a_failed_release_does_not_stop_other_deliveries(
    dispatching, store, receivers, clock, caplog
):
    """A lease that cannot be released runs out, and the other deliveries continue."""
    receivers.answers[ONE].append(LookupError("a defect"))

    async def broken(*_arguments):
        raise ZeroDivisionError

    store.release = broken
    async with dispatching() as (_, running):
        await add_delivery(store, "1", origin=ONE)
        await add_delivery(store, "2", origin=TWO)
        await store.settled.reaches(1)
        await quiet(clock)
        assert not running.done()

    assert "release.failed" in caplog.messages


async def test_an_error_on_our_side_releases_its_slot(dispatching, store, receivers):
    """After more errors on our side than slots, the next attempt still gets a slot."""
    receivers.answers[ONE].extend([LookupError("again")] * 3)

    async with dispatching(concurrency=1, origin_concurrency=1):
        await add_deliveries(store, ONE, "1", "2", "3", "4")
        await store.settled.reaches(1)

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_4")


async def test_a_backlog_of_one_origin_does_not_stop_another(
    dispatching, store, elsewhere, receivers
):
    """A delivery to another origin is leased in the same round as a backlog of older ones."""
    count = 3 * LEASE_AHEAD
    for number in range(count):
        await add_delivery(elsewhere, f"old{number}", origin=ONE, at=START - SECOND)
    await add_delivery(elsewhere, "other", origin=TWO, at=START)

    async with dispatching(concurrency=2, origin_concurrency=1):
        await store.settled.reaches(count + 1)

    sent_before = receivers.ids.index("msg_other")
    assert sent_before <= LEASE_AHEAD


async def test_a_hold_that_was_not_stored_is_still_kept(dispatching, store, receivers, clock):
    """During a hold the deliveries of the origin are not leased repeatedly."""
    receivers.answers[ONE].append(answer(429, retry_after="60"))
    store.failing.append("settle")

    async with dispatching():
        await add_delivery(store, "1")
        await store.failed.reaches(1)
        await add_delivery(store, "2")
        await quiet(clock)
        assert len(store.released.entries) <= 1
        assert 1 == len(receivers.requests.entries)


async def test_an_attempt_begins_only_with_time_to_settle_it(dispatching, store, receivers, clock):
    """A delivery whose lease could end before its settlement is released."""
    async with dispatching(origin_concurrency=1):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        await add_deliveries(store, ONE, "1", "2")
        await quiet(clock)
        clock.advance(LEASE_MARGIN - SETTLE_MARGIN)
        await quiet(clock)
        receivers.let_go(ONE)
        await store.released.reaches(1)

        assert "msg_2" == store.released.entries[0][0].id
        receivers.let_all_go()


@pytest.mark.parametrize("method", ["lease_deliveries", "settle"])
async def test_an_outage_of_the_database_does_not_end_the_dispatcher(
    dispatching, store, elsewhere, clock, method
):
    """The loop continues, and an unsettled delivery is attempted again after its lease."""
    await add_delivery(elsewhere)
    store.failing.append(method)

    async with dispatching() as (_, running):
        await store.failed.reaches(1)
        while not store.settled.entries:
            assert not running.done()
            await clock.parked()
            clock.advance(LEASE)
            await clock.parked()
            await idle()

    assert "delivered" == (await state_of(store, "msg_1"))[0]


# Retry-After


async def test_retry_after_holds_the_whole_origin(dispatching, store, receivers, clock):
    """During a hold nothing is sent to the origin; other origins are called."""
    receivers.answers[ONE].append(answer(429, retry_after="60"))

    async with dispatching():
        await add_delivery(store, "1")
        await store.settled.reaches(1)
        await add_delivery(store, "2")
        await add_delivery(store, "3", origin=TWO)
        await store.settled.reaches(2)
        assert ("delivered", ["delivered"]) == await state_of(store, "msg_3")

        await clock.parked()
        clock.advance(60 * SECOND - timedelta(microseconds=1))
        await quiet(clock)
        assert ["msg_1", "msg_3"] == receivers.ids

        clock.advance(timedelta(microseconds=1))
        await store.settled.reaches(4)

    assert ["msg_1", "msg_2"] == sorted(receivers.ids[2:])


async def test_retry_after_releases_waiting_deliveries(dispatching, store, receivers, clock):
    """Deliveries that were leased before the hold are released without a request."""
    receivers.hang(ONE)
    receivers.answers[ONE].append(answer(503, retry_after="60"))

    async with dispatching(origin_concurrency=1):
        await add_deliveries(store, ONE, "1", "2", "3")
        await receivers.requests.reaches(1)
        await quiet(clock)
        receivers.let_all_go()
        await store.settled.reaches(1)
        await quiet(clock)
        assert ["msg_1"] == receivers.ids
        assert ("pending", []) == await state_of(store, "msg_2")

        clock.advance(60 * SECOND)
        await store.settled.reaches(4)

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_2")


async def test_retry_after_applies_to_deliveries_of_the_same_transaction(
    dispatching, store, receivers, memory, clock
):
    """A delivery that is committed together with the hold of its origin is not sent."""
    receivers.hang(ONE)
    receivers.answers[ONE].append(answer(503, retry_after="60"))
    invoices = []
    for id_, origin in (("two", TWO), ("late", ONE)):
        await store.accept(an_invoice(id_, origin=origin))
        invoices.append(await lease_invoice(store))

    async with dispatching():
        await add_delivery(store, "first")
        await receivers.requests.reaches(1)
        await quiet(clock)
        memory.shut()
        writing = [asyncio.create_task(store.accept(an_invoice("unrelated", origin=None)))]
        await memory.reached()
        # All of this waits for one transaction: a step, the hold, and another step.
        step = a_step(invoices[0], event=an_event(delivery_id="msg_two"))
        writing.append(asyncio.create_task(take_step(store, step)))
        await idle()
        receivers.let_all_go()
        await receivers.answered.reaches(1)
        await idle()
        step = a_step(invoices[1], event=an_event(delivery_id="msg_late"))
        writing.append(asyncio.create_task(take_step(store, step)))
        await idle()
        memory.open()
        await asyncio.gather(*writing)
        await store.settled.reaches(2)
        await quiet(clock)

    assert ["msg_first", "msg_two"] == receivers.ids


async def test_a_delivery_that_is_committed_during_a_hold_is_released(
    dispatching, store, receivers, clock
):
    """A lease that was reserved before a hold is not attempted during it."""
    async with dispatching() as (dispatcher, _):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        receivers.answers[ONE].append(answer(503, retry_after="3600"))
        await add_delivery(store, "first")
        await idle()
        leased_until = reserve(dispatcher, ONE)
        receivers.let_all_go()
        await store.settled.reaches(1)

        await add_delivery(store, "second")
        due = await lease_deliveries(store, now=clock.now() + timedelta(days=1))
        (late,) = [one for one in due if one.id == "msg_second"]
        dispatcher._receivers.wait(replace(late, leased_until=leased_until))
        dispatcher._begin_attempts()
        await store.released.reaches(1)

    assert ["msg_first"] == receivers.ids


async def test_the_longer_of_two_holds_applies(dispatching, store, receivers, clock):
    """After holds of a minute and of a second, the receiver is not called for a minute."""
    async with dispatching(origin_concurrency=2):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        refusals = [answer(503, retry_after="60"), answer(503, retry_after="1")]
        receivers.answers[ONE].extend(refusals)
        await add_deliveries(store, ONE, "1", "2")
        await receivers.requests.reaches(2)
        receivers.let_all_go()
        await store.settled.reaches(2)
        await add_delivery(store, "3")
        await clock.parked()
        clock.advance(59 * SECOND)
        await quiet(clock)

    assert ["msg_1", "msg_2"] == sorted(receivers.ids)


# The order of an invoice


async def test_the_events_of_an_invoice_arrive_in_order(dispatching, store, receivers, clock):
    """A later event is not sent before the earlier one is delivered, whatever number of retries."""
    receivers.answers[ONE].append(answer(500))

    async with dispatching():
        await add_two_events(store)
        await store.settled.reaches(1)
        await quiet(clock)
        assert ["msg_1a"] == receivers.ids

        clock.advance(5 * SECOND)
        await store.settled.reaches(2)
        await clock.parked()
        clock.advance(POLL)
        await store.settled.reaches(3)

    assert ["msg_1a", "msg_1a", "msg_1b"] == receivers.ids


async def test_the_next_event_is_sent_as_soon_as_the_earlier_is_delivered(
    dispatching, store, receivers, clock
):
    """After the delivery of the earlier event, the next event is sent without a delay."""
    receivers.hang(ONE)

    async with dispatching():
        await add_two_events(store)
        await receivers.requests.reaches(1)
        await clock.parked()
        receivers.let_all_go()
        await store.settled.reaches(2)

    assert START == clock.now()
    assert ["msg_1a", "msg_1b"] == receivers.ids


# Leases


async def test_an_attempt_with_a_stale_lease_changes_nothing(
    dispatching, store, receivers, clock, caplog
):
    """The next holder of the lease settles the delivery; the late answer is logged and ignored."""
    caplog.set_level(logging.INFO)

    async with dispatching():
        await answered_once(store, receivers)
        receivers.hang(ONE)
        receivers.answers[ONE].append(answer(410))
        await add_delivery(store)
        await receivers.requests.reaches(1)
        await clock.parked()
        clock.advance(LEASE)
        await receivers.requests.reaches(2)
        receivers.let_all_go()
        settlements = await store.settled.reaches(2)

    assert {(410, False), (200, True)} == {
        (attempt.status_code, is_settled) for attempt, is_settled in settlements
    }
    assert ("delivered", ["lost", "delivered"]) == await state_of(store, "msg_1")
    assert "attempt.outlived_lease" in caplog.messages


async def test_a_lease_that_waited_too_long_for_a_slot_is_released(
    dispatching, store, receivers, clock
):
    """An attempt that could outlast its lease does not begin; the delivery is leased again."""
    async with dispatching(origin_concurrency=1):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        await add_deliveries(store, ONE, "1", "2")
        await receivers.requests.reaches(1)
        await clock.parked()
        clock.advance(LEASE_MARGIN)
        receivers.let_all_go()
        await store.settled.reaches(2)
        assert ["msg_2"] == [delivery.id for delivery, _ in store.released.entries]

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_1")
    assert ("delivered", ["delivered"]) == await state_of(store, "msg_2")
    assert ["msg_1", "msg_2"] == receivers.ids


# Draining


async def test_a_drain_finishes_attempts_in_flight(dispatching, store, receivers, clock):
    """After a drain the attempts in flight are settled, and then the dispatcher ends."""
    receivers.hang(ONE)

    async with dispatching() as (dispatcher, running):
        await add_delivery(store)
        await receivers.requests.reaches(1)
        dispatcher.drain()
        await idle()
        assert not running.done()
        receivers.let_all_go()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_1")


async def test_a_drain_releases_waiting_deliveries(dispatching, store, elsewhere, receivers):
    """Deliveries that wait for a slot are released before the dispatcher ends."""
    receivers.hang(ONE)

    async with dispatching(origin_concurrency=1) as (dispatcher, running):
        await add_deliveries(store, ONE, "1", "2", "3")
        await receivers.requests.reaches(1)
        dispatcher.drain()
        receivers.let_all_go()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running

    assert ["msg_1"] == receivers.ids
    assert ("pending", []) == await state_of(store, "msg_2")
    due = await lease_due(elsewhere)
    assert ["msg_2", "msg_3"] == sorted(delivery.id for delivery in due.deliveries)
    assert [0, 0] == [delivery.attempt_count for delivery in due.deliveries]


async def test_after_a_drain_nothing_is_leased(dispatching, store, elsewhere, receivers):
    """A delivery that is committed after a drain is unleased."""
    async with dispatching() as (dispatcher, running):
        dispatcher.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running
        await add_delivery(store)

    assert [] == receivers.ids
    assert 0 == (await lease_delivery(elsewhere)).attempt_count


async def test_a_delivery_that_is_written_during_a_drain_is_unleased(
    dispatching, store, elsewhere, receivers, memory
):
    """A delivery that is being written during a drain does not stay leased afterwards."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)

    async with dispatching() as (dispatcher, _):
        memory.shut()
        step = a_step(invoice, event=an_event())
        writing = asyncio.create_task(take_step(store, step))
        await memory.reached()
        dispatcher.drain()
        await idle()
        memory.open()
        await writing

    assert [] == receivers.ids
    assert ["msg_1"] == [one.id for one in (await lease_due(elsewhere)).deliveries]
    assert ("pending", []) == await state_of(store, "msg_1")


# Steps and events


OTHER = replace(INVOICE_NOTIFICATION, name="other")
WITH_OTHER = (*OPERATIONS, replace(OPERATIONS[0], callbacks=(OTHER,)))


async def accepted(store, id_="1", **changes):
    """An invoice that is leased, so that a step of it can be written."""
    await store.accept(an_invoice(id_, **changes))
    return await lease_invoice(store)


def leased_counts(dispatcher):
    """The number of leases, in all and for each origin that has any."""
    return dispatcher.held_count, {
        one.origin.name: one.held_count for one in dispatcher._receivers._busy.values()
    }


@pytest.mark.parametrize("loss", [Loss.BEFORE, Loss.AFTER])
async def test_a_step_that_cannot_be_written_reserves_nothing(
    dispatching, store, receivers, memory, loss
):
    """A failed write releases the reserved lease, and the caller gets the error."""
    invoice = await accepted(store)

    async with dispatching() as (dispatcher, _):
        memory.losses.append(loss)
        with pytest.raises(StorageUnavailable):
            await take_step(store, a_step(invoice, event=an_event()))

        assert (0, {}) == leased_counts(dispatcher)

    assert [] == receivers.ids


@pytest.mark.parametrize("loss", [Loss.BEFORE, Loss.AFTER])
async def test_an_invoice_that_cannot_be_written_reserves_nothing(
    dispatching, receivers, memory, loss
):
    """A failed write of an invoice with its first step releases the lease of its delivery."""
    async with dispatching() as (dispatcher, _):
        memory.losses.append(loss)
        with pytest.raises(StorageUnavailable):
            await dispatcher.accept(a_step(an_invoice(), event=an_event()))

        assert (0, {}) == leased_counts(dispatcher)

    assert [] == receivers.ids


async def test_an_id_that_is_known_reserves_nothing(dispatching, store, receivers, memory):
    """The callback of a replay is not sent again, and releases the lease that was reserved."""
    async with dispatching() as (dispatcher, _):
        assert Acceptance.STORED is await dispatcher.accept(a_step(an_invoice(), event=an_event()))
        assert Acceptance.REPLAYED is await dispatcher.accept(
            a_step(an_invoice(), event=an_event())
        )
        await store.settled.reaches(1)

        assert (0, {}) == leased_counts(dispatcher)

    assert receivers.ids == [row["id"] for row in await rows_of(memory, deliveries)]
    assert 1 == len(receivers.ids)


async def test_a_stale_step_reserves_nothing(dispatching, store, elsewhere, receivers, clock):
    """Of two steps in one transaction, only the one with the valid lease starts an attempt."""
    stale = await accepted(store)
    held = await lease_invoice(store, now=START + LEASE + LEASE)

    async with dispatching() as (dispatcher, _):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        given = await asyncio.gather(
            take_step(store, a_step(stale, event=an_event(delivery_id="msg_stale"))),
            take_step(store, a_step(held, event=an_event(delivery_id="msg_held"))),
        )

        assert [False, True] == given
        assert (1, {ONE: 1}) == leased_counts(dispatcher)

    assert ["msg_held"] == receivers.ids


async def test_a_delivery_to_an_origin_on_hold_reserves_nothing(
    dispatching, store, elsewhere, receivers, memory
):
    """A delivery to an origin on hold is committed unleased and not attempted."""
    await add_delivery(elsewhere, "first")
    until = START + 3600 * SECOND
    held = failed(await lease_delivery(elsewhere), due_at=until, held_until=until)
    invoice = await accepted(elsewhere)

    async with dispatching() as (dispatcher, _):
        await elsewhere.settle(held)
        assert await take_step(store, a_step(invoice, event=an_event()))

        assert (0, {}) == leased_counts(dispatcher)

    assert [None, None] == [row["leased_until"] for row in await rows_of(memory, deliveries)]
    assert [] == receivers.ids


async def test_a_second_event_reserves_nothing(dispatching, store, receivers, memory):
    """An event that may have to wait for an earlier event is committed unleased."""
    receivers.hang(ONE)

    async with dispatching() as (dispatcher, _):
        await add_two_events(store)
        rows = {row["id"]: row for row in await rows_of(memory, deliveries)}
        assert (True, None) == (
            rows["msg_1a"]["leased_until"] is not None,
            rows["msg_1b"]["leased_until"],
        )
        assert (1, {ONE: 1}) == leased_counts(dispatcher)


async def test_an_event_without_a_step_is_delivered_at_once(dispatching, store, receivers, clock):
    """An event that is recorded beside the collection is attempted like any other event."""
    invoice = await accepted(store)

    async with dispatching() as (dispatcher, _):
        step = a_step(invoice, None, event=an_event("Reminder sent", paid=False))
        assert await take_step(store, step)
        await store.settled.reaches(1)
        assert (0, {}) == leased_counts(dispatcher)

    assert START == clock.now()
    assert [b'{"description":"Reminder sent","paid":false}'] == [
        request.body for request in receivers.requests.entries
    ]
    assert "received" == (await store.history.find_invoice("dev", "1"))["status"]


async def test_an_event_that_becomes_the_second_reserves_nothing(
    dispatching, store, receivers, memory
):
    """An event that is the second of its invoice when it is written releases its lease."""
    invoice = await accepted(store)
    receivers.hang(ONE)

    async with dispatching() as (dispatcher, _):
        for id_ in ("msg_1", "msg_2"):
            step = a_step(invoice, None, event=an_event(delivery_id=id_))
            assert await take_step(store, step)

        assert (1, {ONE: 1}) == leased_counts(dispatcher)
        rows = await rows_of(memory, deliveries)
        assert [("msg_1", True), ("msg_2", False)] == [
            (row["id"], row["leased_until"] is not None) for row in rows
        ]


async def test_of_two_callbacks_one_may_have_no_capacity(dispatching, store, receivers, memory):
    """Each delivery of an event is attempted at once if its origin has capacity, or else later."""
    both = (a_callback(ONE), a_callback(TWO, name=OTHER.name))
    event = replace(an_event(), callbacks=(INVOICE_NOTIFICATION.name, OTHER.name))
    invoice = await accepted(store, callbacks=both)
    receivers.hang(TWO)

    async with dispatching(operations=WITH_OTHER, concurrency=32) as (dispatcher, _):
        reserved_count = 0
        while reserve(dispatcher, ONE):
            reserved_count += 1
        assert await dispatcher.record(a_step(invoice, event=event))

        rows = {row["origin"]: row["leased_until"] for row in await rows_of(memory, deliveries)}
        assert (None, START + LEASE) == (rows[ONE], rows[TWO])
        assert {ONE: reserved_count, TWO: 1} == leased_counts(dispatcher)[1]
        await receivers.requests.reaches(1)
        for _ in range(reserved_count):
            cancel(dispatcher, ONE)
        receivers.let_all_go()
        await store.settled.reaches(2)

    assert [f"{origin}/invoices/1" for origin in (TWO, ONE)] == [
        request.url for request in receivers.requests.entries
    ]


async def test_an_event_that_cannot_be_rendered_reserves_nothing(dispatching, store, receivers):
    """An invoice with a callback that this version does not know takes no capacity."""
    invoice = await accepted(store, callbacks=(a_callback(ONE), a_callback(TWO, name="gone")))
    event = replace(an_event(), callbacks=(INVOICE_NOTIFICATION.name, "gone"))

    async with dispatching() as (dispatcher, _):
        with pytest.raises(KeyError, match="gone"):
            await dispatcher.record(a_step(invoice, event=event))

        assert (0, {}) == leased_counts(dispatcher)


# The log


async def test_every_event_is_one_line(dispatching, store, caplog):
    """An event is logged after its commit, with its deliveries."""
    caplog.set_level(logging.INFO)

    async with dispatching():
        await add_delivery(store)

    (fields,) = [record.fields for record in caplog.records if record.msg == "event.recorded"]
    assert {
        "request_id": "request of 1",
        "invoice_id": "1",
        "account_id": "dev",
        "description": "Invoice paid",
        "paid": True,
        "delivery_ids": ["msg_1"],
    } == fields


async def test_every_attempt_is_one_log_line(dispatching, store, receivers, caplog):
    """An attempt with any outcome is logged once, with all its fields."""
    caplog.set_level(logging.INFO)
    receivers.answers[ONE].append(answer(500))
    receivers.answers[TWO].append(answer(410))

    async with dispatching():
        for id_, origin in (("1", ONE), ("2", TWO), ("3", THREE)):
            await add_delivery(store, id_, origin=origin)
        await store.settled.reaches(3)

    fields = [record.fields for record in caplog.records if record.msg == "attempt.settled"]
    assert {("msg_1", "pending", 500), ("msg_2", "dead", 410), ("msg_3", "delivered", 200)} == {
        (one["delivery_id"], one["status"], one["status_code"]) for one in fields
    }
    assert 3 == len(fields)
    assert "/invoices/" not in repr(fields)


async def test_an_answer_is_kept_during_an_outage_of_the_database(
    dispatching, store, elsewhere, receivers, clock
):
    """An attempt that cannot be settled is settled after the outage, and not repeated."""
    await add_delivery(elsewhere)
    store.failing.append("settle")

    async with dispatching():
        await store.failed.reaches(1)
        while not store.settled.entries:
            await clock.parked()
            clock.advance(POLL)
            await idle()

    assert ("delivered", ["delivered"]) == await state_of(store, "msg_1")
    assert 1 == len(receivers.requests.entries)


# Metrics


DELIVERED_AFTER = "invoices_accepted_to_delivered_seconds_count"


@pytest.mark.parametrize("failure_count", [0, 1])
async def test_a_redelivery_is_not_in_the_delivery_time(
    dispatching, store, receivers, clock, metrics, failure_count
):
    """A redelivery may come days after its event, so it is not measured."""
    await add_delivery(store)
    receivers.answers[ONE].extend([answer(410), *(answer(500) for _ in range(failure_count))])

    async with dispatching():
        await store.settled.reaches(1)
        clock.advance(100_000 * SECOND)
        await store.redeliver("dev", "msg_1", clock.now())
        await store.settled.reaches(2)
        for _ in range(failure_count):
            await clock.parked()
            clock.advance(10 * SECOND)
        await store.settled.reaches(2 + failure_count)

    assert ("delivered", 2 + failure_count) == (
        (await store.history.find_delivery("dev", "msg_1"))["status"],
        len(store.settled),
    )
    assert 0 == samples_of(metrics)[DELIVERED_AFTER]


async def test_the_delivery_time_includes_retries(dispatching, store, receivers, clock, metrics):
    """The metric measures from the acceptance of the invoice to the acknowledgement."""
    await add_delivery(store)
    receivers.answers[ONE].append(answer(500))

    async with dispatching():
        await store.settled.reaches(1)
        await clock.parked()
        clock.advance(10 * SECOND)
        await store.settled.reaches(2)

    assert 1 == samples_of(metrics)[DELIVERED_AFTER]


# Pauses


async def pause(store, receiver=ONE):
    """Pause a receiver of the account `dev`; returns what is known of it."""
    known = await store.receivers.find("dev", id_of(a_receiver(receiver)), START)
    await store.receivers.pause(known, START)
    return known


async def test_a_paused_receiver_gets_nothing_until_it_is_resumed(
    dispatching, store, elsewhere, receivers, clock
):
    """Another process pauses and resumes; between the two, no request is made, at no poll."""
    await add_delivery(elsewhere)
    known = await pause(elsewhere)

    async with dispatching():
        for _ in range(3):
            clock.advance(POLL)
            await clock.parked()
        await store.redeliver("dev", "msg_1", START)
        await clock.parked()
        assert 0 == len(receivers.requests)

        await store.receivers.resume(known)
        await receivers.requests.reaches(1)


async def test_what_is_leased_and_not_in_flight_is_given_back(dispatching, store, receivers, clock):
    """A pause takes back what waits here for a slot; the attempt in flight ends as usual."""
    receivers.hang(ONE)
    async with dispatching(concurrency=1, origin_concurrency=1):
        await add_deliveries(store, ONE, "1", "2", "3")
        await receivers.requests.reaches(1)

        await pause(store)
        await clock.parked()
        receivers.let_go(ONE)
        await store.settled.reaches(1)
        await clock.parked()

        assert 1 == len(receivers.requests)
        rows = await rows_of(store.memory, deliveries)
        assert [None, None, None] == [row["leased_until"] for row in rows]
        assert ["delivered", "pending", "pending"] == sorted(row["status"] for row in rows)


async def test_a_new_event_for_a_paused_receiver_is_not_attempted(
    dispatching, store, receivers, clock
):
    """It is stored without a lease, and the capacity that was reserved for it is free again."""
    async with dispatching() as (dispatcher, _):
        await add_delivery(store, "1")
        await store.settled.reaches(1)
        await pause(store)
        await add_delivery(store, "2")
        await clock.parked()

        assert 1 == len(receivers.requests)
        assert 0 == dispatcher.held_count


async def test_a_paused_receiver_does_not_delay_others(dispatching, store, receivers, clock):
    """Others on its host get their attempts, however many deliveries wait for it."""
    for number in range(5):
        await add_delivery(store, f"{number}", path="/paused")
    known = await store.receivers.find("dev", id_of(a_receiver(path="/paused")), START)
    await store.receivers.pause(known, START)

    async with dispatching(concurrency=1):
        await add_delivery(store, "x")
        await receivers.requests.reaches(1)
        await clock.parked()

        assert [f"{ONE}/invoices/x"] == [one.url for one in receivers.requests.entries]
