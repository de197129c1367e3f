import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from service.api.application import OPERATIONS
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.delivery.dispatcher import LEASE_MARGIN, POSTPONEMENT, SETTLE_MARGIN
from service.delivery.failures import NoAnswer
from service.delivery.fairness import COOLDOWN_FIRST, LEASE_AHEAD
from service.domain.outcomes import AttemptOutcome
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
    a_round,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    failed,
    lease_deliveries,
    lease_delivery,
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
    """What is stored; a test may hold back its writes."""
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
    """Every receiver there is."""
    return FakeReceivers()


@pytest.fixture
def clock():
    """The clock of the dispatcher."""
    return ManualClock()


@pytest.fixture
def metrics():
    """What is counted."""
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
    """A delivery `msg_{name}` to *origin* for each of *names*."""
    for name in names:
        await add_delivery(store, name, origin=origin)


async def answered_once(store, receivers, origin=ONE):
    """An origin that has answered, and so gets more than one attempt at a time."""
    await add_delivery(store, "opening", origin=origin)
    await store.settled.reaches(1)
    store.settled.entries.clear()
    receivers.requests.entries.clear()
    receivers.answered.entries.clear()


def cancel(dispatcher, origin):
    """Give up a lease that was reserved, as a write that failed does."""
    dispatcher._cancel(origin)
    dispatcher._begin_attempts()


async def quiet(clock):
    """Wait until the dispatcher waits, and what it started has begun."""
    await idle()
    await clock.parked()


async def story(store, id_):
    """The state of a delivery and what came of its attempts."""
    told = await store.find_delivery("dev", id_)
    return told["status"], [attempt["outcome"] for attempt in told["attempts"]]


# Waking up


async def test_a_lone_delivery_leaves_at_once(dispatching, store, receivers, clock):
    """A delivery is attempted as soon as it is committed: no instant has to come first."""
    async with dispatching():
        await add_delivery(store)
        await store.settled.reaches(1)

    assert START == clock.now()
    assert ["msg_1"] == receivers.ids
    assert ("delivered", ["delivered"]) == await story(store, "msg_1")


async def test_what_was_waiting_before_the_start_leaves_at_once(dispatching, store, receivers):
    """What another process left behind is found by the first round."""
    await add_deliveries(store, ONE, "1", "2")

    async with dispatching():
        await store.settled.reaches(2)

    assert ["msg_1", "msg_2"] == sorted(receivers.ids)


async def test_what_another_process_wrote_is_found_by_the_poll(
    dispatching, elsewhere, store, clock
):
    """Without a signal, a delivery is found within the poll."""
    async with dispatching():
        await add_delivery(elsewhere)
        assert clock.now() + POLL == await clock.parked()
        clock.advance(POLL)
        await store.settled.reaches(1)

    assert ("delivered", ["delivered"]) == await story(store, "msg_1")


async def test_two_processes_share_and_repeat_nothing(
    dispatching, store, elsewhere, receivers, memory
):
    """Any number of dispatchers work on one database, and each delivery is sent by one of them."""
    names = [str(number) for number in range(40)]
    await add_deliveries(store, ONE, *names[::2])
    await add_deliveries(store, TWO, *names[1::2])

    async with dispatching(), dispatching(on=elsewhere):
        await receivers.answered.reaches(40)

    assert sorted(f"msg_{name}" for name in names) == sorted(receivers.ids)
    assert {"delivered"} == {row["status"] for row in await rows_of(memory, deliveries)}


# Limits


async def test_attempts_in_flight_are_limited(dispatching, store, receivers, clock):
    """No more attempts run at the same time than the operator allows, whoever they go to."""
    origins = [f"https://r{number}.example:443" for number in range(6)]
    for origin in origins:
        receivers.hang(origin)

    async with dispatching(concurrency=2):
        for number, origin in enumerate(origins):
            await add_delivery(store, str(number), origin=origin)
        await receivers.requests.reaches(2)
        await quiet(clock)
        assert 2 == len(receivers.requests)
        receivers.let_all_go()
        await store.settled.reaches(6)

    assert 2 == receivers.peak


