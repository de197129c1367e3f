import asyncio
import logging

import pytest

from service.loops import running_loops


class Hanging:
    """A loop that goes on after it was told to drain, until it is let go."""

    def __init__(self):
        self.is_draining = False
        self.is_draining_at_its_end = None
        self.may_end = asyncio.Event()

    async def run(self):
        """Run, and remember whether the end came as a drain."""
        try:
            await self.may_end.wait()
        finally:
            self.is_draining_at_its_end = self.is_draining

    def drain(self):
        """Begin nothing more."""
        self.is_draining = True


async def test_loops_are_drained_one_after_the_other():
    """What the first hands on is still taken by the second."""
    first, second = Hanging(), Hanging()
    seen = []
    first.drain = lambda: (Hanging.drain(first), first.may_end.set())
    second.drain = lambda: (seen.append(first.is_draining_at_its_end), second.may_end.set())

    async with running_loops((first, second), drain_seconds=60) as beside:
        assert beside.is_ready()

    assert seen[0]


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_drain_that_takes_too_long_lets_nobody_begin_anything(caplog, count):
    """Loops whose turn did not come are told to drain before they are ended."""
    loops = [Hanging() for _ in range(count)]

    async with running_loops(loops, drain_seconds=0):
        await asyncio.sleep(0)

    assert [True] * count == [loop.is_draining_at_its_end for loop in loops]
    assert ["drain.timed_out"] == [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ]


async def test_a_loop_that_ends_by_itself_is_noticed():
    """Its process is not ready any more, and whoever watches is told."""
    ending, going_on = Hanging(), Hanging()
    ending.may_end.set()

    async with running_loops((ending, going_on), drain_seconds=0) as beside:
        await beside.failed

        assert not beside.is_ready()
