"""What stands in for receivers and watches the store, so that tests wait on what happens."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from urllib.parse import urlsplit

from service.delivery.failures import NoAnswer
from service.delivery.sender import Answer, OutgoingRequest
from service.errors import StorageUnavailable
from service.telemetry.tracing import Tracing
from tests.clock import PATIENCE_SECONDS
from tests.memory import MemoryStore

SILENT = Tracing()
"""Traces that nobody records."""


async def everybody_is_dev(_authorization):
    """Lets everybody in without a key, as `--dev` does."""
    return "dev"


def unlimited(_account_id):
    """Lets every account ask as often as it likes."""


def signing_with(signer):
    """What signs for every account with the same *signer*."""

    async def signer_of(_account_id):
        return signer

    return signer_of


OK = Answer(200, None, b'{"ok": true}', False)


def answer(status_code=200, body=b'{"ok": true}', *, retry_after=None, is_truncated=False):
    """What a receiver answered; without arguments, what is declared."""
    return Answer(status_code, retry_after, body, is_truncated)


class Journal:
    """What happened, in order; tests wait until it is long enough."""

    def __init__(self):
        self.entries = []
        self._has_grown = asyncio.Event()

    def __len__(self):
        return len(self.entries)

    def add(self, entry):
        """Write one entry."""
        self.entries.append(entry)
        self._has_grown.set()

    async def reaches(self, count):
        """Wait until there are *count* entries, and give them all."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.entries) < count:
                self._has_grown.clear()
                await self._has_grown.wait()
        return self.entries


class FakeReceivers:
    """
    Answers for every receiver there is: implements `service.delivery.attempt.Sends`.

    An origin answers what was put into *answers* for it, then `{"ok": true}`; an exception
    among the answers is raised. An origin that hangs answers once it is let go.
    """

    def __init__(self):
        self.requests = Journal()
        self.answered = Journal()
        self.answers: dict[str, deque[Answer | NoAnswer | Exception]] = defaultdict(deque)
        self.in_flight: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.peak = 0
        self._hanging: dict[str, asyncio.Semaphore] = {}

    def hang(self, origin):
        """From now on, *origin* takes requests and does not answer."""
        self._hanging[origin] = asyncio.Semaphore(0)

    def let_go(self, origin, count=1):
        """*origin* answers *count* of its requests."""
        for _ in range(count):
            self._hanging[origin].release()

    def let_all_go(self):
        """Nobody hangs any more."""
        for origin in self._hanging:
            self.let_go(origin, 1000)

    async def send(self, request: OutgoingRequest) -> Answer | NoAnswer:
        """Take *request* and answer it as told."""
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        given = self.answers[origin].popleft() if self.answers[origin] else OK
        self._begin(origin)
        self.requests.add(request)
        try:
            if origin in self._hanging:
                await self._hanging[origin].acquire()
        finally:
            self.in_flight[origin] -= 1
        self.answered.add(request)
        if isinstance(given, Exception):
            raise given
        return given

    def _begin(self, origin):
        self.in_flight[origin] += 1
        self.peaks[origin] = max(self.peaks[origin], self.in_flight[origin])
        self.peak = max(self.peak, self.in_flight.total())

    @property
    def ids(self):
        """The webhook-id of each request, in order."""
        return [request.headers["webhook-id"] for request in self.requests.entries]


class WatchedStore(MemoryStore):
    """
    A store that keeps a journal of what was done to it, and fails when told to.

    *failing* holds the names of methods; each fails once and is taken out.
    """

    def __init__(self, memory):
        super().__init__(memory)
        self.failing: list[str] = []
        self.failed = Journal()
        self.leased = Journal()
        self.taken = Journal()
        self.settled = Journal()
        self.released = Journal()

    async def lease_invoices(self, round_):
        """As it is, unless told to fail."""
        self._fail("lease_invoices")
        return await super().lease_invoices(round_)

    async def take_step(self, step):
        """As it is, with an entry in *taken*."""
        self._fail("take_step")
        is_taken = await super().take_step(step)
        self.taken.add((step, is_taken))
        return is_taken

    async def lease_deliveries(self, round_):
        """As it is, with an entry in *leased* for each delivery."""
        self._fail("lease_deliveries")
        due = await super().lease_deliveries(round_)
        for delivery in due.deliveries:
            self.leased.add(delivery)
        return due

    async def settle(self, settlement):
        """As it is, with an entry in *settled*."""
        self._fail("settle")
        is_settled = await super().settle(settlement)
        self.settled.add((settlement, is_settled))
        return is_settled

    async def release(self, delivery):
        """As it is, with an entry in *released*."""
        self._fail("release")
        is_released = await super().release(delivery)
        self.released.add((delivery, is_released))
        return is_released

    def _fail(self, name):
        if name in self.failing:
            self.failing.remove(name)
            self.failed.add(name)
            raise StorageUnavailable("database is locked")
