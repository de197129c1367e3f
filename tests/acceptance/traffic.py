"""Clients that keep sending invoices, even while the services fail."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, cycle

import aiohttp

from tests.processes import until

CALLER_COUNT = 4


class Traffic:
    """
    Sends one invoice after another, each until a service has accepted it.

    *refused* holds the headers of every 503; any other error fails the test.
    """

    def __init__(self, services, receiver_url, pause_seconds=0):
        self.accepted = []
        self.repeated_count = 0
        self.refused = []
        self.is_over = False
        self._services = cycle(services)
        self._receiver_url = receiver_url
        self._numbers = count(1)
        self._pause_seconds = pause_seconds

    async def accepts(self, more):
        """Wait until so many more invoices are accepted."""
        enough = len(self.accepted) + more

        async def ask():
            return len(self.accepted) >= enough

        await until(ask)

    async def is_refused(self):
        """Wait until another request gets 503."""
        before = len(self.refused)

        async def ask():
            return len(self.refused) > before

        await until(ask)

    async def call(self):
        """Send invoices until the end of the block."""
        while not self.is_over:
            id_ = f"i{next(self._numbers)}"
            await until(partial(self._is_accepted, id_))
            self.accepted.append(id_)
            await asyncio.sleep(self._pause_seconds)

    async def _is_accepted(self, id_):
        try:
            status, headers = await next(self._services).send(id_, self._receiver_url)
        except (aiohttp.ClientError, TimeoutError):
            return False
        assert status in {200, 202, 503}
        if status == 503:
            self.refused.append(headers)
        self.repeated_count += status == 200
        return status != 503


@asynccontextmanager
async def traffic(services, receiver, **options):
    """Clients of *services* in turn; at the end of the block they finish their requests."""
    clients = Traffic(services, receiver.url, **options)
    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLER_COUNT):
            callers.create_task(clients.call())
        yield clients
        clients.is_over = True
