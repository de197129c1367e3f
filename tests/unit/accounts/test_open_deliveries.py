"""The bound on pending deliveries of an account: counted rarely, and exact where it refuses."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from service.accounts.open_deliveries import RECOUNT, OpenDeliveries
from service.errors import StorageUnavailable, TooManyRequests
from tests.clock import START, ManualClock


class Pending:
    """The pending deliveries of accounts; counting them takes *seconds*."""

    def __init__(self, clock):
        self.counts = Counter()
        self.counted = Counter()
        self.error = None
        self.seconds = 0
        self._clock = clock

    async def count(self, account_id, most):
        """Count as the database does."""
        self.counted[account_id] += 1
        self._clock.advance(timedelta(seconds=self.seconds))
        if self.error:
            raise self.error
        return min(self.counts[account_id], most)


@pytest.fixture
def clock():
    """The clock of the test."""
    return ManualClock(START)


@pytest.fixture
def pending(clock):
    """What is pending in the database."""
    return Pending(clock)


@pytest.fixture
async def bounded(pending, clock):
    """Three pending deliveries at most."""
    bounded = OpenDeliveries(3, pending.count, clock)
    yield bounded
    await bounded.close()


async def admitted(bounded, pending, count, account_id="a"):
    """How many of *count* invoices are admitted; each adds a pending delivery."""
    admitted_count = 0
    for _ in range(count):
        try:
            await bounded.admit(account_id)
        except TooManyRequests:
            continue
        pending.counts[account_id] += 1
        admitted_count += 1
    return admitted_count


async def test_invoices_above_the_bound_are_refused(bounded, pending):
    """An account with as many pending deliveries as it may have sends no more; others do."""
    assert 3 == await admitted(bounded, pending, 5)
    assert 1 == await admitted(bounded, pending, 1, "b")

    with pytest.raises(TooManyRequests, match="3 deliveries that have not ended yet"):
        await bounded.admit("a")


async def test_an_account_is_admitted_again_when_deliveries_end(bounded, pending):
    """What has ended makes place for as many."""
    await admitted(bounded, pending, 5)
    pending.counts["a"] -= 2

    assert 2 == await admitted(bounded, pending, 5)


async def test_below_the_bound_nothing_waits_for_a_count(bounded, pending, clock):
    """Far from the bound, the number is counted once in a while, and in the background."""
    for _ in range(2):
        await bounded.admit("a")
    assert 0 == pending.counted["a"]
    await asyncio.sleep(0)
    assert 1 == pending.counted["a"]

    clock.advance(RECOUNT)
    await bounded.admit("a")
    await asyncio.sleep(0)
    assert 2 == pending.counted["a"]


async def test_at_the_bound_counting_rests(bounded, pending, clock):
    """A count that took long is used for a while, so that refusals cost nothing."""
    pending.counts["a"], pending.seconds = 3, 1
    await admitted(bounded, pending, 4)
    counted = pending.counted["a"]

    assert 0 == await admitted(bounded, pending, 10)
    assert counted == pending.counted["a"]

    clock.advance(timedelta(seconds=30))
    pending.counts["a"] = 0
    assert 3 == await admitted(bounded, pending, 3)


@pytest.mark.parametrize("error", [StorageUnavailable("away"), ZeroDivisionError()])
async def test_a_failed_count_refuses_nobody(bounded, pending, caplog, error):
    """While the database cannot count, invoices are accepted as far as it is known."""
    pending.error = error

    assert 3 == await admitted(bounded, pending, 3)
    await asyncio.sleep(0)

    logged = [record.msg for record in caplog.records if record.levelname == "ERROR"]
    assert (["count.failed"] if isinstance(error, ZeroDivisionError) else []) == logged[:1]


async def test_far_from_the_bound_most_invoices_cost_nothing(pending, clock):
    """Only some invoices look at the time; all are counted."""
    bounded = OpenDeliveries(10_000, pending.count, clock)

    assert 9_000 == await admitted(bounded, pending, 9_000)
    assert pending.counted["a"] < 50
    assert 1_000 == await admitted(bounded, pending, 1_100)
    await bounded.close()


async def test_without_a_bound_nothing_is_counted(pending, clock):
    """With 0, every invoice is accepted."""
    unbounded = OpenDeliveries(0, pending.count, clock)

    assert 9 == await admitted(unbounded, pending, 9)
    assert 0 == pending.counted["a"]