async def test_attempts_to_one_origin_are_limited(dispatching, store, receivers, clock):
    """An origin has its share of the slots, even while others stand empty."""
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
    """However much waits for a receiver that hangs, others are called without any delay."""
    receivers.hang(ONE)
    names = [f"one{number}" for number in range(3 * LEASE_AHEAD * 4)]
    if is_before:
        await add_deliveries(elsewhere, ONE, *names)
        await add_delivery(elsewhere, "two", origin=TWO)

    async with dispatching(concurrency=4, origin_concurrency=1):
        if not is_before:
            await add_deliveries(store, ONE, *names)
            await add_delivery(store, "two", origin=TWO)
        await store.settled.reaches(1)
        assert ("delivered", ["delivered"]) == await story(store, "msg_two")
        assert (START, 1) == (clock.now(), receivers.in_flight[ONE])


async def test_slots_that_fall_free_are_used_at_once(dispatching, store, receivers, clock):
    """A backlog far beyond what is leased is worked off without the clock moving."""
    names = [str(number) for number in range(5 * LEASE_AHEAD)]
    await add_deliveries(store, ONE, *names)

    async with dispatching(concurrency=2, origin_concurrency=1):
        await store.settled.reaches(len(names))

    assert START == clock.now()
    assert 1 == receivers.peaks[ONE]


async def test_capacity_that_falls_free_during_a_round_is_used_at_once(
    dispatching, store, elsewhere, receivers, clock, memory
):
    """What a round left behind for want of capacity does not wait for the poll."""
    receivers.hang(ONE)
    first = [f"a{number}" for number in range(LEASE_AHEAD - 1)]

    async with dispatching(concurrency=2, origin_concurrency=1):
        await add_deliveries(store, ONE, *first)
        await receivers.requests.reaches(1)
        # There is capacity for one more of this origin; two are left behind.
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


async def test_a_backlog_ends_although_more_comes_in(
    dispatching, store, receivers, clock, monkeypatch
):
    """A scan that has capacity for all it finds ends the backlog, whatever came in meanwhile."""
    refused_count = 0

    async def lease_while_more_comes_in(round_):
        nonlocal refused_count
        if refused_count < 5 and dispatcher._reserve(ONE) is None:
            refused_count += 1
        return await lease(round_)

    async with dispatching() as (dispatcher, _):
        await answered_once(store, receivers)
        kept_count = 0
        while dispatcher._reserve(ONE):
            kept_count += 1
        lease = dispatcher._store.lease_deliveries
        monkeypatch.setattr(dispatcher._store, "lease_deliveries", lease_while_more_comes_in)
        for _ in range(kept_count):
            cancel(dispatcher, ONE)
        await quiet(clock)

        # One for the scan that begins with the refusal, one for the scan that finds nothing.
        assert 2 == refused_count
        assert dispatcher._reserve(ONE)
        cancel(dispatcher, ONE)


async def test_an_origin_that_is_not_known_is_probed_first(dispatching, store, receivers, clock):
    """A receiver gets one attempt, and more at a time once it has answered."""
    receivers.hang(ONE)

    async with dispatching(origin_concurrency=3):
        await add_deliveries(store, ONE, "1", "2", "3", "4")
        await receivers.requests.reaches(1)
        await quiet(clock)
        assert 1 == receivers.in_flight[ONE]
        receivers.let_go(ONE, 1)
        await receivers.requests.reaches(4)

    assert 3 == receivers.peaks[ONE]


async def test_a_hundred_that_hang_leave_slots_for_others(dispatching, store, receivers, clock):
    """However many receivers hang at the same time, one that comes new is called at once."""
    names = [f"https://r{number}.example:443" for number in range(100)]

    async with dispatching(concurrency=256, origin_concurrency=16):
        for number, origin in enumerate(names):
            receivers.hang(origin)
            await add_deliveries(store, origin, *(f"{number}-{event}" for event in range(10)))
        await receivers.requests.reaches(100)
        await quiet(clock)
        await add_delivery(store, "healthy", origin=ONE)
        await store.settled.reaches(1)

        assert ("delivered", ["delivered"]) == await story(store, "msg_healthy")
        assert START == clock.now()
        assert 101 == receivers.peak


async def test_origins_that_take_all_they_can_leave_slots_for_others(
    dispatching, store, receivers, clock
):
    """Receivers that answered before and then take their time do not get every slot."""
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

        assert ("delivered", ["delivered"]) == await story(store, "msg_healthy")


# Failures


