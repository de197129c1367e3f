import asyncio
import logging
from datetime import timedelta

import pytest

from service.delivery.sweeper import SWEEP_INTERVAL, Sweeper
from service.errors import NotFound
from service.loops import AT_ONCE, POLL, Round
from service.storage import retention
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from tests.clock import START, ManualClock
from tests.memory import Memory, memory_store
from tests.rows import add_delivery, delivered, lease_delivery

KEPT = timedelta(days=30)


class SweptStore(Store):
    """A store that has nothing to remove but what a test says, and remembers what was asked."""

    def __init__(self, *counts):
        super().__init__(Memory())
        self.counts = list(counts)
        self.asked = []

    async def sweep(self, place, settled_before):
        """The next of the counts; there is more as long as there are counts."""
        self.asked.append((place, settled_before))
        count = self.counts.pop(0) if self.counts else 0
        return retention.Swept(count, retention.SweepPosition("dev", "x") if self.counts else None)


@pytest.fixture
def clock():
    """A clock that stands still."""
    return ManualClock(START)


async def test_a_sweep_goes_on_until_everything_was_looked_at(clock):
    """Batch after batch at once, each where the last one ended; then an hour without any."""
    store = SweptStore(2, 0, 1)
    sweeper = Sweeper(store, KEPT, clock, Metrics())

    rounds = [await sweeper.run_round() for _ in range(3)]

    assert [Round(2, AT_ONCE), Round(0, AT_ONCE), Round(1, SWEEP_INTERVAL)] == rounds
    assert ["", "x", "x"] == [place.after for place, _ in store.asked]
    assert {START - KEPT} == {before for _, before in store.asked}


async def test_what_was_removed_is_told_once_for_a_sweep(clock, caplog):
    """One line with the count; none where nothing was removed."""
    caplog.set_level(logging.INFO)
    sweeper = Sweeper(SweptStore(2, 0, 1), KEPT, clock, Metrics())

    for _ in range(4):
        await sweeper.run_round()

    assert [{"count": 3}] == [record.fields for record in caplog.records]


@pytest.mark.parametrize(
    ("kept", "pause"),
    [
        (timedelta(0), POLL),
        (timedelta(minutes=5), timedelta(minutes=5)),
        (timedelta(days=365), SWEEP_INTERVAL),
    ],
)
async def test_what_is_kept_shortly_is_removed_soon(clock, kept, pause):
    """Nothing stays much longer than twice its time, and the database is left in peace."""
    assert Round(0, pause) == await Sweeper(SweptStore(), kept, clock, Metrics()).run_round()


async def test_it_sweeps_by_the_clock_and_stops_when_it_drains(clock):
    """What was settled is there until its time has come, and gone after the next sweep."""
    store = memory_store(Memory())
    await add_delivery(store, "0")
    await store.settle(delivered(await lease_delivery(store)))
    sweeper = Sweeper(store, KEPT, clock, Metrics())
    running = asyncio.create_task(sweeper.run())

    await clock.parked()
    assert (await store.find_delivery("dev", "msg_0"))["settled_at"]
    clock.advance(KEPT + SWEEP_INTERVAL)
    await clock.parked()
    with pytest.raises(NotFound):
        await store.find_delivery("dev", "msg_0")

    sweeper.drain()
    await running


async def test_a_database_that_is_away_does_not_end_it(clock):
    """It looks again a little later."""
    memory = Memory()
    memory.is_away = True
    sweeper = Sweeper(memory_store(memory), KEPT, clock, Metrics())
    running = asyncio.create_task(sweeper.run())

    assert START + POLL == await clock.parked()

    sweeper.drain()
    await running
