"""
Machines, and the processes that run on them one after the other.

A process is the service as `service.app.assembling` wires it. This module replaces its edges, and
starts, drains and kills it. Its loops run like those of a real process.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import replace
from enum import Enum
from functools import cache

from service.api.application import OPERATIONS
from service.app.assembling import assemble
from service.app.edges import Edges
from service.app.process import ALONE
from service.domain.delivery import account_of
from service.domain.invoice import Event, Step
from service.domain.payment import NothingLeft
from service.domain.receivers import id_of
from service.domain.states import PAYABLE
from service.errors import CollectorUnavailable, Conflict, NotFound, StorageUnavailable
from service.loops import running_loops
from service.storage.history import DeliveryFilter
from service.storage.invoices import as_invoice
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Span, SpanKind, Tracing
from tests.simulation.clocks import SkewedClock
from tests.simulation.collector import Script
from tests.simulation.link import Link
from tests.simulation.loop import OWNER
from tests.simulation.mail_server import MailTransport
from tests.simulation.plan import CALLBACKS

KILL_POINTS = ("write", "commit", "read", "send", "answer", "collect")
"""The operations in the middle of which a process may be killed."""

MAIL_KILL_POINTS = ("mail",)
"""The same in worlds with mails."""

PAYMENT_KILL_POINTS = ("call",)
"""The same in worlds with payments."""

PROCESS = ContextVar("PROCESS", default=None)
"""The running process; log records are assigned to it."""

ATTEMPT = ContextVar("ATTEMPT")
"""The attempt of the running task."""


@cache
def _metrics():
    """Metrics that no check reads; they are shared because making them takes as long as a run."""
    return Metrics()


@cache
def _operations():
    """The operations of the service; the last one declares a second callback as well."""
    *others, last = OPERATIONS
    (callback,) = (callback for one in OPERATIONS for callback in one.callbacks)
    return *others, replace(last, callbacks=(*last.callbacks, replace(callback, name=CALLBACKS[1])))


class State(Enum):
    """The state of a process."""

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
        self.start_count = 0
        self.process: Process | None = None

    async def keep(self):
        """Keep a process running: when one has ended, start another a moment later."""
        while True:
            self.start_count += 1
            self.process = Process(self._world, self, f"{self.name}{self.start_count}")
            self._world.processes.append(self.process)
            self.process.start()
            await self.process.is_over.wait()
            await asyncio.sleep(self._world.chance.choice((0.05, 0.5, 4)))


class Process:
    """One process, from its start to its end."""

    def __init__(self, world, machine, name):
        self.machine = machine
        self.name = name
        self.clock = machine.clock
        self.state = State.RUNNING
        self.unavailable_count = 0
        self.has_given_up = False
        """Whether the drain took longer than its time limit."""
        self.is_over = asyncio.Event()
        self.tasks = []
        self.in_flight = []
        """The attempts in flight."""
        self.collecting_count = 0
        """The number of open questions to the collector."""
        self._world = world
        self._stop = asyncio.Event()
        self._serving = []
        self._kill_point = world.kill_point()
        self.link = Link(world, self)
        transport = MailTransport(world, self)
        stripe = world.stripe
        edges = Edges(
            database=self.link,
            sender=self,
            mail_transport=transport,
            collector=Script(world, self),
            stripe=stripe.connected(self) if stripe else None,
            clock=self.clock,
            chance=world.chance.random,
            new_id=lambda: world.new_id(self.clock.now()),
            tracing=AttemptTracing(world, self),
        )
        self.service = assemble(
            world.settings, ALONE, edges, operations=_operations(), metrics=_metrics()
        )
        # A real mail has random ids, and a pay link, which is not part of a world.
        self.service.collection._compose = transport.compose

    def __str__(self):
        return self.name

    @property
    def is_killed(self):
        """Whether the process was killed, so that its code must have no effect."""
        return self.state is State.KILLED

    @property
    def is_ready(self):
        """Whether clients may send requests to it."""
        return self.state is State.RUNNING and self.service.dependencies.is_ready()

    def start(self):
        """Start the process."""
        self._world.log.add(self, "starts")
        self._spawn(self._run())

    def drain(self):
        """Ask the process to end."""
        if self.state is State.RUNNING:
            self._world.log.add(self, "is asked to drain")
            self.state = State.DRAINING
            self._stop.set()

    def kill(self):
        """End the process at once: none of its code has an effect afterwards."""
        if self.state in (State.RUNNING, State.DRAINING):
            self._world.log.add(self, "is killed")
            self.end()
            self.is_over.set()

    def end(self):
        """Cancel all tasks, and discard the tasks that they would create."""
        self.state = State.KILLED
        for loop in self.service.loops:
            loop.tasks = _DiscardedTasks()
        for task in list(self.tasks):
            task.cancel()

    def new_id(self):
        """An id of a checkout or a refund, which is told to Stripe and comes back in webhooks."""
        return self._world.new_id(self.clock.now()).replace(".", "-")

    # What the API does

    def accept(self, invoice):
        """A task that accepts *invoice* in this process."""
        return self._serve(self.service.dependencies.accept(invoice))

    def record(self, invoice, plan):
        """A task that records the planned event of *invoice*, beside its collection."""
        return self._serve(self._record(invoice, plan))

    def redeliver(self, account_id, delivery_id):
        """A task that redelivers a delivery."""
        return self._spawn(self._redeliver(account_id, delivery_id))

    def checkout(self, account_id, invoice_key):
        """A task that finds where a customer pays an invoice; its result is None if nowhere now."""
        return self._serve(self._checkout(account_id, invoice_key))

    def void(self, account_id, invoice_id):
        """A task that voids an invoice; its result is whether it is void."""
        return self._serve(self._void(account_id, invoice_id))

    def refund(self, account_id, invoice_id, asked_minor, key):
        """A task that asks for a refund, unless there is nothing to give back."""
        return self._serve(self._refund(account_id, invoice_id, asked_minor, key))

    def take(self, account_id, body, signature):
        """A task that takes a webhook of Stripe; its result is whether it was taken."""
        return self._serve(self.service.dependencies.stripe.take(account_id, body, signature))

    async def _checkout(self, account_id, invoice_key):
        """Do the same as the button of the page of an invoice."""
        row = await self.service.store.invoice_by_key(account_id, invoice_key)
        if row["status"] not in PAYABLE:
            return None
        with suppress(Conflict, CollectorUnavailable):
            return await self.service.payments.collector.checkout(as_invoice(row), "")

    async def _void(self, account_id, invoice_id):
        row = await self.service.store.history.find_invoice(account_id, invoice_id)
        with suppress(Conflict, CollectorUnavailable):
            await self.service.dependencies.reversals.void(as_invoice(row))

    async def _refund(self, account_id, invoice_id, asked_minor, key):
        row = await self.service.store.history.find_invoice(account_id, invoice_id)
        with suppress(Conflict, NothingLeft):
            await self.service.dependencies.reversals.refund(as_invoice(row), asked_minor, key)

    def cancel(self, account_id, delivery_id):
        """A task that cancels a delivery."""
        return self._serve(self._cancel(account_id, delivery_id))

    def pause(self, receiver):
        """A task that pauses *receiver*."""
        return self._serve(self._pause(receiver))

    def resume(self, receiver):
        """A task that resumes *receiver*."""
        return self._serve(self._resume(receiver))

    async def _pause(self, receiver):
        known = await self._known(receiver)
        await self.service.store.receivers.pause(known, self.clock.now())

    async def _resume(self, receiver):
        # If the pause was not written, the receiver may be unknown by now.
        with suppress(NotFound):
            await self.service.store.receivers.resume(await self._known(receiver))

    async def _known(self, receiver):
        return await self.service.store.receivers.find(
            account_of(receiver), id_of(receiver), self.clock.now()
        )

    def read(self, account_id):
        """A task that lists the deliveries of an account."""
        return self._serve(self._read(account_id))

    async def _read(self, account_id):
        """Do the same as the operation that lists deliveries."""
        async with self.service.dependencies.reads.turn(account_id):
            await self.service.store.history.list_deliveries(
                account_id, DeliveryFilter(), after=None, limit=50
            )

    async def _record(self, invoice, plan):
        row = await self.service.store.history.find_invoice(invoice.account_id, invoice.id)
        stored = replace(invoice, key=row["key"], event_count=row["event_count"])
        event = Event(
            description=plan.description,
            paid=False,
            at=self.clock.now(),
            collector="operator",
            callbacks=plan.callbacks,
        )
        return await self.service.dispatcher.record(Step(invoice=stored, event=event))

    async def _redeliver(self, account_id, delivery_id):
        """The caller sees the error, or that the delivery was removed, and may ask again."""
        with suppress(StorageUnavailable, NotFound):
            await self.service.store.redeliver(account_id, delivery_id, self.clock.now())

    async def _cancel(self, account_id, delivery_id):
        """The caller sees that the delivery was removed by retention, and goes on."""
        with suppress(NotFound):
            await self.service.store.cancel(account_id, delivery_id, self.clock.now())

    # What its edges do

    async def pass_kill_point(self, point):
        """Return while this process runs; it may be killed at this point."""
        if self._kill_point and self._kill_point[0] == point and not self._world.faults_are_over:
            self._kill_point = (point, self._kill_point[1] - 1)
            if not self._kill_point[1]:
                self.kill()
        if self.is_killed:
            await asyncio.Event().wait()

    async def send(self, outgoing):
        """Send a request: implements `service.delivery.attempt.Sends`."""
        await self.pass_kill_point("send")
        request = self._world.rules.request_begins(ATTEMPT.get(), outgoing)
        answer = await self._world.receivers.answer(request)
        await self.pass_kill_point("answer")
        request.answer = answer
        self._world.log.add(self, "has the answer for {}: {}", request.delivery.id, answer)
        return answer

    # How it runs

    def _serve(self, work):
        task = self._spawn(work)
        self._serving.append(task)
        return task

    def _spawn(self, work):
        context = copy_context()
        context.run(OWNER.set, self.tasks)
        context.run(PROCESS.set, self)
        task = asyncio.get_running_loop().create_task(work, context=context)
        self.tasks.append(task)
        return task

    async def _run(self):
        """Do the same as `service.app.running.running`: the API ends before the loops drain."""
        with suppress(StorageUnavailable):
            await self.service.signing_secrets.check()
            self.service.store.listen()
            drain_seconds = self._world.settings.drain_timeout.total_seconds()
            async with running_loops(self.service.loops, drain_seconds=drain_seconds) as failed:
                failed.add_done_callback(self._loop_has_ended)
                await self._stop.wait()
                if self._serving:
                    await asyncio.wait(self._serving)
        if not self.is_killed:
            self.state = State.ENDED
            self._world.log.add(self, "has ended")
            self._world.rules.drained(self)
            self.is_over.set()

    def _loop_has_ended(self, _):
        if self.state is State.RUNNING:
            self._world.log.violate("a loop of {} ended by itself", self)


class _DiscardedTasks:
    """Discards the tasks that a killed process would create."""

    def create_task(self, work):
        """Close the coroutine without running it."""
        work.close()


class AttemptTracing(Tracing):
    """Records no trace; it reports when a process begins and ends an attempt."""

    def __init__(self, world, process):
        super().__init__()
        # Otherwise the spans get no names, and those of attempts end with their callbacks.
        self.is_on = True
        self._world = world
        self._process = process

    def begin(self, kind, name, parent):
        """The span of an attempt: *name* ends with its callback, *parent* is its trace."""
        if kind is not SpanKind.CLIENT:
            return super().begin(kind, name, parent)
        return AttemptSpan(self._world, self._process, name.split()[-1], parent)


class AttemptSpan(Span):
    """An attempt, from the moment at which it gets its slot."""

    def __init__(self, world, process, callback, traceparent):
        super().__init__(traceparent)
        self._rules = world.rules
        self._attempt = world.rules.attempt_begins(process, callback, traceparent)

    def __enter__(self):
        ATTEMPT.set(self._attempt)
        return self

    def __exit__(self, kind, failure, traceback):
        self._rules.attempt_ends(self._attempt, failure)