async def test_what_waits_behind_a_failing_origin_keeps_its_attempts(
    dispatching, store, receivers, clock
):
    """One delivery at a time finds out whether a receiver is back; the others are not touched."""
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
        assert 16 == sum([await story(store, f"msg_{name}") == DELIVERED for name in names])
        clock.advance(300 * SECOND)
        await store.settled.reaches(4 + 20)


async def test_an_origin_whose_probe_failed_is_leased_for_one_probe(
    dispatching, store, receivers, clock
):
    """What waits for a receiver that failed stays in the database, all but one."""
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


async def test_slots_that_were_kept_for_nothing_are_used(dispatching, store, receivers):
    """Slots that were left for another origin are taken once that has nothing to send."""
    async with dispatching(concurrency=8, origin_concurrency=8) as (dispatcher, _):
        await answered_once(store, receivers)
        assert dispatcher._reserve(TWO)
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
    """After one failure among many a receiver is probed, and one answer opens it again."""
    names = [str(number) for number in range(12)]

    async with dispatching(origin_concurrency=4):
        await answered_once(store, receivers)
        receivers.answers[ONE].append(answer(500))
        await add_deliveries(store, ONE, *names)
        await store.settled.reaches(12)

    assert START == clock.now()


async def test_a_failed_attempt_comes_again_after_the_schedule(
    dispatching, store, receivers, clock
):
    """The second attempt is made when the schedule says and not before, with the same bytes."""
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

    assert ("delivered", ["refused", "timeout", "delivered"]) == await story(store, "msg_1")
    assert 1 == len({(one.body, one.headers["webhook-id"]) for one in receivers.requests.entries})


async def test_a_dead_delivery_is_never_attempted_again(dispatching, store, receivers, clock):
    """After the last failure, however long one waits, nothing more is sent."""
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

    assert ("dead", ["refused"] * 3) == await story(store, "msg_1")
    assert 3 == len(receivers.requests)


async def test_a_failure_on_our_side_is_no_attempt(dispatching, store, receivers, clock, caplog):
    """A defect is logged, recorded as nothing, stops no other, and the delivery waits a moment."""
    receivers.answers[ONE].append(LookupError("a defect"))

    async with dispatching() as (_, running):
        await add_delivery(store, "1", origin=ONE)
        await add_delivery(store, "2", origin=TWO)
        await store.settled.reaches(1)
        await store.released.reaches(1)
        assert not running.done()
        assert ("delivered", ["delivered"]) == await story(store, "msg_2")
        assert ("pending", []) == await story(store, "msg_1")
        assert "attempt.failed" in caplog.messages

        await clock.parked()
        clock.advance(POSTPONEMENT)
        await store.settled.reaches(2)

    assert ("delivered", ["delivered"]) == await story(store, "msg_1")


async def test_failures_on_our_side_never_use_up_the_schedule(dispatching, store, receivers, clock):
    """However often an attempt cannot be made, the delivery is pending and is attempted at last."""
    receivers.answers[ONE].extend([StorageUnavailable("unreadable")] * 5)

    async with dispatching():
        await add_delivery(store, "1", origin=ONE)
        for count in range(1, 6):
            await store.released.reaches(count)
            await clock.parked()
            clock.advance(POSTPONEMENT)
        await store.settled.reaches(1)

    assert ("delivered", ["delivered"]) == await story(store, "msg_1")


async def test_failures_on_our_side_say_nothing_about_the_receiver(dispatching, store, receivers):
    """An origin that has not answered yet gets one attempt at a time, whatever failed here."""
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


async def test_a_release_that_fails_stops_no_other(dispatching, store, receivers, clock, caplog):
    """A lease that cannot be given up runs out; the other deliveries go on."""
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


async def test_a_failure_on_our_side_gives_its_slot_back(dispatching, store, receivers):
    """As many attempts as there are slots may fail here, and the next one is made all the same."""
    receivers.answers[ONE].extend([LookupError("again")] * 3)

    async with dispatching(concurrency=1, origin_concurrency=1):
        await add_deliveries(store, ONE, "1", "2", "3", "4")
        await store.settled.reaches(1)

    assert ("delivered", ["delivered"]) == await story(store, "msg_4")


async def test_a_backlog_of_one_origin_hides_no_other(dispatching, store, elsewhere, receivers):
    """However many older deliveries wait for one origin, another one's leaves in the same round."""
    count = 3 * LEASE_AHEAD
    for number in range(count):
        await add_delivery(elsewhere, f"old{number}", origin=ONE, at=START - SECOND)
    await add_delivery(elsewhere, "other", origin=TWO, at=START)

    async with dispatching(concurrency=2, origin_concurrency=1):
        await store.settled.reaches(count + 1)

    sent_before = receivers.ids.index("msg_other")
    assert sent_before <= LEASE_AHEAD


