"""A transport of mails, and a process that sends them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager

from service.collection.sending import Sending
from service.domain.outcomes import MailOutcome
from service.localization import load
from service.loops import POLL
from tests.clock import PATIENCE_SECONDS, idle
from tests.rows import an_invoice

ACCEPTED = Sending(MailOutcome.ACCEPTED, 250, "OK")


class FakeTransport:
    """
    Implements `service.collection.sending.Transport`: takes every mail, and remembers it.

    It gives the entries of *results* first; an exception among them is raised. While `may_send` is
    not set, mails wait.
    """

    def __init__(self, *results):
        self.results = deque(results)
        self.mails = []
        self.may_send = asyncio.Event()
        self.may_send.set()

    async def send(self, mail):
        """Remember *mail*, and return the next result."""
        self.mails.append(mail)
        result = self.results.popleft() if self.results else ACCEPTED
        await self.may_send.wait()
        if isinstance(result, Exception):
            raise result
        return result


class World:
    """Collection and mailing of one process, on a memory and a clock that the test moves."""

    def __init__(self, service, store, clock, transport):
        self.service, self.store, self.clock, self.transport = service, store, clock, transport

    async def accept(self, id_="1", customer="Acme+never", **changes):
        """Accept an invoice with an address, and wait until all has come to rest."""
        values = {"customer": customer, "customer_email": "richie@example.com"}
        await self.service.collection.accept(an_invoice(id_, **{**values, **changes}))
        await self.rest()

    async def rest(self):
        """Wait until every loop waits for the clock."""
        for _ in range(5):
            # The first use of a locale loads it in a thread.
            await asyncio.sleep(0)
            await idle()
            await self.clock.parked()
        await idle()

    async def advance(self, duration):
        """Let *duration* pass, a poll at a time."""
        end = self.clock.now() + duration
        while self.clock.now() < end:
            self.clock.advance(min(POLL, end - self.clock.now()))
            await self.rest()

    async def status(self, id_="1"):
        """The state of the invoice, its events, and the state of its mail."""
        found = await self.store.history.find_invoice("dev", id_)
        (mail,) = await self.store.history.mails_of("dev", id_)
        events = [(one["description"], one["paid"]) for one in found["events"]]
        return found["status"], events, mail["status"]


@asynccontextmanager
async def running(world):
    """Run the collection and the mailing of *world*, and drain them at the end."""
    await load(None)
    loops = (world.service.collection, world.service.mailing)
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        await world.rest()
        yield world
    finally:
        world.transport.may_send.set()
        for loop in loops:
            loop.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*tasks)
