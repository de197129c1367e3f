"""The collector of a world: it returns the events that the plan has for each invoice."""

from __future__ import annotations

import asyncio
from zlib import crc32

from service.collection.collector import Progress
from service.domain.states import InvoiceStatus
from tests.simulation.link import delay


class Script:
    """Implements `service.collection.collector.Collector` for one process."""

    name = "script"

    def __init__(self, world, process):
        self._world = world
        self._process = process

    def begun(self, invoice):
        """Return the first event of every fourth invoice, or none yet; the others take time."""
        return None if crc32(invoice.id.encode()) % 4 else self._next(invoice)

    async def begin(self, invoice):
        """Return the first event, or none yet."""
        return await self._answer(invoice)

    async def collect(self, invoice):
        """Return the next event; the last one says that the invoice is paid."""
        return await self._answer(invoice)

    async def _answer(self, invoice):
        self._process.collecting_count += 1
        try:
            await self._take_time()
        finally:
            self._process.collecting_count -= 1
        return self._next(invoice)

    async def _take_time(self):
        await self._process.pass_kill_point("collect")
        chance = self._world.chance
        if not self._world.faults_are_over and chance.random() < self._world.plan.slow_chance:
            await asyncio.sleep(chance.uniform(5, 25))
        await delay(chance, 0.1)
        await self._process.pass_kill_point("collect")

    def _next(self, invoice):
        script = self._world.script_of(invoice.id)
        if script.is_silent_now():
            return Progress(InvoiceStatus.SENT, None, script.wait)
        # Events that were recorded beside the collection are not events of the collector.
        number = 1 + sum(
            row["invoice_key"] == invoice.key and row["collector"] == self.name
            for row in self._world.memory.tables.events
        )
        description = f"{invoice.id} event {number}"
        if number >= script.plan.event_count:
            return Progress(InvoiceStatus.PAID, description)
        return Progress(InvoiceStatus.SENT, description, script.wait)
