"""
What all loops behind the API have in common, and how the loops of one process run together.

A loop runs rounds until it is drained. A round looks for what is due, starts it, and returns its
counts. Between two rounds the loop waits for a signal or for an instant. An unavailable database
ends a round, not the loop.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.clock import Clock
from service.errors import StorageUnavailable

log = logging.getLogger("invoices.loops")

POLL = timedelta(seconds=2)
"""The longest wait between two rounds. Leases of other processes that ran out are found then."""

NAMES_MAX = 1_000
"""Names that a signal keeps; above this, it is for all."""

AT_ONCE = timedelta(0)
"""The wait before the next round if more rows are known to be due."""


class Drain:
    """Whether a drain has begun: it ends the waits of writes that are repeated."""

    def __init__(self) -> None:
        self.has_begun = False
        self.signal = asyncio.Event()

    def begin(self) -> None:
        """Repeat the writes that wait for the database now, and none of them after that."""
        self.has_begun = True
        self.signal.set()


async def persist(
    write: Callable[[], Awaitable[bool]],
    leased_until: datetime | None,
    clock: Clock,
    drain: Drain,
) -> bool:
    """
    Call *write*, which gives up a lease; repeat it while the database is unavailable.

    Raises:
        StorageUnavailable: if it was unavailable until the lease ran out, or in a *drain*.
    """
    while True:
        try:
            return await write()
        except StorageUnavailable:
            again_at = clock.now() + POLL
            if drain.has_begun or leased_until is None or again_at >= leased_until:
                raise
        await clock.wait(drain.signal, again_at)


@dataclass(frozen=True, slots=True)
class Round:
    """The result of a round: how many rows it worked on, and how long the next one may wait."""

    count: int
    wait: timedelta


class Signal(asyncio.Event):
    """Begins the next round of a loop early: for some names, or for all that may be due."""

    def __init__(self) -> None:
        super().__init__()
        self._names = dict[str, None]()
        self._is_for_all = False

    def set(self) -> None:
        """Anything may be due."""
        self._is_for_all = True
        super().set()

    def set_for(self, names: Collection[str]) -> None:
        """Something may be due for *names*; without any, anything may."""
        self._names.update(dict.fromkeys(names))
        if not names or len(self._names) > NAMES_MAX:
            self._is_for_all = True
            self._names.clear()
        super().set()

    def wake(self) -> None:
        """Begin the next round; nothing was written."""
        super().set()

    def take(self) -> tuple[Sequence[str], bool]:
        """The names since the last call, and whether anything may be due."""
        taken = list(self._names), self._is_for_all
        self._names, self._is_for_all = {}, False
        return taken


class Loop(ABC):
    """
    Rounds until `drain`; the work that they start runs in one TaskGroup.

    *signal* begins the next round early.
    """

    def __init__(self, clock: Clock, signal: Signal) -> None:
        self.clock = clock
        self.signal = signal
        self.is_running = False
        self.is_draining = False
        self.tasks: asyncio.TaskGroup

    @property
    def held_count(self) -> int:
        """Rows that are leased by this loop, or about to be."""
        return 0

    @abstractmethod
    async def run_round(self) -> Round:
        """Start what is due."""

    async def run(self) -> None:
        """Run rounds until `drain`, then wait until all work has ended."""
        async with asyncio.TaskGroup() as self.tasks:
            self.is_running = True
            try:
                await self._run_rounds()
            finally:
                self.is_running = False

    def drain(self) -> None:
        """Begin nothing more."""
        self.is_draining = True
        self.signal.set()

    async def _run_rounds(self) -> None:
        while not self.is_draining:
            wait = await self._wait_after_round()
            # Counted from now: the clock may have been set while the round ran.
            await self.clock.wait(self.signal, self.clock.now() + wait)
        while self.held_count:
            self.signal.clear()
            await self.signal.wait()

    async def _wait_after_round(self) -> timedelta:
        try:
            round_ = await self.run_round()
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
            return POLL
        if round_.count:
            fields = {"loop": type(self).__name__, "count": round_.count}
            log.debug("round.ended", extra={"fields": fields})
        return round_.wait


@asynccontextmanager
async def running_loops(
    loops: Sequence[Loop], *, drain_seconds: float
) -> AsyncIterator[asyncio.Future[None]]:
    """
    Run *loops* inside the block, and drain them at its end, for *drain_seconds* at most.

    The future is done once one of them has ended, which before the drain is a failure.
    """
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield _first_to_end(tasks)
    finally:
        await _drain(list(zip(loops, tasks, strict=True)), drain_seconds)


def _first_to_end(tasks: Sequence[asyncio.Task[None]]) -> asyncio.Future[None]:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def resolve(_task: asyncio.Task[None]) -> None:
        if not ended.done():
            ended.set_result(None)

    for task in tasks:
        task.add_done_callback(resolve)
    return ended


async def _drain(
    running: Sequence[tuple[Loop, asyncio.Task[None]]], timeout_seconds: float
) -> None:
    """
    Drain one loop after the other, so that the next one still takes what the first one passes on.

    Work that has not ended after *timeout_seconds* is cancelled; its leases run out.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            for loop, task in running:
                loop.drain()
                await asyncio.wait([task])
    except TimeoutError:
        log.warning("drain.timed_out", extra={"fields": {"timeout_seconds": timeout_seconds}})
    for loop, task in running:
        # Also a loop that was not drained yet must begin nothing more.
        loop.drain()
        task.cancel()
    ended = await asyncio.gather(*(task for _, task in running), return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            log.error("loop.failed", exc_info=error)
