"""One run of a seed, from its plan to what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import contextmanager
from dataclasses import dataclass

from service import loops
from service.collection import loop as collection
from service.delivery import attempt, dispatcher, sweeper
from tests.simulation.loop import VirtualLoop
from tests.simulation.plan import Plan, draw
from tests.simulation.processes import PROCESS
from tests.simulation.story import Story
from tests.simulation.twin import Twin
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over; its story says whether a promise was broken."""

    plan: Plan
    story: Story
    request_count: int
    seconds: float
    """How long it took, in virtual time."""
    has_twin: bool = False

    @property
    def complaint(self):
        """What was broken, where that is, and how to see it again; empty if nothing was."""
        if self.story.violation is None:
            return ""
        seed, twin = self.plan.seed, "--twin " if self.has_twin else ""
        return (
            f"seed {seed}, after {self.seconds:.3f} virtual seconds: {self.story.violation}\n"
            f"replay: python -m tests.simulation {twin}{seed}"
        )


def run(seed, *, has_twin=False):
    """
    Run the world of *seed* to its end, or to the first promise that is broken.

    With a twin, SQLite does all that the memory does: slower, and the statements are tried too.
    """
    plan = draw(seed)
    loop = VirtualLoop()
    twin = Twin() if has_twin else None
    try:
        with _polling_every(plan.poll):
            return loop.run_until_complete(_run(plan, twin))
    finally:
        loop.close()
        if twin:
            twin.close()


async def _run(plan, twin):
    loop = asyncio.get_running_loop()
    world = World(plan, twin)
    loop.set_exception_handler(lambda _, context: _fail(world, context))
    with _heard_by(world):
        try:
            await _until_failed(world.story, world.live())
        finally:
            seconds = loop.time()
            await _close(world)
    request_count = world.rules.ledger.request_counts.total()
    return Run(plan, world.story, request_count, seconds, twin is not None)


async def _until_failed(story, life):
    """Go on until *life* is over, or a promise is broken."""
    living = asyncio.create_task(life)
    failing = asyncio.create_task(story.has_failed.wait())
    await asyncio.wait({living, failing}, return_when=asyncio.FIRST_COMPLETED)
    failing.cancel()
    living.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await living


async def _close(world):
    """Leave nothing behind in the loop."""
    for process in world.processes:
        process.end()
    while tasks := asyncio.get_running_loop().pending_tasks():
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _fail(world, context):
    """An error was raised that no task waits for."""
    owner = PROCESS.get()
    if not (owner and owner.is_killed):
        error = context.get("exception")
        world.story.violate("an unexpected error: {} {!r}", context["message"], error)


@contextmanager
def _polling_every(poll):
    """Let the service's loops poll as rarely as a plan says."""
    modules = (loops, collection, dispatcher, attempt, sweeper)
    before = [module.POLL for module in modules]
    for module in modules:
        module.POLL = poll
    try:
        yield
    finally:
        for module, usual in zip(modules, before, strict=True):
            module.POLL = usual


@contextmanager
def _heard_by(world):
    """Let the invariants read the log of the service, and nothing else."""
    handler = _Listener(world)
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


class _Listener(logging.Handler):
    def __init__(self, world):
        super().__init__()
        self._world = world

    def emit(self, record):
        process = PROCESS.get()
        if not (process and process.is_killed):
            self._world.rules.logged(process, record)
