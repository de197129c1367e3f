"""
A world: the shared memory, machines that are restarted, receivers, and who sends invoices in.

It is made from its plan, goes through its trouble, and comes to its end. Everything that happens by
chance is drawn from one generator, in an order that nothing outside can change.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.accounts.administration import AccountAdministration
from service.accounts.encryption import SecretCipher
from service.domain.states import DeliveryStatus
from service.errors import NotFound, StorageUnavailable
from service.settings import Settings
from service.storage.store import Store
from tests.memory import Loss, Memory
from tests.rows import a_callback, an_invoice
from tests.simulation.clocks import SkewedClock, true_now
from tests.simulation.invariants import Invariants
from tests.simulation.link import WatchedDatabase
from tests.simulation.plan import ACCOUNT_COUNT, CALLBACKS, CLOCK_LIMIT, InvoicePlan, Trouble
from tests.simulation.processes import STATIONS, Machine, State
from tests.simulation.receivers import Receivers
from tests.simulation.story import Story

ENCRYPTION_KEY = 43 * "A" + "="

REST_SECONDS = 120
"""How long everything may take to come to its end once trouble is over, if receivers answer."""

PROBE_SECONDS = 15
"""How long a probe may take, and the longest cooldown after it: the cost of each attempt at an
origin that does not answer."""

LOOK_SECONDS = 0.5
"""How often the world checks whether everything has ended."""

JUMP = timedelta(seconds=16)
"""From the farthest jump of a clock back to the farthest jump forward."""


@dataclass(slots=True)
class Script:
    """What the collector of an invoice still has to say."""

    plan: InvoicePlan
    silent_count: int

    @property
    def wait(self):
        """After how long the collector wants to be asked again."""
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
    """Everything there is in one run; `live` takes it to its end."""

    def __init__(self, plan, twin=None):
        self.plan = plan
        self.twin = twin
        self.chance = random.Random(~plan.seed)
        self.story = Story()
        self.memory = Memory(has_one_writer=plan.has_one_writer)
        self.rules = Invariants(self)
        self.receivers = Receivers(self)
        self.settings = _settings(plan)
        self.secrets = {}
        """The signing secrets of each account, by its id."""
        self.is_calm = False
        """Whether trouble is over."""
        self.processes = []
        self._accounts = []
        self._scripts = {one.id: Script(one, one.silent_count) for one in plan.invoices}
        self._origins = {
            (callback, one.traceparent): origin
            for one in plan.invoices
            for callback, origin in zip(CALLBACKS, one.origins, strict=False)
        }
        self._machines = [
            Machine(self, name, offset) for name, offset in zip("ABC", plan.offsets, strict=False)
        ]
        self._administration = AccountAdministration(
            Store(WatchedDatabase(self, "operator")),
            SecretCipher(self.settings.encryption_key),
            SkewedClock(timedelta(0)),
        )
        self._asked = []
        """What is asked for by hand: a redelivery may take longer than its caller waits."""
        self._id_count = 0
        self._key_count = 0
        self._troubles = {
            Trouble.KILL: self._kill,
            Trouble.DRAIN: self._drain,
            Trouble.JUMP: self._jump,
            Trouble.AWAY: self._take_away,
            Trouble.CUT_OFF: self._cut_off,
            Trouble.REDELIVER: self._redeliver,
            Trouble.ROTATE: self._rotate,
        }
        """What may happen to a world: a coroutine of the machine and the accident for each."""

    @property
    def living(self):
        """The processes that run."""
        return [one for one in self.processes if one.state in (State.RUNNING, State.DRAINING)]

    # What the processes ask for

    def doom(self):
        """Where in its work a new process is killed, and at which time there; None mostly."""
        if self.is_calm or self.chance.random() >= self.plan.doom_chance:
            return None
        return self.chance.choice(STATIONS), self.chance.randint(1, 30)

    def loss(self):
        """What becomes of the next commit."""
        if self.is_calm or self.chance.random() >= self.plan.loss_chance:
            return None
        return self.chance.choice((Loss.BEFORE, Loss.AFTER))

    def new_id(self, now):
        """An id that is the same in every run of the seed; as others, it begins with its time."""
        self._id_count += 1
        return f"{int(now.timestamp() * 1000):012x}.{self._id_count:03}"

    def script_of(self, invoice_id):
        """What the collector has to say about an invoice."""
        return self._scripts[invoice_id]

    def origin_of(self, callback, traceparent):
        """The receiver of *callback* of the invoice that belongs to a trace."""
        return self._origins[callback, traceparent]

    def notify(self, name, speaker):
        """Wake the other processes, a moment later; a notification may be lost on its way."""
        for process in self.living:
            signal = process.link.signals.get(name)
            if process is not speaker and signal and self.chance.random() >= self.plan.deaf_chance:
                delay_seconds = self.chance.choice((0, 0.001, 0.05))
                asyncio.get_running_loop().call_later(delay_seconds, signal.set)

    # From the beginning to the end

    async def live(self):
        """Go through everything that is planned, become calm, and end."""
        for number in range(ACCOUNT_COUNT):
            issued = await self._administration.add(f"account {number}")
            self._accounts.append(issued.account_id)
            self.secrets[issued.account_id] = [Secret(issued.secret, -math.inf)]
        keepers = [self._begin(one.keep()) for one in self._machines]
        twice = [one for one in self.plan.invoices if one.is_sent_twice]
        clients = [self._begin(self._send_in(one)) for one in (*self.plan.invoices, *twice)]
        clients += [
            self._begin(self._record(one, event))
            for one in self.plan.invoices
            for event in one.events
        ]
        accidents = [self._begin(self._meet(one)) for one in self.plan.accidents]
        await asyncio.sleep(self.plan.trouble_until)
        await self._calm_down(accidents)
        await self._rest(clients)
        self.rules.ending.check()
        await _cancelled(keepers)
        await self._drain_all()

    def _begin(self, work):
        task = asyncio.create_task(work)
        task.add_done_callback(self._check_task)
        return task

    def _check_task(self, task):
        """An error in the world itself ends the run as a broken promise does."""
        if not task.cancelled() and task.exception():
            self.story.violate("the world itself failed: {!r}", task.exception())

    async def _send_in(self, plan):
        """Send an invoice in until the answer says that it is stored."""
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
        """Record an event beside the collection of an invoice until the answer says that it is."""
        await asyncio.sleep(event.at)
        while True:
            process = await self._ready_process()
            task = await self._ended(process, process.record(self._invoice_of(plan), event))
            if task:
                self.rules.event_acknowledged(event)
                return

    async def _ready_process(self):
        while True:
            if ready := [one for one in self.processes if one.is_ready]:
                return self.chance.choice(ready)
            await asyncio.sleep(self.chance.choice((0.1, 1)))

    async def _ended(self, process, task):
        """*task* of *process* once it has succeeded; None if it has failed, a moment later."""
        await asyncio.wait({task})
        if not process.is_killed and not task.cancelled():
            error = task.exception()
            if error is None:
                return task
            if not isinstance(error, (StorageUnavailable, NotFound)):
                self.story.violate("a request failed with {!r}", error)
        await asyncio.sleep(self.chance.choice((0.1, 1)))
        return None

    def _invoice_of(self, plan, **changes):
        """The invoice as its account sends it."""
        callbacks = tuple(
            a_callback(origin, plan.id, name)
            for name, origin in zip(CALLBACKS, plan.origins, strict=False)
        )
        return an_invoice(
            plan.id,
            account_id=self._accounts[plan.account],
            callback_url=plan.origins[0] if plan.origins else None,
            callbacks=callbacks,
            traceparent=plan.traceparent,
            **changes,
        )

    async def _calm_down(self, accidents):
        """Trouble is over: whatever was away is back, and receivers stay as they are."""
        await _cancelled(accidents)
        self.story.add("world", "trouble is over")
        self.is_calm = self.receivers.are_calm = True
        self.memory.is_away = False
        for machine in self._machines:
            machine.is_cut_off = False
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _rest(self, clients):
        """Wait until everything is accepted and has ended, for a bounded time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + REST_SECONDS + self._probing_seconds()
        while not (all(one.done() for one in clients) and self.rules.ending.is_reached()):
            if loop.time() > until:
                self.rules.ending.name_what_is_left()
                return
            await asyncio.sleep(LOOK_SECONDS)
        # By then, what was released last has ended as well.
        await asyncio.sleep(LOOK_SECONDS)

    def _probing_seconds(self):
        """How long it takes until the last delivery is dead for a receiver that takes none."""
        planned = self.plan.invoices
        count = sum(one.event_count + 2 * len(one.events) for one in planned)
        count += len(self.plan.accidents)
        return PROBE_SECONDS * count * (len(self.plan.schedule) + 1)

    async def _drain_all(self):
        """End every process that still runs; there is nothing that it could wait for."""
        for process in self.living:
            process.drain()
            await process.is_over.wait()
            if process.has_given_up:
                self.story.violate("{} had nothing to do, and could not be drained", process)

    # Trouble

    async def _meet(self, accident):
        await asyncio.sleep(accident.at)
        await self._troubles[accident.trouble](self._machines[accident.machine], accident)

    async def _kill(self, machine, _accident):
        if machine.process:
            machine.process.kill()

    async def _drain(self, machine, _accident):
        if machine.process:
            machine.process.drain()

    async def _jump(self, machine, accident):
        machine.clock.jump((accident.size - 0.5) * JUMP, CLOCK_LIMIT)
        self.story.add("world", "the clock of {} is off by {}", machine.name, machine.clock.offset)

    async def _take_away(self, _machine, accident):
        self.story.add("world", "the memory is away")
        self.memory.is_away = True
        await asyncio.sleep(8 * accident.size)
        self.memory.is_away = False
        self.story.add("world", "the memory is back")

    async def _cut_off(self, machine, accident):
        self.story.add("world", "{} is cut off", machine.name)
        machine.is_cut_off = True
        await asyncio.sleep(8 * accident.size)
        machine.is_cut_off = False
        self.story.add("world", "{} is back", machine.name)

    async def _redeliver(self, machine, accident):
        """A settled delivery is asked for again."""
        process = machine.process
        settled = [
            (row["account_id"], row["id"])
            for row in self.memory.tables.deliveries
            if row["status"] != DeliveryStatus.PENDING
        ]
        if settled and process and process.is_ready:
            key = settled[int(accident.size * len(settled))]
            self.story.add(process, "is asked to redeliver {}", key[1])
            self.rules.ledger.reprieved.add(key[1])
            self._asked.append(process.redeliver(*key))

    async def _rotate(self, _machine, accident):
        """An account gets a new signing secret; the old one is valid for a while."""
        number = int(accident.size * 1000) % ACCOUNT_COUNT
        overlap = timedelta(seconds=round(12 * accident.size, 3))
        try:
            issued = await self._administration.rotate_secret(f"account {number}", overlap)
        except StorageUnavailable:
            return
        self.story.add("operator", "rotates the secret of account {}", number)
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
        drain_timeout=timedelta(seconds=plan.drain_seconds),
    )


async def _cancelled(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
