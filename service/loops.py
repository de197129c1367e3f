"""The loops of a process: started together, watched, drained one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from service.clock import Clock
from service.errors import StorageUnavailable

log = logging.getLogger("invoices.loops")


class Loop(Protocol):
    """Something that runs until it is drained."""

    async def run(self) -> None:
        """Run until `drain` is called, then finish what was begun."""
        ...

    def drain(self) -> None:
        """Begin nothing more."""
        ...


@dataclass(frozen=True, slots=True)
class RunningLoops:
    """Loops that run; *failed* is done once one of them has ended by itself."""

    failed: asyncio.Future[None]

    def is_ready(self) -> bool:
        """Whether all of them still run."""
        return not self.failed.done()


@asynccontextmanager
async def running_loops(
    loops: Sequence[Loop], *, drain_seconds: float
) -> AsyncIterator[RunningLoops]:
    """Run *loops* inside the block, and drain them at its end, for *drain_seconds* at most."""
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield RunningLoops(_first_to_end(tasks))
    finally:
        await _drain(list(zip(loops, tasks, strict=True)), drain_seconds)


def _first_to_end(loops: Sequence[asyncio.Task[None]]) -> asyncio.Future[None]:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(_loop: asyncio.Task[None]) -> None:
        if not ended.done():
            ended.set_result(None)

    for loop in loops:
        loop.add_done_callback(tell)
    return ended


async def _drain(roads: Sequence[tuple[Loop, asyncio.Task[None]]], timeout_seconds: float) -> None:
    """
    Drain one loop after the other, so that what the first hands on is still taken.

    What is in flight after *timeout_seconds* is left to its lease.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            for loop, task in roads:
                loop.drain()
                await asyncio.wait([task])
    except TimeoutError:
        log.warning("drain.timed_out", extra={"fields": {"timeout_seconds": timeout_seconds}})
    for loop, task in roads:
        # Whose turn to drain has not come must begin nothing more either.
        loop.drain()
        task.cancel()
    ended = await asyncio.gather(*(task for _, task in roads), return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            log.error("loop.failed", exc_info=error)


POLL = timedelta(seconds=2)
"""The net under the signals: how soon leases that ran out elsewhere are found."""

AT_ONCE = timedelta(0)
"""The pause of a loop that knows of more to do."""


class Rounds(Protocol):
    """A loop that can be run by `keep_rounds`."""

    is_draining: bool

    @property
    def held_count(self) -> int:
        """Rows that are leased by us, or about to be."""
        ...

    async def run_round(self) -> timedelta:
        """Start what is due; how long the next round may wait unless a signal comes first."""
        ...


async def keep_rounds(loop: Rounds, signal: asyncio.Event, clock: Clock) -> None:
    """Run the rounds of *loop* until it drains, then wait until it holds nothing any more."""
    while not loop.is_draining:
        pause = await _pause_behind_round(loop)
        # From now: while the round ran, somebody may have set the clock.
        await clock.wait(signal, clock.now() + pause)
    while loop.held_count:
        signal.clear()
        await signal.wait()


async def _pause_behind_round(loop: Rounds) -> timedelta:
    try:
        return await loop.run_round()
    except StorageUnavailable as error:
        log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        return POLL
