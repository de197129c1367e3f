"""
A world: the shared memory, machines that are restarted, receivers, and who sends invoices in.

It is made from its plan, goes through its trouble, and comes to rest. Everything that happens by
chance is drawn from one generator, in an order that nothing outside can change.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta

from service.domain.states import DeliveryStatus
from service.errors import StorageUnavailable
from tests.memory import Loss, Memory
from tests.rows import an_invoice
from tests.simulation.invariants import Invariants
from tests.simulation.plan import CLOCK_LIMIT, InvoicePlan, Trouble
from tests.simulation.processes import STATIONS, Machine, State, rendered
from tests.simulation.receivers import Receivers
from tests.simulation.story import Story

REST_SECONDS = 120
"""How long everything may take to come to its end once trouble is over, where somebody answers."""

PROBE_SECONDS = 15
"""How long a probe may take, and the longest rest after it: what each attempt costs an origin that
is not there."""

LOOK_SECONDS = 0.5
"""How often the world looks whether everything has ended."""

JUMP = timedelta(seconds=16)
"""From the farthest jump of a clock back to the farthest jump forward."""


@dataclass(slots=True)
class Written:
    """What the collector of an invoice still has to say."""

    plan: InvoicePlan
    silent_count: int

    @property
    def wait(self):
        """After how long the collector wants to be asked again."""
        return timedelta(seconds=self.plan.wait)

    def is_silent_now(self):
        """Whether it has nothing to tell this time."""
        self.silent_count -= 1
        return self.silent_count >= 0


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
        self.is_calm = False
        """Whether trouble is over."""
        self.processes = []
        self._written = {one.id: Written(one, one.silent_count) for one in plan.invoices}
        self._machines = [
            Machine(self, name, offset) for name, offset in zip("ABC", plan.offsets, strict=False)
        ]
        self._asked = []
        """What people ask for by hand: a redelivery may take longer than they wait."""
        self._delivery_count = 0
        self._key_count = 0
        self._troubles = {
            Trouble.KILL: self._kill,
            Trouble.DRAIN: self._drain,
            Trouble.JUMP: self._jump,
            Trouble.AWAY: self._take_away,
            Trouble.CUT_OFF: self._cut_off,
            Trouble.REDELIVER: self._redeliver,
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

    def announced(self, callback_name, description, is_paid):
        """The delivery of an event, under an id that is the same in every run of the seed."""
        self._delivery_count += 1
        return rendered(callback_name, self._delivery_count, description, is_paid=is_paid)

    def written(self, invoice_id):
        """What the collector has to say about an invoice."""
        return self._written[invoice_id]

    def announce(self, name, speaker):
        """Wake the other processes, a moment later; a hint may be lost on its way."""
        for process in self.living:
            signal = process.link.signals.get(name)
            if process is not speaker and signal and self.chance.random() >= self.plan.deaf_chance:
                delay_seconds = self.chance.choice((0, 0.001, 0.05))
                asyncio.get_running_loop().call_later(delay_seconds, signal.set)

    # From the beginning to the end

    async def live(self):
        """Go through everything that is planned, come to rest, and end."""
        keepers = [self._begin(one.keep()) for one in self._machines]
        twice = [one for one in self.plan.invoices if one.is_sent_twice]
        clients = [self._begin(self._send_in(one)) for one in (*self.plan.invoices, *twice)]
        accidents = [self._begin(self._meet(one)) for one in self.plan.accidents]
        await asyncio.sleep(self.plan.trouble_until)
        await self._calm_down(accidents)
        await self._rest(clients)
        self.rules.ending.check()
        await _cancelled(keepers)
        await self._drain_all()

    def _begin(self, work):
        task = asyncio.create_task(work)
        task.add_done_callback(self._look_at)
        return task

    def _look_at(self, task):
        """A mistake in the world itself ends the run as a broken promise does."""
        if not task.cancelled() and task.exception():
            self.story.violate("the world itself failed: {!r}", task.exception())

    async def _send_in(self, plan):
        """Send an invoice in until somebody says that it is stored."""
        await asyncio.sleep(plan.at)
        while True:
            running = [one for one in self.processes if one.state is State.RUNNING]
            if running and await self._is_accepted(self.chance.choice(running), plan):
                return
            await asyncio.sleep(self.chance.choice((0.1, 1)))

    async def _is_accepted(self, process, plan):
        self._key_count += 1
        key = f"{self._key_count:032x}"
        now = process.clock.now()
        task = process.accept(an_invoice(plan.id, origin=plan.origin, at=now, key=key))
        await asyncio.wait({task})
        if process.is_killed or task.cancelled():
            return False
        if task.exception() is None:
            self.rules.acknowledged(plan.id, task.result())
            return True
        if not isinstance(task.exception(), StorageUnavailable):
            self.story.violate("accepting failed with {!r}", task.exception())
        return False

    async def _calm_down(self, accidents):
        """Trouble is over: whatever was away is back, and receivers stay as they are."""
        await _cancelled(accidents)
        self.story.tell("world", "trouble is over")
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
                self.rules.ending.tell_what_is_left()
                return
            await asyncio.sleep(LOOK_SECONDS)
        # What was given back last, or is told to nobody any more, is done with then, too.
        await asyncio.sleep(LOOK_SECONDS)

    def _probing_seconds(self):
        """How long it takes until the last delivery is dead for a receiver that takes none."""
        count = sum(one.event_count for one in self.plan.invoices) + len(self.plan.accidents)
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
        self.story.tell("world", "the clock of {} is off by {}", machine.name, machine.clock.offset)

    async def _take_away(self, _machine, accident):
        self.story.tell("world", "the memory is away")
        self.memory.is_away = True
        await asyncio.sleep(8 * accident.size)
        self.memory.is_away = False
        self.story.tell("world", "the memory is back")

    async def _cut_off(self, machine, accident):
        self.story.tell("world", "{} is cut off", machine.name)
        machine.is_cut_off = True
        await asyncio.sleep(8 * accident.size)
        machine.is_cut_off = False
        self.story.tell("world", "{} is back", machine.name)

    async def _redeliver(self, machine, accident):
        """Somebody asks for a delivery again that was settled."""
        process = machine.process
        settled = [
            row["id"]
            for row in self.memory.tables.deliveries
            if row["status"] != DeliveryStatus.PENDING
        ]
        if settled and process and process.state is State.RUNNING:
            id_ = settled[int(accident.size * len(settled))]
            self.story.tell(process, "is asked to redeliver {}", id_)
            self.rules.ledger.reprieved.add(id_)
            self._asked.append(process.redeliver(id_))


async def _cancelled(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
