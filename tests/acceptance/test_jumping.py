import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.acceptance.jumping import jump
from tests.acceptance.traffic import traffic
from tests.processes import receiving, serving, until

FORTH, BACK = 3600, -3600
MONTH = 30 * 86400
SOON_SECONDS = 5
"""Twice as long as anything is left lying that nobody was told of, and far less than an hour."""


@asynccontextmanager
async def serving_with_a_clock(folder, warm, **settings):
    """A service, and how to set its clock wrong by so many seconds."""
    file = folder / "clock"
    jump(file, 0)
    program = ("tests.acceptance.jumping", str(file))
    async with serving(folder, program=program, start=warm.start, **settings) as service:
        yield service, partial(jump, file)


async def is_in_flight(service, receiver):
    """Wait until an invoice "1" is being delivered, to a receiver that keeps its answer back."""
    receiver.may_answer.clear()
    await service.send("1", receiver.url)
    await receiver.arrived.reaches(1)


@pytest.mark.parametrize("seconds", [FORTH, BACK])
async def test_a_clock_that_jumps_loses_nothing_and_holds_up_nobody(tmp_path, warm, seconds):
    """An hour forth or back: what is in hand goes on, what comes new too, and nothing hangs."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm) as (service, set_wrong),
        asyncio.timeout(20),
    ):
        async with traffic([service], receiver) as going_on:
            await going_on.accepts(20)
            receiver.may_answer.clear()
            await receiver.arrived.reaches(len(receiver.arrived) + 5)
            set_wrong(seconds)
            await going_on.accepts(20)
            receiver.may_answer.set()
            await going_on.accepts(20)
        await service.at_rest()
        deliveries = await service.deliveries()

    calls = receiver.calls()
    assert set(going_on.accepted) == set(calls) == set(deliveries)
    assert {1} == {len(set(events)) for events in calls.values()}
    assert [] == going_on.refused
    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    for id_, delivery in deliveries.items():
        outcomes = Counter(attempt["outcome"] for attempt in delivery["attempts"])
        assert 1 == outcomes["delivered"]
        # Forth, leases run out early: that costs an attempt, which is told.
        assert {"delivered"} == set(outcomes) or (seconds == FORTH and outcomes["lost"])
        assert len(calls[id_]) <= outcomes.total() == delivery["attempt_count"]
    assert {"info", "warning"} >= {line["level"] for line in service.log.entries}


async def test_an_attempt_that_outlives_its_lease_changes_nothing(tmp_path, warm):
    """A lease that ran out with the clock is fenced: the late answer is not recorded."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm) as (service, set_wrong),
    ):
        await is_in_flight(service, receiver)
        set_wrong(FORTH)

        async def is_leased_again():
            return (await service.delivery_of("1"))["attempts"]

        await until(is_leased_again, SOON_SECONDS)
        receiver.may_answer.set()
        await service.logged("attempt.outlived_lease")
        delivery = await service.delivery_of("1", is_settled=True)

    assert ["lost", "delivered"] == [attempt["outcome"] for attempt in delivery["attempts"]]
    assert 1 == len(set(receiver.calls()["1"]))


async def test_what_is_due_waits_for_a_clock_that_went_back(tmp_path, warm):
    """An attempt waits for its instant by the clock; others go on, and it comes when that does."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm, RETRY_SCHEDULE="1s") as (service, set_wrong),
    ):
        await service.send("opening", receiver.url)
        await service.delivery_of("opening", is_settled=True)
        receiver.answer(status=503, text="")
        await service.send("refused", receiver.url)
        await service.logged("attempt.settled", 2)
        set_wrong(BACK)
        # What comes new has delays of its own by that clock.
        receiver.answer(status=503, text="")
        await service.send("new", receiver.url)
        async with asyncio.timeout(SOON_SECONDS):
            new = await service.delivery_of("new", is_settled=True)
        waiting = await service.delivery_of("refused")
        set_wrong(0)
        async with asyncio.timeout(SOON_SECONDS):
            refused = await service.delivery_of("refused", is_settled=True)

    assert ("delivered", "pending", "delivered") == tuple(
        delivery["status"] for delivery in (new, waiting, refused)
    )
    assert ["refused", "delivered"] == [one["outcome"] for one in refused["attempts"]]


@pytest.mark.parametrize("seconds", [FORTH, BACK])
async def test_a_duration_is_how_long_it_took(tmp_path, warm, seconds):
    """An attempt that took a moment is told as one, wherever the clock went meanwhile."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm) as (service, set_wrong),
    ):
        await is_in_flight(service, receiver)
        set_wrong(seconds)
        receiver.may_answer.set()
        line = await service.logged("attempt.settled")

    assert 0 <= line["duration_ms"] < 5000


async def test_a_clock_that_jumps_by_a_month_ends_no_process(tmp_path, warm, postgres_url):
    """A machine that learns the date while an attempt is in flight goes on, and records it."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm, database_url=postgres_url) as (service, set_wrong),
    ):
        await is_in_flight(service, receiver)
        set_wrong(MONTH)
        receiver.may_answer.set()
        await service.logged("attempt.settled")
