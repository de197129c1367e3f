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
    """A store that removes the counts of the test, and keeps the arguments of the calls."""

    def __init__(self, *counts):
        super().__init__(Memory())
        self.counts = list(counts)
        self.asked = []

    async def sweep(self, place, settled_before):
        """Return the next count; there are more batches while there are counts."""
        self.asked.append((place, settled_before))
        count = self.counts.pop(0) if self.counts else 0
        return retention.Swept(count, retention.SweepPosition("dev", "x") if self.counts else None)


@pytest.fixture
def clock():
    """A clock that does not move."""
    return ManualClock(START)


async def test_a_sweep_continues_until_the_last_batch(clock):
    """Batches follow each other at once; after the last one there is an hour without a batch."""
    store = SweptStore(2, 0, 1)
    sweeper = Sweeper(store, KEPT, clock, Metrics())

    rounds = [await sweeper.run_round() for _ in range(3)]

    assert [Round(2, AT_ONCE), Round(0, AT_ONCE), Round(1, SWEEP_INTERVAL)] == rounds
    assert ["", "x", "x"] == [place.after for place, _ in store.asked]
    assert {START - KEPT} == {before for _, before in store.asked}


async def test_a_sweep_logs_the_number_of_removed_deliveries_once(clock, caplog):
    """A sweep logs one line with the count, or none if nothing was removed."""
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
async def test_a_short_retention_has_a_short_interval(clock, kept, pause):
    """No delivery stays much longer than twice its retention, and sweeps are not too frequent."""
    assert Round(0, pause) == await Sweeper(SweptStore(), kept, clock, Metrics()).run_round()


async def test_a_sweeper_follows_the_clock_and_ends_on_a_drain(clock):
    """A settled delivery stays until its retention is over, and the next sweep removes it."""
    store = memory_store(Memory())
    await add_delivery(store, "0")
    await store.settle(delivered(await lease_delivery(store)))
    sweeper = Sweeper(store, KEPT, clock, Metrics())
    running = asyncio.create_task(sweeper.run())

    await clock.parked()
    assert (await store.history.find_delivery("dev", "msg_0"))["settled_at"]
    clock.advance(KEPT + SWEEP_INTERVAL)
    await clock.parked()
    with pytest.raises(NotFound):
        await store.history.find_delivery("dev", "msg_0")

    sweeper.drain()
    await running


async def test_an_outage_of_the_database_does_not_end_the_sweeper(clock):
    """After an outage the sweep is repeated a little later."""
    memory = Memory()
    memory.is_away = True
    sweeper = Sweeper(memory_store(memory), KEPT, clock, Metrics())
    running = asyncio.create_task(sweeper.run())

    assert START + POLL == await clock.parked()

    sweeper.drain()
    await running