async def test_a_hold_that_was_not_stored_is_kept_all_the_same(
    dispatching, store, receivers, clock
):
    """While the origin asked to be left alone, its deliveries are not leased over and over."""
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
    """What waited for its slot so long that settling could outlast the lease is given back."""
    receivers.hang(ONE)

    async with dispatching(origin_concurrency=1):
        await add_deliveries(store, ONE, "1", "2")
        await quiet(clock)
        clock.advance(LEASE_MARGIN - SETTLE_MARGIN)
        await quiet(clock)
        receivers.let_go(ONE)
        await store.released.reaches(1)

        assert "msg_2" == store.released.entries[0][0].id
        receivers.let_all_go()


@pytest.mark.parametrize("method", ["lease_deliveries", "settle"])
async def test_a_database_that_is_away_for_a_moment_is_survived(
    dispatching, store, elsewhere, clock, method
):
    """The loop goes on, and what could not be written is attempted again once its lease is over."""
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

    assert "delivered" == (await story(store, "msg_1"))[0]


# Retry-After


async def test_retry_after_holds_the_whole_origin(dispatching, store, receivers, clock):
    """After a Retry-After nothing is sent to the origin until then, and everything to others."""
    receivers.answers[ONE].append(answer(429, retry_after="60"))

    async with dispatching():
        await add_delivery(store, "1")
        await store.settled.reaches(1)
        await add_delivery(store, "2")
        await add_delivery(store, "3", origin=TWO)
        await store.settled.reaches(2)
        assert ("delivered", ["delivered"]) == await story(store, "msg_3")

        await clock.parked()
        clock.advance(60 * SECOND - timedelta(microseconds=1))
        await quiet(clock)
        assert ["msg_1", "msg_3"] == receivers.ids

        clock.advance(timedelta(microseconds=1))
        await store.settled.reaches(4)

    assert ["msg_1", "msg_2"] == sorted(receivers.ids[2:])


async def test_retry_after_holds_what_waits_for_a_slot(dispatching, store, receivers, clock):
    """Deliveries that were leased before the receiver asked are given back unsent."""
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
        assert ("pending", []) == await story(store, "msg_2")

        clock.advance(60 * SECOND)
        await store.settled.reaches(4)

    assert ("delivered", ["delivered"]) == await story(store, "msg_2")


async def test_retry_after_holds_what_is_written_in_the_same_moment(
    dispatching, store, receivers, memory, clock
):
    """A delivery that is committed together with the hold of its origin is not sent either."""
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
        # All of this waits for the same transaction: a step, the hold, and a step again.
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


async def test_a_delivery_that_comes_into_a_hold_is_given_back(
    dispatching, store, receivers, clock
):
    """What was reserved before the receiver asked for a hold is not attempted during it."""
    async with dispatching() as (dispatcher, _):
        await answered_once(store, receivers)
        receivers.hang(ONE)
        receivers.answers[ONE].append(answer(503, retry_after="3600"))
        await add_delivery(store, "first")
        await idle()
        leased_until = dispatcher._reserve(ONE)
        receivers.let_all_go()
        await store.settled.reaches(1)

        await add_delivery(store, "second")
        due = await lease_deliveries(store, now=clock.now() + timedelta(days=1))
        (late,) = [one for one in due if one.id == "msg_second"]
        dispatcher._origins.wait(replace(late, leased_until=leased_until))
        dispatcher._begin_attempts()
        await store.released.reaches(1)

    assert ["msg_first"] == receivers.ids


async def test_the_longer_of_two_holds_counts(dispatching, store, receivers, clock):
    """A receiver that asks for a minute and then for a second is left alone for the minute."""
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
    """A later event is not sent before the earlier one is delivered, however often that fails."""
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


async def test_the_next_event_leaves_as_soon_as_the_earlier_is_delivered(
    dispatching, store, receivers, clock
):
    """Waiting for its turn costs an event nothing but that."""
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


