import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from service.clock import SystemClock
from tests.clock import START, ManualClock

HOUR = timedelta(hours=1)


@pytest.fixture(params=[SystemClock, ManualClock])
def clock(request):
    """Each of the two clocks: both behave the same for the loops."""
    return request.param()


async def test_an_instant_in_the_past_ends_the_wait(clock):
    """A wait until the past or the present returns at once."""
    for until in (clock.now() - HOUR, clock.now()):
        async with asyncio.timeout(10):
            await clock.wait(asyncio.Event(), until)


async def test_a_signal_that_was_set_before_ends_the_wait(clock):
    """A signal that was set between two waits ends the next one, and is cleared."""
    signal = asyncio.Event()
    signal.set()

    async with asyncio.timeout(10):
        await clock.wait(signal, clock.now() + HOUR)

    assert not signal.is_set()


async def test_a_signal_ends_a_wait_that_has_begun(clock):
    """A running wait is ended by its signal, which is cleared."""
    signal = asyncio.Event()
    waiting = asyncio.create_task(clock.wait(signal, clock.now() + HOUR))
    asyncio.get_running_loop().call_soon(signal.set)

    async with asyncio.timeout(10):
        await waiting

    assert not signal.is_set()


async def test_a_signal_is_cleared_when_the_instant_comes_first(clock):
    """A wait that ended at its instant clears the signal too."""
    signal = asyncio.Event()
    signal.set()

    await clock.wait(signal, clock.now())

    assert not signal.is_set()


async def test_a_wait_can_be_cancelled(clock):
    """A cancelled wait raises CancelledError, and does not return as if its instant had come."""
    waiting = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + HOUR))
    asyncio.get_running_loop().call_soon(waiting.cancel)

    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_the_system_clock_returns_aware_instants_in_utc():
    """The time zone of the machine does not change the instants."""
    before = datetime.now(UTC)

    now = SystemClock().now()

    assert UTC is now.tzinfo
    assert before <= now <= datetime.now(UTC)


async def test_the_system_clock_waits_until_the_instant():
    """A wait without a signal ends at its instant and not before."""
    clock = SystemClock()
    until = clock.now() + timedelta(milliseconds=20)

    await clock.wait(asyncio.Event(), until)

    assert until <= clock.now() + timedelta(milliseconds=1)


async def test_the_manual_clock_moves_only_by_advance():
    """A wait on the manual clock ends when the test advances the clock to its instant."""
    clock = ManualClock()
    waiting = asyncio.create_task(clock.wait(asyncio.Event(), START + HOUR))

    assert START + HOUR == await clock.parked()
    clock.advance(HOUR - timedelta(microseconds=1))
    assert START + HOUR == await clock.parked()
    clock.advance(timedelta(microseconds=1))
    async with asyncio.timeout(10):
        await waiting
    assert START + HOUR == clock.now()
