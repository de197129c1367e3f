"""The collector of a world: it says of each invoice what the plan has written, whoever asks it."""

from __future__ import annotations

import asyncio

from service.collection.collector import Progress
from service.domain.states import InvoiceStatus
from tests.simulation.link import delay


class Script:
    """Implements `service.collection.collector.Collector` for one process."""

    name = "script"

    def __init__(self, world, process):
        self._world = world
        self._process = process

    async def send(self, invoice):
        """The first event, or nothing yet."""
        return await self._asked(invoice)

    async def collect(self, invoice):
        """The next event; the last one says that the invoice is paid."""
        return await self._asked(invoice)

    async def _asked(self, invoice):
        self._process.collecting_count += 1
        try:
            await self._takes_its_time()
        finally:
            self._process.collecting_count -= 1
        return self._next(invoice)

    async def _takes_its_time(self):
        await self._process.lives_on("collect")
        chance = self._world.chance
        if not self._world.is_calm and chance.random() < self._world.plan.slow_chance:
            await asyncio.sleep(chance.uniform(5, 25))
        await delay(chance, 0.1)
        await self._process.lives_on("collect")

    def _next(self, invoice):
        written = self._world.written(invoice.id)
        if not written.is_silent_now():
            number = invoice.event_count + 1
            description = f"{invoice.id} event {number}"
            if number >= written.plan.event_count:
                return Progress(InvoiceStatus.PAID, description)
            return Progress(InvoiceStatus.SENT, description, written.wait)
        return Progress(InvoiceStatus.SENT, None, written.wait)