async def test_an_attempt_that_outlived_its_lease_changes_nothing(
    dispatching, store, receivers, clock, caplog
):
    """The delivery belongs to whoever leased it next; the late answer is logged and dropped."""
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
    assert ("delivered", ["lost", "delivered"]) == await story(store, "msg_1")
    assert "attempt.outlived_lease" in caplog.messages


async def test_what_waited_too_long_for_a_slot_is_given_back(dispatching, store, receivers, clock):
    """No attempt begins that might not end before its lease; it is leased anew instead."""
    receivers.hang(ONE)

    async with dispatching(origin_concurrency=1):
        await add_deliveries(store, ONE, "1", "2")
        await receivers.requests.reaches(1)
        await clock.parked()
        clock.advance(LEASE_MARGIN)
        receivers.let_all_go()
        await store.settled.reaches(2)
        assert ["msg_2"] == [delivery.id for delivery, _ in store.released.entries]

    assert ("delivered", ["delivered"]) == await story(store, "msg_1")
    assert ("delivered", ["delivered"]) == await story(store, "msg_2")
    assert ["msg_1", "msg_2"] == receivers.ids


# Draining


async def test_draining_finishes_what_is_in_flight(dispatching, store, receivers, clock):
    """After a drain the attempts in flight are settled, and only then the dispatcher ends."""
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

    assert ("delivered", ["delivered"]) == await story(store, "msg_1")


async def test_draining_gives_back_what_has_not_begun(dispatching, store, elsewhere, receivers):
    """What waits for a slot is free for another process as soon as the dispatcher has ended."""
    receivers.hang(ONE)

    async with dispatching(origin_concurrency=1) as (dispatcher, running):
        await add_deliveries(store, ONE, "1", "2", "3")
        await receivers.requests.reaches(1)
        dispatcher.drain()
        receivers.let_all_go()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running

    assert ["msg_1"] == receivers.ids
    assert ("pending", []) == await story(store, "msg_2")
    due = await elsewhere.lease_deliveries(a_round())
    assert ["msg_2", "msg_3"] == sorted(delivery.id for delivery in due.deliveries)
    assert [0, 0] == [delivery.attempt_count for delivery in due.deliveries]


async def test_after_a_drain_nothing_is_leased(dispatching, store, elsewhere, receivers):
    """What is written afterwards is left to the next process, free."""
    async with dispatching() as (dispatcher, running):
        dispatcher.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running
        await add_delivery(store)

    assert [] == receivers.ids
    assert 0 == (await lease_delivery(elsewhere)).attempt_count


async def test_what_is_written_while_draining_is_left_free(
    dispatching, store, elsewhere, receivers, memory
):
    """A delivery that was on its way into the database is not kept leased by who has ended."""
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
    assert ["msg_1"] == [one.id for one in (await elsewhere.lease_deliveries(a_round())).deliveries]
    assert ("pending", []) == await story(store, "msg_1")


# What is recorded


OTHER = replace(INVOICE_NOTIFICATION, name="other")
WITH_OTHER = (*OPERATIONS, replace(OPERATIONS[0], callbacks=(OTHER,)))


async def accepted(store, id_="1", **changes):
    """An invoice that is leased, so that a step of it can be written."""
    await store.accept(an_invoice(id_, **changes))
    return await lease_invoice(store)


def leased_counts(dispatcher):
    """How many leases the dispatcher counts, in all and for each origin that has any."""
    return dispatcher.held_count, {
        name: origin.held_count for name, origin in dispatcher._origins._busy.items()
    }


@pytest.mark.parametrize("loss", [Loss.BEFORE, Loss.AFTER])
async def test_a_step_that_cannot_be_written_reserves_nothing(
    dispatching, store, receivers, memory, loss
):
    """A failure of the database gives back what was reserved, and the caller learns of it."""
    invoice = await accepted(store)

    async with dispatching() as (dispatcher, _):
        memory.losses.append(loss)
        with pytest.raises(StorageUnavailable):
            await take_step(store, a_step(invoice, event=an_event()))

        assert (0, {}) == leased_counts(dispatcher)

    assert [] == receivers.ids


async def test_a_stale_step_reserves_nothing(dispatching, store, elsewhere, receivers, clock):
    """Of two holders that write in one transaction, only the rightful one starts an attempt."""
    stale = await accepted(store)
    held = await lease_invoice(store, now=START + LEASE + LEASE)
    receivers.hang(ONE)

    async with dispatching() as (dispatcher, _):
        given = await asyncio.gather(
            take_step(store, a_step(stale, event=an_event(delivery_id="msg_stale"))),
            take_step(store, a_step(held, event=an_event(delivery_id="msg_held"))),
        )

        assert [False, True] == given
        assert (1, {ONE: 1}) == leased_counts(dispatcher)

    assert ["msg_held"] == receivers.ids


