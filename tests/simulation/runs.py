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
from service.collection import looking, mailing, payments, reversal
from service.collection import loop as collection
from service.collection.stripe import checkout, watch
from service.delivery import dispatcher, lookout, sweeper
from tests.simulation.greedy import CHAINS, draw_greedy
from tests.simulation.loop import VirtualLoop
from tests.simulation.paying import draw_paying
from tests.simulation.plan import MAIL_LEASE, MAIL_PAUSE, Plan, draw
from tests.simulation.processes import PROCESS
from tests.simulation.run_log import RunLog
from tests.simulation.stripe_side import LEASE, LIFE, LIFE_LEFT_MIN, WAIT
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
        kind = "--greedy " if self.plan.reads else "--paying " if self.plan.payments else ""
        return f"{kind}--twin " if self.has_twin else kind

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


def run(seed, *, has_twin=False, is_greedy=False, is_paying=False):
    """
    Run the world of *seed*, or another one of it, to its end or to the first broken promise.

    The others are its greedy world, and that with payments. With a twin, SQLite executes every
    transaction too: slower, but it tests the statements.
    """
    plan = draw_greedy(seed) if is_greedy else draw_paying(seed) if is_paying else draw(seed)
    loop = VirtualLoop()
    twin = Twin() if has_twin else None
    try:
        with (
            _with_delays(plan, CHAINS if is_greedy else lookout.CHAINS),
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
def _with_delays(plan, chains):
    """
    Let the loops of the service poll at the interval of the plan, and mails wait less.

    A scan goes along so many *chains* at once. What is to be asked about again is found by polling,
    also where nothing else is.
    """
    poll = plan.poll
    modules = (loops, collection, looking, mailing, dispatcher, lookout, sweeper)
    with MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "POLL", poll)
        patch.setattr(payments, "IDLE_POLL", min(poll, WAIT) if plan.payments else poll)
        patch.setattr(watch, "POLL", poll)
        for module in (checkout, reversal):
            patch.setattr(module, "new_id", lambda: PROCESS.get().new_id())
        patch.setattr(checkout, "LIFE", LIFE)
        patch.setattr(checkout, "LIFE_LEFT_MIN", LIFE_LEFT_MIN)
        patch.setattr(checkout, "CALL_LEASE", LEASE)
        patch.setattr(checkout, "LOST_WAIT", WAIT)
        patch.setattr(watch, "CALL_LEASE", LEASE)
        patch.setattr(payments, "LEASE", LEASE)
        patch.setattr(payments, "PENDING_WAIT", WAIT)
        patch.setattr(payments, "DISPUTE_WAIT", WAIT)
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
