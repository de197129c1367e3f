import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.delivery import observer as observing
from service.delivery.observer import INTERVAL, Observer
from service.domain.attempt_counts import FIRST_BUCKET
from service.domain.delivery import ReceiverState, Retry
from service.domain.outcomes import AttemptOutcome
from service.domain.receivers import ReceiverStatus, id_of
from service.errors import StorageUnavailable
from service.loops import AT_ONCE
from service.storage.tables import receiver_hours, receivers
from tests.clock import PATIENCE_SECONDS, START, ManualClock
from tests.memory import Loss, Memory, memory_store
from tests.rows import (
    ONE,
    SECOND,
    a_failing_state,
    a_receiver,
    add_delivery,
    an_attempt,
    delivered,
    lease_delivery,
    rows_of,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def memory():
    """The stored rows."""
    return Memory()


@pytest.fixture
def store(memory):
    """The store of the process."""
    return memory_store(memory)


@pytest.fixture
def observer(store):
    """The observer of the process; its loop does not run."""
    return Observer(store, ManualClock(START))


@pytest.fixture
async def delivery(store):
    """A leased delivery."""
    await add_delivery(store)
    return await lease_delivery(store)


def unreachable(delivery, *, at=START):
    """An attempt that could not connect."""
    outcome, decision = AttemptOutcome.UNREACHABLE, Retry(SECOND)
    options = {"status_code": None, "is_connected": False, "detail": "No connection."}
    return an_attempt(delivery, outcome, decision, at=at, **options)


async def rows_of_receivers(memory):
    """The stored counts of receivers, without the sums of their account."""
    return [row for row in await rows_of(memory, receiver_hours) if " " in row["receiver"]]


async def hours_of(memory):
    """The stored counts: delivered, failed, and how many have a duration, by hour."""
    rows = await rows_of_receivers(memory)
    values = [(row["hour"], list(row.values())[2:]) for row in rows]
    return {hour: (*counts[:2], sum(counts[FIRST_BUCKET:])) for hour, counts in values}


async def state(store):
    """The state of the receiver."""
    known = await store.receivers.find("dev", id_of(a_receiver()), START)
    row = known.shown_at(START)
    return row["state"], row["since"], row["reason"]


async def test_attempts_are_counted_by_hour(observer, memory, delivery):
    """Each recorded attempt counts once, in the hour of its end."""
    for at in (START, START + SECOND, START + HOUR):
        observer.count(delivered(delivery, at=at))
    observer.count(an_attempt(delivery, AttemptOutcome.REFUSED, Retry(SECOND)))
    observer.count(unreachable(delivery))

    await observer.run_round()

    assert {START: (2, 2, 3), START + HOUR: (1, 0, 1)} == await hours_of(memory)


async def test_what_was_stored_is_not_stored_again(observer, memory, delivery):
    """A second round adds what was counted since, and writes nothing without any."""
    observer.count(delivered(delivery))
    await observer.run_round()
    round_ = await observer.run_round()

    assert (0, INTERVAL) == (round_.count, round_.wait)
    assert {START: (1, 0, 1)} == await hours_of(memory)


async def test_counts_wait_for_the_database(observer, memory, delivery):
    """What could not be stored is stored later, with what was counted meanwhile."""
    observer.count(delivered(delivery))
    memory.losses.append(Loss.BEFORE)
    with pytest.raises(StorageUnavailable):
        await observer.run_round()
    observer.count(delivered(delivery))

    await observer.run_round()

    assert {START: (2, 0, 2)} == await hours_of(memory)


async def test_counts_meet_in_a_failed_write(observer, store, memory, delivery):
    """Attempts that end while a write fails are added to those that it was to store."""
    observer.count(unreachable(delivery))
    memory.shut()
    memory.losses.append(Loss.BEFORE)
    writing = asyncio.create_task(observer.run_round())
    await memory.reached()
    observer.count(unreachable(delivery, at=START + SECOND))
    memory.open()
    with pytest.raises(StorageUnavailable):
        await writing

    await observer.run_round()

    assert {START: (0, 2, 0)} == await hours_of(memory)
    assert (ReceiverStatus.FAILING, START, "No connection.") == await state(store)


async def test_a_receiver_without_a_connection_fails(observer, store, delivery):
    """Since the first attempt without one; the first answer ends that."""
    for number in range(2):
        observer.count(unreachable(delivery, at=START + number * SECOND))
        await observer.run_round()
    assert (ReceiverStatus.FAILING, START, "No connection.") == await state(store)

    observer.count(delivered(delivery, at=START + 2 * SECOND))
    await observer.run_round()

    assert (ReceiverStatus.HEALTHY, START + 2 * SECOND, None) == await state(store)


async def test_a_failure_between_two_writes_is_not_observed(observer, memory, delivery):
    """A receiver that could not be reached and has answered since does not fail."""
    observer.count(unreachable(delivery))
    observer.count(delivered(delivery, at=START + SECOND))

    await observer.run_round()

    assert [] == await rows_of(memory, receivers)


async def test_a_failure_that_is_stored_with_its_attempt_is_no_answer(observer, store, delivery):
    """The state that an attempt stores applies; an older answer does not end it."""
    observer.count(delivered(delivery))
    failing = an_attempt(
        delivery,
        AttemptOutcome.REFUSED,
        Retry(SECOND),
        at=START + SECOND,
        receiver_state=a_failing_state(delivery, at=START + SECOND),
    )
    await store.settle(failing)
    observer.count(failing)

    await observer.run_round()

    assert ReceiverStatus.FAILING is (await state(store))[0]


async def test_an_answer_whose_state_is_stored_is_an_answer(observer, store, delivery):
    """An attempt that notes that its receiver answers counts as an answer."""
    await observer._store.receivers.observe([])
    observer.count(unreachable(delivery))
    await observer.run_round()
    noted = ReceiverState(receiver=a_receiver(), origin=ONE, answered_at=START + SECOND)
    observer.count(replace(delivered(delivery, at=START + SECOND), receiver_state=noted))

    await observer.run_round()

    assert ReceiverStatus.HEALTHY is (await state(store))[0]


async def test_the_receivers_that_are_counted_are_bounded(observer, memory, delivery, monkeypatch):
    """Beyond the bound, attempts of further receivers are not counted until the next write."""
    monkeypatch.setattr(observing, "RECEIVERS_MAX", 2)
    for number in range(3):
        one = replace(delivery, receiver=a_receiver(path=f"/{number}"))
        observer.count(delivered(one))

    await observer.run_round()

    stored = [row["receiver"] for row in await rows_of_receivers(memory)]
    assert [a_receiver(path="/0"), a_receiver(path="/1")] == stored


async def test_many_receivers_are_stored_in_batches(observer, memory, delivery, monkeypatch):
    """A transaction has a bounded number of them; the next one follows at once."""
    monkeypatch.setattr(observing, "BATCH", 2)
    for number in range(3):
        observer.count(delivered(replace(delivery, receiver=a_receiver(path=f"/{number}"))))

    rounds = [await observer.run_round() for _ in range(2)]

    assert [(2, AT_ONCE), (1, INTERVAL)] == [(one.count, one.wait) for one in rounds]
    assert 3 == len(await rows_of_receivers(memory))


async def test_a_drain_stores_what_was_counted(observer, memory, delivery):
    """Nothing is lost by a stop, only by a kill."""
    running = asyncio.create_task(observer.run())
    await observer.clock.parked()
    observer.count(delivered(delivery))

    observer.drain()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await running

    assert {START: (1, 0, 1)} == await hours_of(memory)


async def test_a_drain_without_a_database_ends(observer, memory, delivery):
    """Counts that cannot be stored do not keep the process."""
    running = asyncio.create_task(observer.run())
    await observer.clock.parked()
    observer.count(delivered(delivery))
    memory.is_away = True

    observer.drain()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await running
