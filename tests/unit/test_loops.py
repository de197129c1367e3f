import asyncio
import logging
from datetime import timedelta

import pytest

from service.errors import StorageUnavailable
from service.loops import AT_ONCE, POLL, Loop, Round, running_loops
from tests.clock import PATIENCE_SECONDS, ManualClock, idle

HOUR = timedelta(hours=1)


class Rounds(Loop):
    """A loop with the rounds of the test, in order; later rounds find nothing."""

    def __init__(self, *rounds):
        super().__init__(ManualClock(), asyncio.Event())
        self.rounds = list(rounds)
        self.round_count = 0
        self.leased_count = 0

    @property
    def held_count(self):
        """The number that the test has set."""
        return self.leased_count

    async def run_round(self):
        """Return the next round, or raise it."""
        self.round_count += 1
        given = self.rounds.pop(0) if self.rounds else Round(0, POLL)
        if isinstance(given, Exception):
            raise given
        return given


class SetBack(Rounds):
    """Rounds during which the clock is set back by an hour."""

    async def run_round(self):
        """Find nothing, and ask for the next round after the usual wait."""
        self.clock.jump(-HOUR)
        return await super().run_round()


async def ended(loop, running):
    """Drain *loop*, and wait until it has ended."""
    loop.drain()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await running


# Rounds


async def test_a_loop_waits_as_its_round_asks():
    """A loop continues at once while there is more work, then waits for an instant or a signal."""
    loop = Rounds(Round(9, AT_ONCE), Round(1, HOUR))
    running = asyncio.create_task(loop.run())

    assert loop.clock.now() + HOUR == await loop.clock.parked()
    assert 2 == loop.round_count
    loop.clock.advance(HOUR)
    assert loop.clock.now() + POLL == await loop.clock.parked()
    loop.signal.set()
    await loop.clock.parked()
    assert 4 == loop.round_count

    await ended(loop, running)


async def test_an_outage_of_the_database_ends_the_round_only():
    """After an outage the next round comes within `POLL`."""
    loop = Rounds(StorageUnavailable("away"))
    running = asyncio.create_task(loop.run())

    assert loop.clock.now() + POLL == await loop.clock.parked()
    assert loop.is_running

    await ended(loop, running)


async def test_a_defect_ends_the_loop():
    """A round that raises another error is not repeated: the loop ends with the error."""
    loop = Rounds(LookupError("a defect"))

    with pytest.raises(ExceptionGroup) as raised:
        await loop.run()

    assert raised.group_contains(LookupError)
    assert not loop.is_running


async def test_a_loop_ends_after_its_leases():
    """After a drain no round begins, and the loop ends when no lease is left."""
    loop = Rounds()
    loop.leased_count = 2
    running = asyncio.create_task(loop.run())
    await loop.clock.parked()

    loop.drain()
    await idle()
    assert (True, 1) == (loop.is_running, loop.round_count)
    loop.leased_count = 0
    loop.signal.set()
    await running

    assert (False, 1) == (loop.is_running, loop.round_count)


async def test_a_clock_that_is_set_back_during_a_round_delays_no_loop():
    """If the clock is set during a round, the next round still comes within `POLL`."""
    loop = SetBack()
    running = asyncio.create_task(loop.run())

    until = await loop.clock.parked()

    assert until - loop.clock.now() <= POLL
    await ended(loop, running)


# Loops of a process


class Hanging:
    """A loop that continues after its drain until the test ends it."""

    def __init__(self):
        self.is_draining = False
        self.is_draining_at_its_end = None
        self.may_end = asyncio.Event()

    async def run(self):
        """Run, and record whether a drain ended the loop."""
        try:
            await self.may_end.wait()
        finally:
            self.is_draining_at_its_end = self.is_draining

    def drain(self):
        """Begin no more work."""
        self.is_draining = True


async def test_loops_are_drained_one_after_the_other():
    """The second loop still processes the last work of the first loop."""
    first, second = Hanging(), Hanging()
    seen = []
    first.drain = lambda: (Hanging.drain(first), first.may_end.set())
    second.drain = lambda: (seen.append(first.is_draining_at_its_end), second.may_end.set())

    async with running_loops((first, second), drain_seconds=60) as failed:
        assert not failed.done()

    assert seen[0]


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_drain_that_takes_too_long_stops_all_loops(caplog, count):
    """Loops that were not drained yet are asked to drain before they are cancelled."""
    loops = [Hanging() for _ in range(count)]

    async with running_loops(loops, drain_seconds=0):
        await asyncio.sleep(0)

    assert [True] * count == [loop.is_draining_at_its_end for loop in loops]
    assert ["drain.timed_out"] == [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ]


async def test_a_loop_that_ends_by_itself_is_reported():
    """The future is done, and the process can end."""
    ending, running = Hanging(), Hanging()
    ending.may_end.set()

    async with running_loops((ending, running), drain_seconds=0) as failed:
        await failed

        assert failed.done()
