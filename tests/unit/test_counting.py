"""What is counted reaches its metric: at once without a loop, and a moment later in one."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.telemetry.counting import Sums

BOUNDS = (0.1, 1, 10)


def counter_and_gauge():
    """A counter and a gauge of a registry of their own."""
    registry = CollectorRegistry()
    return registry, Counter("c", "c", registry=registry), Gauge("g", "g", registry=registry)


def samples_of(histogram):
    """The samples of *histogram*, without the instant at which it was made."""
    (family,) = histogram.collect()
    return [
        (one.name, one.labels, one.value) for one in family.samples if "created" not in one.name
    ]


def test_without_a_loop_nothing_waits():
    """Where no loop runs, a count is in its metric at once."""
    registry, counter, _ = counter_and_gauge()

    Sums().add(counter)

    assert 1 == registry.get_sample_value("c_total")


async def test_counts_are_added_up_until_they_are_asked_for():
    """In a loop, counts wait, and all of them are in their metrics after a flush."""
    registry, counter, gauge = counter_and_gauge()
    sums = Sums()

    for _ in range(5):
        sums.add(counter)
        sums.add(gauge)
    sums.add(gauge, -1)
    before = registry.get_sample_value("c_total")
    sums.flush()

    assert (0, 5, 4) == (
        before,
        registry.get_sample_value("c_total"),
        registry.get_sample_value("g"),
    )


async def test_counts_do_not_wait_for_a_flush():
    """A moment later the counts are in their metric although nobody has asked, later ones too."""
    registry, counter, _ = counter_and_gauge()
    sums = Sums(delay_seconds=0)
    loop = asyncio.get_running_loop()

    for count in (1, 2):
        sums.add(counter)
        passed = loop.create_future()
        loop.call_later(0, loop.call_soon, passed.set_result, None)
        await passed
        assert count == registry.get_sample_value("c_total")


@pytest.mark.parametrize("amount", [0, 0.1, 0.10001, 1, 5, 10, 11, 1e9])
def test_amounts_are_in_the_buckets_where_the_library_has_them(amount):
    """An amount changes the same samples as in the library, whose private parts are used."""
    ours, theirs = (Histogram("h", "h", buckets=BOUNDS, registry=None) for _ in range(2))

    Sums().observe(ours, amount)
    theirs.observe(amount)

    assert samples_of(theirs) == samples_of(ours)


async def test_many_amounts_are_observed_together():
    """Of many amounts, none is lost."""
    ours, theirs = (Histogram("h", "h", buckets=BOUNDS, registry=None) for _ in range(2))
    sums = Sums()

    for amount in (0.05, 0.1, 0.5, 5, 50, 0.05):
        sums.observe(ours, amount)
        theirs.observe(amount)
    sums.flush()

    assert samples_of(theirs) == samples_of(ours)
