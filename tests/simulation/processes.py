"""
Machines, and the processes that live on them one after the other.

A process is what the service makes it: a store, a collection and a dispatcher, run and drained
by the service's own `running_loops`. Here it is started, killed on the spot, and watched.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar, copy_context
from enum import Enum
from functools import cache

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.collection.loop import Collection
from service.delivery.attempt import Performer, Rules
from service.delivery.dispatcher import Dispatcher, Limits
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.errors import StorageUnavailable
from service.loops import running_loops
from service.storage.steps import NewDelivery
from service.telemetry.metrics import Metrics
from tests.fakes import SILENT
from tests.simulation.clocks import SkewedClock
from tests.simulation.collector import Script
from tests.simulation.link import Link, LinkedStore
from tests.simulation.loop import OWNER
from tests.simulation.receivers import Request

STATIONS = ("write", "commit", "send", "answer", "collect")
"""Where a process may be killed in the middle of what it does."""

PROCESS = ContextVar("PROCESS", default=None)
"""The process that is running; what is logged is told as its words."""

_LEASE = ContextVar("LEASE")
_SIGNER = Signer((DEV_SECRET,))
_CALLBACKS = {INVOICE_NOTIFICATION.name: INVOICE_NOTIFICATION}


@cache
def _figures():
    """What is counted; nobody looks at it here, and making it takes as long as a run."""
    return Metrics()


class State(Enum):
    """How far a process has come."""

    RUNNING = "running"
    DRAINING = "draining"
    ENDED = "ended"
    KILLED = "killed"


class Machine:
    """A clock, a connection to the memory, and a process, unless it is down."""

    def __init__(self, world, name, offset):
        self._world = world
        self.name = name
        self.clock = SkewedClock(offset)
        self.is_cut_off = False
        self.life_count = 0
        self.process: Process | None = None

    async def keep(self):
        """Keep a process running: whenever one is over, start another a moment later."""
        while True:
            self.life_count += 1
            self.process = Process(self._world, self, f"{self.name}{self.life_count}")
            self._world.processes.append(self.process)
            self.process.start()
            await self.process.is_over.wait()
            await asyncio.sleep(self._world.chance.choice((0.05, 0.5, 4)))


class Process:
    """One life of a process."""

    def __init__(self, world, machine, name):
        self.machine = machine
        self.name = name
        self.clock = machine.clock
        self.state = State.RUNNING
        self.unavailable_count = 0
        self.has_given_up = False
        """Whether it took longer to drain than it may."""
        self.is_over = asyncio.Event()
        self.tasks = []
        self.in_flight = []
        """The deliveries that are attempted now."""
        self.collecting_count = 0
        """The questions to the collector that are not answered yet."""
        self._world = world
        self._stop = asyncio.Event()
        self._accepting = []
        self._doom = world.doom()
        self._assemble(world)

    def __str__(self):
        return self.name

    @property
    def is_killed(self):
        """Whether nothing that it does is real any more."""
        return self.state is State.KILLED

    def start(self):
        """Begin to run."""
        self._world.story.tell(self, "starts")
        self._spawn(self._run())

    def drain(self):
        """Ask it to end."""
        if self.state is State.RUNNING:
            self._world.story.tell(self, "is told to drain")
            self.state = State.DRAINING
            self._stop.set()

    def kill(self):
        """End it on the spot: not one line of it runs to any effect."""
        if self.state in (State.RUNNING, State.DRAINING):
            self._world.story.tell(self, "is killed")
            self.end()
            self.is_over.set()

    def end(self):
        """Cancel all that it does, and let what that leads to come to nothing."""
        self.state = State.KILLED
        self.dispatcher._attempts = self.collection._steps = _Grave()
        for task in list(self.tasks):
            task.cancel()

    def accept(self, invoice):
        """A task that accepts *invoice* here, as the API does."""
        task = self._spawn(self.store.accept(invoice))
        self._accepting.append(task)
        return task

    def redeliver(self, delivery_id):
        """A task that makes a delivery pending again, as the API does."""
        return self._spawn(self._redelivered(delivery_id))

    async def lives_on(self, station):
        """Return while this process lives; it may be killed right here."""
        if self._doom and self._doom[0] == station and not self._world.is_calm:
            self._doom = (station, self._doom[1] - 1)
            if not self._doom[1]:
                self.kill()
        if self.is_killed:
            await asyncio.Event().wait()

    async def send(self, outgoing):
        """Send a request: implements `service.delivery.attempt.Sends`."""
        delivery = _LEASE.get()
        await self.lives_on("send")
        request = Request(
            self, outgoing.headers["webhook-id"], delivery.lease_token, outgoing.url, outgoing.body
        )
        self._world.rules.request_begins(request, delivery)
        answer = await self._world.receivers.answer(request, delivery.origin)
        await self.lives_on("answer")
        request.answer = answer
        self._world.rules.request_ends(request, delivery)
        return answer

    def _assemble(self, world):
        plan = world.plan
        self.link = Link(world, self)
        self.store = LinkedStore(self.link, self, world.rules)
        figures = _figures()
        self.collection = Collection(
            self.store, Script(world, self), world.announced, self.clock, figures, SILENT
        )
        rules = Rules(
            retry_schedule=plan.schedule,
            is_strict=plan.is_strict,
            user_agent="invoices/simulation",
            chance=world.chance.random,
        )
        self.performer = WatchedPerformer(
            self, self._signer_of, _CALLBACKS, rules, self.clock, SILENT
        )
        self.performer.watched_by(self, world.rules)
        limits = Limits(
            concurrency=plan.concurrency,
            origin_concurrency=plan.origin_concurrency,
            timeout=plan.timeout,
        )
        self.dispatcher = WatchedDispatcher(self.store, self.performer, limits, self.clock, figures)
        self.dispatcher.watched_by(self, world.rules)

    async def _signer_of(self, _account_id):
        """The secrets are remembered mostly, and looked up now and then."""
        await self.lives_on("sign")
        if self._world.chance.random() < 0.1:
            await self.link.read(lambda tx: None)
        return _SIGNER

    async def _redelivered(self, delivery_id):
        """The person who asked sees that it failed, and may ask again."""
        with suppress(StorageUnavailable):
            await self.store.redeliver("dev", delivery_id, self.clock.now())

    def _spawn(self, work):
        context = copy_context()
        context.run(OWNER.set, self.tasks)
        context.run(PROCESS.set, self)
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, context=context)
        self.tasks.append(task)
        return task

    async def _run(self):
        """As `service.app.running`: the API ends first, then what collects, then what delivers."""
        self.store.listen()
        loops = (self.collection, self.dispatcher)
        async with running_loops(loops, drain_seconds=self._world.plan.drain_seconds) as beside:
            beside.failed.add_done_callback(self._tell_of_end)
            await self._stop.wait()
            if self._accepting:
                await asyncio.wait(self._accepting)
        if not self.is_killed:
            self.state = State.ENDED
            self._world.story.tell(self, "has ended")
            self._world.rules.drained(self)
            self.is_over.set()

    def _tell_of_end(self, _):
        if self.state is State.RUNNING:
            self._world.story.violate("a loop of {} ended by itself", self)


class _Grave:
    """Where the tasks go that a killed process would have begun."""

    def create_task(self, work):
        """Begin nothing."""
        work.close()


class WatchedDispatcher(Dispatcher):
    """The service's dispatcher, that tells when it lets somebody have a turn."""

    def watched_by(self, process, rules):
        """Tell *rules* of the turns that *process* gives."""
        self._process = process
        self._watching = rules

    def _attempt(self, turn):
        self._watching.turn_given(self._process, turn)
        return super()._attempt(turn)


class WatchedPerformer(Performer):
    """The service's performer, that tells when an attempt begins and ends."""

    def watched_by(self, process, rules):
        """Tell *rules* of the attempts of *process*."""
        self._process = process
        self._watching = rules

    async def perform(self, delivery):
        """As it is."""
        _LEASE.set(delivery)
        self._watching.attempt_begins(self._process, delivery)
        try:
            return await super().perform(delivery)
        finally:
            self._watching.attempt_ends(self._process, delivery)


def rendered(callback_name, number, description, *, is_paid):
    """The *number*-th delivery of a world, that brings an event to its receiver."""
    body = _CALLBACKS[callback_name].render({"description": description, "paid": is_paid})
    return NewDelivery(f"msg_{number}", body)
