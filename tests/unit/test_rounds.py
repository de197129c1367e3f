import asyncio
from datetime import timedelta

from service.loops import POLL, keep_rounds
from tests.clock import ManualClock

HOUR = timedelta(hours=1)


class SetBack:
    """Rounds during which the clock goes back by an hour."""

    def __init__(self, clock):
        self.is_draining = False
        self.held_count = 0
        self._clock = clock

    async def run_round(self):
        """Find nothing, and come again after the usual while."""
        self._clock.jump(-HOUR)
        return POLL


async def test_a_clock_that_goes_back_during_a_round_holds_up_no_loop():
    """However the clock was set while a round ran, the next one is no more than `POLL` away."""
    clock, signal = ManualClock(), asyncio.Event()
    loop = SetBack(clock)
    running = asyncio.create_task(keep_rounds(loop, signal, clock))
    until = await clock.parked()
    waiting = until - clock.now()
    loop.is_draining = True
    signal.set()
    await running

    assert waiting <= POLL