async def test_a_delivery_to_a_held_origin_reserves_nothing(
    dispatching, store, elsewhere, receivers, memory
):
    """What another process was asked to hold is committed without a lease, and not attempted."""
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
    """An event that may have to wait for an earlier one is left to the database."""
    receivers.hang(ONE)

    async with dispatching() as (dispatcher, _):
        await add_two_events(store)
        rows = {row["id"]: row for row in await rows_of(memory, deliveries)}
        assert (True, None) == (
            rows["msg_1a"]["leased_until"] is not None,
            rows["msg_1b"]["leased_until"],
        )
        assert (1, {ONE: 1}) == leased_counts(dispatcher)


async def test_an_event_alone_is_delivered_at_once(dispatching, store, receivers, clock):
    """An event that is recorded beside the collection is attempted like any other."""
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
    assert "received" == (await store.find_invoice("dev", "1"))["status"]


async def test_an_event_that_was_overtaken_reserves_nothing(dispatching, store, receivers, memory):
    """One that turns out to be the second when it is written gives back what was reserved."""
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


async def test_of_two_callbacks_one_may_find_no_capacity(dispatching, store, receivers, memory):
    """Each delivery of an event begins at once where its origin has capacity, and waits if not."""
    both = (a_callback(ONE), a_callback(TWO, name=OTHER.name))
    event = replace(an_event(), callbacks=(INVOICE_NOTIFICATION.name, OTHER.name))
    invoice = await accepted(store, callbacks=both)
    receivers.hang(TWO)

    async with dispatching(operations=WITH_OTHER) as (dispatcher, _):
        reserved_count = 0
        while dispatcher._reserve(ONE):
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
    """An invoice of a release that knew another callback uses up no capacity."""
    invoice = await accepted(store, callbacks=(a_callback(ONE), a_callback(TWO, name="gone")))
    event = replace(an_event(), callbacks=(INVOICE_NOTIFICATION.name, "gone"))

    async with dispatching() as (dispatcher, _):
        with pytest.raises(KeyError, match="gone"):
            await dispatcher.record(a_step(invoice, event=event))

        assert (0, {}) == leased_counts(dispatcher)


# The log


async def test_every_event_is_one_line(dispatching, store, caplog):
    """An event is logged once it is committed, with the deliveries that it has."""
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


async def test_every_attempt_is_one_wide_line(dispatching, store, receivers, caplog):
    """Whatever came of it, an attempt is logged once, with everything about it."""
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


async def test_an_answer_is_kept_while_the_database_is_away(
    dispatching, store, elsewhere, receivers, clock
):
    """What was answered is settled once the database is back, and not asked for again."""
    await add_delivery(elsewhere)
    store.failing.append("settle")

    async with dispatching():
        await store.failed.reaches(1)
        while not store.settled.entries:
            await clock.parked()
            clock.advance(POLL)
            await idle()

    assert ("delivered", ["delivered"]) == await story(store, "msg_1")
    assert 1 == len(receivers.requests.entries)


# What is counted


DELIVERED_AFTER = "invoices_accepted_to_delivered_seconds_count"


@pytest.mark.parametrize("failure_count", [0, 1])
async def test_a_redelivery_says_nothing_of_how_long_deliveries_take(
    dispatching, store, receivers, clock, metrics, failure_count
):
    """Days may lie between the event and the wish for it, however many attempts that takes."""
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
        (await store.find_delivery("dev", "msg_1"))["status"],
        len(store.settled),
    )
    assert 0 == samples_of(metrics)[DELIVERED_AFTER]


async def test_how_long_a_delivery_took_is_counted_with_its_retries(
    dispatching, store, receivers, clock, metrics
):
    """From the invoice's acceptance to the answer that counts, failures in between included."""
    await add_delivery(store)
    receivers.answers[ONE].append(answer(500))

    async with dispatching():
        await store.settled.reaches(1)
        await clock.parked()
        clock.advance(10 * SECOND)
        await store.settled.reaches(2)

    assert 1 == samples_of(metrics)[DELIVERED_AFTER]
