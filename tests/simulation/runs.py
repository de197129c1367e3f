"""One run of a seed, from its plan to the checks at its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from contextlib import contextmanager
from dataclasses import dataclass

from pytest import MonkeyPatch

from service import loops
from service.collection import looking, mailing, payments
from service.collection import loop as collection
from service.delivery import dispatcher, lookout, sweeper
from tests.simulation.greedy import CHAINS, draw_greedy
from tests.simulation.loop import VirtualLoop
from tests.simulation.plan import MAIL_LEASE, MAIL_PAUSE, Plan, draw
from tests.simulation.processes import PROCESS
from tests.simulation.run_log import RunLog
from tests.simulation.twin import Twin
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run; its log says whether a promise was broken."""

    plan: Plan
    log: RunLog
    request_count: int
    seconds: float
    """The duration in virtual time."""
    has_twin: bool = False

    @property
    def _options(self):
        return "--greedy " if self.plan.reads else "--twin " if self.has_twin else ""

    @property
    def failure(self):
        """The broken promise, its instant, and the command that repeats the run; else empty."""
        if self.log.violation is None:
            return ""
        seed = self.plan.seed
        return (
            f"seed {seed}, after {self.seconds:.3f} virtual seconds: {self.log.violation}\n"
            f"replay: python -m tests.simulation {self._options}{seed}"
        )


def run(seed, *, has_twin=False, is_greedy=False):
    """
    Run the world of *seed*, or its greedy world, to its end or to the first broken promise.

    With a twin, SQLite executes every transaction too: slower, but it tests the statements.
    """
    plan = draw_greedy(seed) if is_greedy else draw(seed)
    loop = VirtualLoop()
    twin = Twin() if has_twin else None
    try:
        with (
            _with_delays(plan.poll, CHAINS if is_greedy else lookout.CHAINS),
            _without_collection(),
        ):
            return loop.run_until_complete(_run(plan, twin))
    finally:
        loop.close()
        if twin:
            twin.close()


async def _run(plan, twin):
    loop = asyncio.get_running_loop()
    world = World(plan, twin)
    loop.set_exception_handler(lambda _, context: _fail(world, context))
    with _log_checked_by(world):
        try:
            await _until_failed(world.log, world.run())
        finally:
            seconds = loop.time()
            await _close(world)
    request_count = world.rules.ledger.request_counts.total()
    return Run(plan, world.log, request_count, seconds, twin is not None)


async def _until_failed(log, work):
    """Continue until *work* has ended, or a promise is broken."""
    working = asyncio.create_task(work)
    failing = asyncio.create_task(log.has_failed.wait())
    await asyncio.wait({working, failing}, return_when=asyncio.FIRST_COMPLETED)
    failing.cancel()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _close(world):
    """Cancel all tasks of the loop."""
    for process in world.processes:
        process.end()
    while tasks := asyncio.get_running_loop().pending_tasks():
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _fail(world, context):
    """Handle an error that no task has caught."""
    owner = PROCESS.get()
    if not (owner and owner.is_killed):
        error = context.get("exception")
        world.log.violate("an unexpected error: {} {!r}", context["message"], error)


@contextmanager
def _with_delays(poll, chains):
    """
    Let the loops of the service poll at the interval of the plan, and mails wait less.

    A scan goes along so many *chains* at once.
    """
    modules = (loops, collection, looking, mailing, dispatcher, lookout, sweeper)
    with MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "POLL", poll)
        patch.setattr(payments, "IDLE_POLL", poll)
        patch.setattr(mailing, "LEASE", MAIL_LEASE)
        patch.setattr(mailing, "PAUSE", MAIL_PAUSE)
        patch.setattr(lookout, "CHAINS", chains)
        yield


@contextmanager
def _without_collection():
    """Collect garbage after the run: doing it meanwhile took a sixth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _log_checked_by(world):
    """Send the log of the service to the invariants, and nowhere else."""
    handler = _LogChecker(world)
    logger = logging.getLogger("invoices")
    propagate, level = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(handler)


class _LogChecker(logging.Handler):
    def __init__(self, world):
        super().__init__()
        self._world = world

    def emit(self, record):
        process = PROCESS.get()
        if not (process and process.is_killed):
            self._world.rules.logged(process, record)
