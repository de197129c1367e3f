import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.acceptance.jumping import jump
from tests.acceptance.traffic import traffic
from tests.processes import receiving, serving, until

pytestmark = pytest.mark.usefixtures("migrated")

FORTH, BACK = 3600, -3600
MONTH = 30 * 86400
SOON_SECONDS = 5
"""Twice the longest time until a loop polls, and much less than an hour."""


@asynccontextmanager
async def serving_with_a_clock(folder, warm, **settings):
    """A service, and a function that sets the error of its clock in seconds."""
    file = folder / "clock"
    jump(file, 0)
    program = ("tests.acceptance.jumping", str(file))
    async with serving(folder, program=program, start=warm.start, **settings) as service:
        yield service, partial(jump, file)


async def is_in_flight(service, receiver):
    """Wait until an invoice "1" is being delivered, to a receiver that does not answer yet."""
    receiver.may_answer.clear()
    await service.send("1", receiver.url)
    await receiver.arrived.reaches(1)


@pytest.mark.parametrize("seconds", [FORTH, BACK])
async def test_a_clock_that_jumps_loses_and_delays_nothing(tmp_path, warm, seconds):
    """After a jump of an hour in either direction, old and new deliveries continue."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm) as (service, set_wrong),
        asyncio.timeout(20),
    ):
        async with traffic([service], receiver) as clients:
            await clients.accepts(20)
            receiver.may_answer.clear()
            await receiver.arrived.reaches(len(receiver.arrived) + 5)
            set_wrong(seconds)
            await clients.accepts(20)
            receiver.may_answer.set()
            await clients.accepts(20)
        await service.at_rest()
        deliveries = await service.deliveries()

    calls = receiver.calls()
    assert set(clients.accepted) == set(calls) == set(deliveries)
    assert {1} == {len(set(events)) for events in calls.values()}
    assert [] == clients.refused
    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    for id_, delivery in deliveries.items():
        outcomes = Counter(attempt["outcome"] for attempt in delivery["attempts"])
        assert 1 == outcomes["delivered"]
        # After a jump ahead leases expire early: that costs an attempt, which is recorded as lost.
        assert {"delivered"} == set(outcomes) or (seconds == FORTH and outcomes["lost"])
        assert len(calls[id_]) <= outcomes.total() == delivery["attempt_count"]
    assert {"info", "warning"} >= {line["level"] for line in service.log.entries}


async def test_an_attempt_that_outlives_its_lease_changes_nothing(tmp_path, warm):
    """An answer that comes after the clock has expired the lease is not recorded."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm) as (service, set_wrong),
    ):
        # A receiver that has answered gets more than one lease.
        await service.send("0", receiver.url)
        await service.delivery_of("0", is_settled=True)
        receiver.arrived.entries.clear()
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


async def test_a_due_delivery_waits_for_a_clock_that_was_set_back(tmp_path, warm):
    """A retry waits for its instant by the clock; other deliveries continue meanwhile."""
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
        # New deliveries have their own delays by that clock.
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
async def test_a_duration_is_independent_of_the_clock(tmp_path, warm, seconds):
    """The recorded duration of an attempt does not change with a jump of the clock."""
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
    """A jump of a month during an attempt ends no process, and the attempt is recorded."""
    async with (
        receiving() as receiver,
        serving_with_a_clock(tmp_path, warm, database_url=postgres_url) as (service, set_wrong),
    ):
        await is_in_flight(service, receiver)
        set_wrong(MONTH)
        receiver.may_answer.set()
        await service.logged("attempt.settled")
