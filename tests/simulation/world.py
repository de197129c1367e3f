"""
A world: the shared memory, machines that are restarted, receivers, and clients.

It follows its plan: first with faults, then without, until everything is finished. All random
choices come from one generator, in an order that depends on the seed alone.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.accounts.administration import AccountAdministration
from service.accounts.encryption import SecretCipher
from service.domain.delivery import receiver_of
from service.errors import NotFound, StorageUnavailable
from service.settings import Settings
from service.storage.store import Store
from tests.memory import Loss, Memory
from tests.rows import a_callback, an_invoice
from tests.simulation.clocks import SkewedClock, true_now
from tests.simulation.customers import Customers
from tests.simulation.greedy import GREEDY, QUIET
from tests.simulation.invariants import Invariants
from tests.simulation.link import WatchedDatabase
from tests.simulation.mail_server import ADDRESSES, MailServer
from tests.simulation.plan import ACCOUNT_COUNT, CALLBACKS, CLOCK_LIMIT, FaultKind, InvoicePlan
from tests.simulation.processes import (
    KILL_POINTS,
    MAIL_KILL_POINTS,
    PAYMENT_KILL_POINTS,
    Machine,
    State,
)
from tests.simulation.receivers import Receivers
from tests.simulation.run_log import RunLog
from tests.simulation.stripe_side import StripeSide

ENCRYPTION_KEY = 43 * "A" + "="

END_SECONDS = 120
"""How long everything may take to finish after the last fault, if receivers answer."""

PROBE_SECONDS = 15
"""The longest duration of a probe and of the cooldown after it: the cost of each attempt at an
origin that does not answer."""

CHECK_SECONDS = 0.5
"""How often the world checks whether everything has finished."""

READ_COUNT = 10
"""How many reads the greedy account begins at once."""

JUMP = timedelta(seconds=16)
"""The range between the largest jump back and the largest jump forward of a clock."""


@dataclass(slots=True)
class Script:
    """The remaining answers of the collector for an invoice."""

    plan: InvoicePlan
    silent_count: int

    @property
    def wait(self):
        """The time after which the collector wants to be asked again."""
        return timedelta(seconds=self.plan.wait)

    def is_silent_now(self):
        """Whether it has no event this time."""
        self.silent_count -= 1
        return self.silent_count >= 0


@dataclass(slots=True)
class Secret:
    """A signing secret of an account, as its receivers know it; seconds are of virtual time."""

    text: str
    since: float
    expires_at: datetime | None = None
    expired_since: float = 0.0
    """When *expires_at* was set."""


class World:
    """The whole simulated system of one run; `run` takes it to its end."""

    def __init__(self, plan, twin=None):
        self.plan = plan
        self.twin = twin
        self.chance = random.Random(~plan.seed)
        self.log = RunLog()
        self.memory = Memory(has_one_writer=plan.has_one_writer)
        self.stripe = StripeSide(self) if plan.payments else None
        self.rules = Invariants(self)
        self.receivers = Receivers(self)
        self.mail_server = MailServer(self)
        self.settings = _settings(plan)
        self.secrets = {}
        """The signing secrets of each account, by its id."""
        self.faults_are_over = False
        self.processes = []
        self._accounts = []
        self._scripts = {one.id: Script(one, one.silent_count) for one in plan.invoices}
        self._called = {
            (callback, one.traceparent): (one.account, receiver)
            for one in plan.invoices
            for callback, receiver in zip(CALLBACKS, one.receivers, strict=False)
        }
        self._has_mails = any(one.recipient for one in plan.invoices)
        self.asked = set()
        """The callbacks and traces of what was asked for by hand."""
        self._machines = [
            Machine(self, name, offset) for name, offset in zip("ABC", plan.offsets, strict=False)
        ]
        self._administration = AccountAdministration(
            Store(WatchedDatabase(self, "operator")),
            SecretCipher(self.settings.encryption_key),
            SkewedClock(timedelta(0)),
            lambda: f"{len(self._accounts)}",
        )
        self._asked = []
        """The requested redeliveries: one may take longer than its caller waits."""
        self._pauses = {}
        """The receivers that a client has asked to pause, and not yet resumed -> the request."""
        self._id_count = 0
        self._key_count = 0
        self._fault_handlers = {
            FaultKind.KILL: self._kill,
            FaultKind.DRAIN: self._drain,
            FaultKind.JUMP: self._jump,
            FaultKind.AWAY: self._take_away,
            FaultKind.CUT_OFF: self._cut_off,
            FaultKind.REDELIVER: self._redeliver,
            FaultKind.ROTATE: self._rotate,
            FaultKind.PAUSE: self._pause,
            FaultKind.CANCEL: self._cancel,
        }
        """The coroutine for each kind of fault; its arguments are the machine and the fault."""

    @property
    def running_processes(self):
        """The processes that run."""
        return [one for one in self.processes if one.state in (State.RUNNING, State.DRAINING)]

    # What the processes use

    def kill_point(self):
        """At which operation a new process is killed, and at its which use; usually None."""
        if self.faults_are_over or self.chance.random() >= self.plan.kill_chance:
            return None
        payments = self.plan.payments
        if payments and self.chance.random() < payments.kill_chance:
            return self.chance.choice(PAYMENT_KILL_POINTS), self.chance.randint(1, 12)
        if self._has_mails and self.chance.random() < 0.3:
            return self.chance.choice(MAIL_KILL_POINTS), self.chance.randint(1, 4)
        return self.chance.choice(KILL_POINTS), self.chance.randint(1, 30)

    def loss(self):
        """The result of the next commit."""
        if self.faults_are_over or self.chance.random() >= self.plan.loss_chance:
            return None
        return self.chance.choice((Loss.BEFORE, Loss.AFTER))

    def new_id(self, now):
        """An id that is the same in every run of the seed; it begins with its time."""
        self._id_count += 1
        return f"{int(now.timestamp() * 1000):012x}.{self._id_count:03}"

    def script_of(self, invoice_id):
        """The remaining answers of the collector for an invoice."""
        return self._scripts[invoice_id]

    def receiver_of(self, callback, traceparent):
        """The receiver of *callback* of the invoice with the trace, and its origin."""
        account, receiver = self._called[callback, traceparent]
        return receiver_of(self._accounts[account], receiver.base), receiver.origin

    def notify(self, name, details, sender):
        """Wake the other processes a moment later; a notification may be lost."""
        for process in self.running_processes:
            signal = process.link.signals.get(name)
            if (
                process is not sender
                and signal
                and self.chance.random() >= self.plan.notification_loss_chance
            ):
                delay_seconds = self.chance.choice((0, 0.001, 0.05))
                asyncio.get_running_loop().call_later(delay_seconds, signal.set_for, details)

    # From the start to the end

    async def run(self):
        """Run the plan, end the faults, wait for the end, and check it."""
        for number in range(ACCOUNT_COUNT):
            issued = await self._administration.add(f"account {number}")
            self._accounts.append(issued.account_id)
            self.secrets[issued.account_id] = [Secret(issued.secret, -math.inf)]
            if self.stripe:
                keys = self.stripe.keys_of(number)
                await self._administration.set_stripe_keys(f"account {number}", keys)
                self.stripe.add(issued.account_id, keys)
        keepers = [self._begin(one.keep()) for one in self._machines]
        twice = [one for one in self.plan.invoices if one.is_sent_twice]
        clients = [self._begin(self._send_in(one)) for one in (*self.plan.invoices, *twice)]
        clients += [
            self._begin(self._record(one, event))
            for one in self.plan.invoices
            for event in one.events
        ]
        clients += [self._begin(self._read(at)) for at in self.plan.reads]
        if self.stripe:
            keepers.append(self._begin(self.stripe.keep()))
            customers = Customers(self)
            clients += [self._begin(customers.act(one)) for one in self.plan.payments.actions]
        faults = [self._begin(self._apply(one)) for one in self.plan.faults]
        await asyncio.sleep(self.plan.faults_until)
        await self._end_faults(faults)
        await self._wait_for_end(clients)
        self.rules.ending.check()
        self.rules.mails.check_end()
        if self.stripe:
            self.rules.payments.check_end()
        self.rules.predictions.check_end()
        if self.rules.fairness:
            self.rules.fairness.check(self._accounts[QUIET])
        await _cancelled(keepers)
        await self._drain_all()

    def _begin(self, work):
        task = asyncio.create_task(work)
        task.add_done_callback(self._check_task)
        return task

    def _check_task(self, task):
        """An error in the world itself ends the run like a broken promise."""
        if not task.cancelled() and task.exception():
            self.log.violate("the world itself failed: {!r}", task.exception())

    async def _send_in(self, plan):
        """Send an invoice until the response says that it is stored."""
        await asyncio.sleep(plan.at)
        while True:
            process = await self._ready_process()
            self._key_count += 1
            invoice = self._invoice_of(
                plan, created_at=process.clock.now(), key=f"{self._key_count:032x}"
            )
            task = await self._ended(process, process.accept(invoice))
            if task:
                self.rules.acknowledged(invoice, task.result())
                return

    async def _record(self, plan, event):
        """Record an event beside the collection until the response says that it is stored."""
        await asyncio.sleep(event.at)
        while True:
            process = await self._ready_process()
            task = await self._ended(process, process.record(self._invoice_of(plan), event))
            if task:
                self.rules.event_acknowledged(event)
                return

    async def _read(self, at):
        """The greedy account reads its deliveries many times at once."""
        await asyncio.sleep(at)
        process = await self._ready_process()
        reads = [process.read(self._accounts[GREEDY]) for _ in range(READ_COUNT)]
        await asyncio.gather(*reads)

    async def _ready_process(self):
        while True:
            if ready := [one for one in self.processes if one.is_ready]:
                return self.chance.choice(ready)
            await asyncio.sleep(self.chance.choice((0.1, 1)))

    async def _ended(self, process, task):
        """Wait for *task* of *process*: return it after success, and None after a failure."""
        await asyncio.wait({task})
        if not process.is_killed and not task.cancelled():
            error = task.exception()
            if error is None:
                return task
            if not isinstance(error, (StorageUnavailable, NotFound)):
                self.log.violate("a request failed with {!r}", error)
        await asyncio.sleep(self.chance.choice((0.1, 1)))
        return None

    def _invoice_of(self, plan, **changes):
        """The invoice as its account sends it."""
        callbacks = tuple(
            a_callback(one.origin, plan.id, name, one.path)
            for name, one in zip(CALLBACKS, plan.receivers, strict=False)
        )
        return an_invoice(
            plan.id,
            account_id=self._accounts[plan.account],
            callback_url=plan.receivers[0].base if plan.receivers else None,
            callbacks=callbacks,
            traceparent=plan.traceparent,
            customer_email=ADDRESSES.get(plan.recipient),
            **changes,
        )

    async def _end_faults(self, faults):
        """End the faults: memory and links are available, and receivers keep their behaviour."""
        await _cancelled(faults)
        self.log.add("world", "the faults are over")
        self.faults_are_over = self.receivers.faults_are_over = True
        self.memory.is_away = False
        for machine in self._machines:
            machine.is_cut_off = False
        for receiver in sorted(self._pauses):
            await self._resume(receiver)
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _wait_for_end(self, clients):
        """Wait until everything is accepted and finished, up to a time limit."""
        loop = asyncio.get_running_loop()
        until = loop.time() + END_SECONDS + self._probing_seconds()
        while not (
            all(one.done() for one in clients)
            and self.rules.mails.are_finished()
            and (not self.stripe or self.rules.payments.are_finished())
            and self.rules.ending.is_reached()
        ):
            self.rules.ending.check_rest()
            if loop.time() > until:
                if self.stripe:
                    self.rules.payments.name_unfinished()
                self.rules.ending.name_unfinished_rows()
                return
            await asyncio.sleep(CHECK_SECONDS)
        # By then, the last releases have finished too.
        await asyncio.sleep(CHECK_SECONDS)

    def _probing_seconds(self):
        """How long the deliveries to a receiver take to be dead if it never answers."""
        planned = self.plan.invoices
        count = sum(one.event_count + 2 * len(one.events) for one in planned)
        count += len(self.plan.faults)
        return PROBE_SECONDS * count * (len(self.plan.schedule) + 1)

    async def _drain_all(self):
        """Drain every running process; no work is left for which it could wait."""
        for process in self.running_processes:
            process.drain()
            await process.is_over.wait()
            if process.has_given_up:
                self.log.violate("{} had no work, and did not drain in time", process)

    # Faults

    async def _apply(self, fault):
        await asyncio.sleep(fault.at)
        await self._fault_handlers[fault.kind](self._machines[fault.machine], fault)

    async def _kill(self, machine, _fault):
        if machine.process:
            machine.process.kill()

    async def _drain(self, machine, _fault):
        if machine.process:
            machine.process.drain()

    async def _jump(self, machine, fault):
        machine.clock.jump((fault.size - 0.5) * JUMP, CLOCK_LIMIT)
        self.log.add("world", "the clock of {} is off by {}", machine.name, machine.clock.offset)

    async def _take_away(self, _machine, fault):
        self.log.add("world", "the memory is unavailable")
        self.memory.is_away = True
        await asyncio.sleep(8 * fault.size)
        self.memory.is_away = False
        self.log.add("world", "the memory is available")

    async def _cut_off(self, machine, fault):
        self.log.add("world", "{} is cut off", machine.name)
        machine.is_cut_off = True
        await asyncio.sleep(8 * fault.size)
        machine.is_cut_off = False
        self.log.add("world", "{} is back", machine.name)

    async def _redeliver(self, machine, fault):
        """A caller asks to attempt a delivery now, whatever its state."""
        process, rows = machine.process, list(self.memory.tables.deliveries)
        if rows and process and process.is_ready:
            row = rows[int(fault.size * len(rows))]
            invoice = self.memory.tables.invoices.get(row["account_id"], row["invoice_key"])
            self.asked.add((row["callback"], invoice["traceparent"]))
            self.log.add(process, "is asked to redeliver {}", row["id"])
            self.rules.ledger.redelivery_requests.add(row["id"])
            self._asked.append(process.redeliver(row["account_id"], row["id"]))

    async def _pause(self, machine, fault):
        """A client pauses a receiver, and resumes it after a while, perhaps in another process."""
        process, rows = machine.process, list(self.memory.tables.deliveries)
        if not rows or not process or not process.is_ready:
            return
        receiver = rows[int(fault.size * len(rows))]["receiver"]
        if receiver in self._pauses:
            return
        self.log.add(process, "is asked to pause {}", receiver)
        self._pauses[receiver] = pausing = process.pause(receiver)
        if await self._ended(process, pausing):
            self.log.add(process, "has paused {}", receiver)
            self.rules.ledger.paused.add(receiver)
        await asyncio.sleep(8 * fault.size)
        await self._resume(receiver)

    async def _resume(self, receiver):
        """Ask to resume a receiver until a response says that it is."""
        self.rules.ledger.paused.discard(receiver)
        # A request that is on its way would pause it after it was resumed.
        await asyncio.wait({self._pauses[receiver]})
        while receiver in self._pauses:
            process = await self._ready_process()
            self.log.add(process, "is asked to resume {}", receiver)
            if await self._ended(process, process.resume(receiver)):
                self._pauses.pop(receiver, None)

    async def _cancel(self, machine, fault):
        """A client cancels a delivery, whatever its state."""
        process, rows = machine.process, list(self.memory.tables.deliveries)
        if rows and process and process.is_ready:
            row = rows[int(fault.size * len(rows))]
            self.log.add(process, "is asked to cancel {}", row["id"])
            cancelling = process.cancel(row["account_id"], row["id"])
            if await self._ended(process, cancelling):
                self.rules.cancelled(row)

    async def _rotate(self, _machine, fault):
        """An account gets a new signing secret; the old one stays valid for a while."""
        number = int(fault.size * 1000) % ACCOUNT_COUNT
        overlap = timedelta(seconds=round(12 * fault.size, 3))
        try:
            issued = await self._administration.rotate_secret(f"account {number}", overlap)
        except StorageUnavailable:
            return
        self.log.add("operator", "rotates the secret of account {}", number)
        now, known = asyncio.get_running_loop().time(), self.secrets[issued.account_id]
        for secret in known:
            if secret.expires_at is None or secret.expires_at > true_now() + overlap:
                secret.expires_at, secret.expired_since = true_now() + overlap, now
        known.append(Secret(issued.secret, now))


def _settings(plan):
    return Settings(
        encryption_key=(ENCRYPTION_KEY,),
        callback_concurrency=plan.concurrency,
        origin_concurrency=plan.origin_concurrency,
        callback_timeout=plan.timeout,
        retry_schedule=plan.schedule,
        receiver_contract="strict" if plan.is_strict else "lenient",
        retention=plan.retention,
        mail_retry_schedule=plan.mail_schedule,
        **_stripe_settings(plan),
    )


def _stripe_settings(plan):
    """In a calm world nothing is lost, and everything is learned from webhooks."""
    if plan.payments is None:
        return {}
    interval = plan.poll if plan.is_calm else timedelta(seconds=2)
    return {"collector": "stripe", "stripe_poll_interval": interval}


async def _cancelled(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
