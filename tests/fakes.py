"""Fakes of receivers and a watched store, so that tests can wait for events."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from datetime import timedelta
from urllib.parse import urlsplit

from service.api.application import OPERATIONS
from service.app.assembling import assemble
from service.app.edges import Edges
from service.app.process import DEVELOPMENT
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.collection.sandbox import Sandbox
from service.database.group_commit import run_batch
from service.delivery.attempt import Attempts, Rules
from service.delivery.failures import NoAnswer
from service.delivery.sender import Answer, OutgoingRequest
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.domain.listening import is_for_listener
from service.domain.outcomes import AttemptOutcome
from service.domain.states import Acceptance
from service.errors import ListenerAway, StorageUnavailable
from service.settings import Settings
from service.storage import accepting, attempts, deliveries, steps
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from tests.clock import PATIENCE_SECONDS, ManualClock
from tests.mails import FakeTransport
from tests.memory import Memory

SILENT = Tracing()
"""Traces that are not recorded."""


OK = Answer(200, None, b'{"ok": true}', False)

NO_ANSWERS = (
    AttemptOutcome.UNREACHABLE,
    AttemptOutcome.TIMEOUT,
    AttemptOutcome.MALFORMED,
    AttemptOutcome.BLOCKED,
)
"""The outcomes of a request without an answer."""


def answer(status_code=200, body=b'{"ok": true}', *, retry_after=None, is_truncated=False):
    """The answer of a receiver; without arguments, the declared acknowledgement."""
    return Answer(status_code, retry_after, body, is_truncated)


class Journal:
    """Events in order; tests wait until there are enough of them."""

    def __init__(self):
        self.entries = []
        self._has_grown = asyncio.Event()

    def __len__(self):
        return len(self.entries)

    def add(self, entry):
        """Add one entry."""
        self.entries.append(entry)
        self._has_grown.set()

    async def reaches(self, count):
        """Wait until there are *count* entries; returns all of them."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.entries) < count:
                self._has_grown.clear()
                await self._has_grown.wait()
        return self.entries


class FakeReceivers:
    """
    Answers for all receivers: implements `service.delivery.attempt.Sends`.

    An origin gives the entries of *answers* in order, then `{"ok": true}`; an exception
    among them is raised. An origin that hangs answers after `let_go`.
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
        """From now on, *origin* accepts requests and does not answer."""
        self._hanging[origin] = asyncio.Semaphore(0)

    def let_go(self, origin, count=1):
        """*origin* answers *count* of its requests."""
        for _ in range(count):
            self._hanging[origin].release()

    def let_all_go(self):
        """Every origin answers all its requests."""
        for origin in self._hanging:
            self.let_go(origin, 1000)

    async def send(self, request: OutgoingRequest) -> Answer | NoAnswer:
        """Record *request*, and return the next answer of its origin."""
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


class WatchedMemory(Memory):
    """
    A memory that records the work of the loops in journals, and can be made to fail.

    *failing* has names of `WATCHED`; for each name, the next transaction with that work fails.
    """

    def __init__(self):
        super().__init__()
        self.failing: list[str] = []
        self.failed = Journal()
        self.leased = Journal()
        """The deliveries that a round has leased."""
        self.taken = Journal()
        """Steps, each with whether it was written."""
        self.settled = Journal()
        """Attempts, each with whether it was recorded."""
        self.released = Journal()
        """Deliveries, each with whether its lease was given up."""

    async def write(self, work, *args, **options):
        """Write as usual, unless the work must fail, and add entries to the journals."""
        batch = args[0] if work is run_batch else {}
        for name, watched in WATCHED.items():
            if name in self.failing and watched in batch:
                self.failing.remove(name)
                self.failed.add(name)
                raise StorageUnavailable("database is locked")
        result = await super().write(work, *args, **options)
        for watched, answers in zip(batch, result if batch else (), strict=True):
            name, entries_of = ENTRIES.get(watched, (None, None))
            for entry in entries_of(batch[watched], answers) if name else ():
                getattr(self, name).add(entry)
        return result


def _pairs(items, answers):
    return zip(items, answers, strict=True)


ENTRIES = {
    accepting.accept: (
        "taken",
        lambda items, answers: [
            (step, True)
            for (step, *_), (acceptance, _) in _pairs(items, answers)
            if acceptance is Acceptance.STORED
        ],
    ),
    deliveries.lease_due: (
        "leased",
        lambda _, found: [one for due in found for one in due.deliveries],
    ),
    steps.take_steps: (
        "taken",
        lambda items, answers: [
            (step, inserted is not None) for (step, *_), inserted in _pairs(items, answers)
        ],
    ),
    attempts.settle: ("settled", _pairs),
    deliveries.release: (
        "released",
        lambda items, answers: [(one, is_given) for (one, _), is_given in _pairs(items, answers)],
    ),
}
"""The journal for each kind of work, and its entries for the items and results of a transaction."""

WATCHED = {
    "lease_invoices": steps.lease_due,
    "take_step": steps.take_steps,
    "lease_deliveries": deliveries.lease_due,
    "settle": attempts.settle,
    "release": deliveries.release,
}


class NoListeners:
    """Implements `service.delivery.attempt.Listens`: no listener is connected."""

    def permits(self, _receiver, origin):
        """Whether the deliveries have no listener."""
        return not is_for_listener(origin)

    async def send(self, _delivery, _request):
        """Raise that there is no listener."""
        raise ListenerAway

    def tell(self, _attempt):
        """Do nothing."""


def making_attempts(
    sender,
    *,
    clock=None,
    store=None,
    signer_of=None,
    callback=INVOICE_NOTIFICATION,
    listeners=None,
    **rules,
):
    """An `Attempts` with *sender* and *store*; every edge is a fake."""

    async def signing(_account_id):
        return Signer((DEV_SECRET,))

    second = timedelta(seconds=1)
    values = {
        "retry_schedule": (5 * second, 300 * second),
        "is_strict": True,
        "user_agent": "invoices/1.2.3",
        "chance": lambda: 0.5,
    }
    return Attempts(
        store=store or Store(Memory()),
        sender=sender,
        listeners=listeners or NoListeners(),
        signer_of=signer_of or signing,
        callbacks={callback.name: callback},
        rules=Rules(**{**values, **rules}),
        clock=clock or ManualClock(),
        metrics=Metrics(),
        tracing=SILENT,
    )


class NamedIds:
    """Generates the ids that a test has given, in order, then numbered ones."""

    def __init__(self):
        self.next = deque()
        self._count = 0

    def __call__(self):
        self._count += 1
        return self.next.popleft() if self.next else f"id_{self._count}"


class WatchedStore(Store):
    """
    The store of a process, with the journals of its memory and, after `assembled`, its dispatcher.

    Before `assembled` it is only a store; after it, the loops of the process use it.
    """

    def __init__(self, memory):
        super().__init__(memory)
        self.memory = memory
        self.dispatcher = None
        self.ids = NamedIds()
        for name in ("failing", "failed", "leased", "taken", "settled", "released"):
            setattr(self, name, getattr(memory, name))

    def become(self, service):
        """Replace the store of *service*."""
        own = dict(self.__dict__)
        self.__dict__.update(service.store.__dict__)
        service.store.__dict__ = self.__dict__
        self.__dict__.update({name: own[name] for name in own.keys() - Store(self.memory).__dict__})
        self.dispatcher = service.dispatcher


def assembled(
    store,
    *,
    receivers=None,
    collector=None,
    transport=None,
    clock,
    metrics=None,
    operations=OPERATIONS,
    **settings,
):
    """
    The wired service of a process in development mode; its loops do not run yet.

    Every edge is a fake: the memory of *store*, the receivers, the clock, chance, and the ids.
    """
    edges = Edges(
        database=store.memory,
        sender=receivers or FakeReceivers(),
        mail_transport=transport or FakeTransport(),
        collector=collector or Sandbox(timedelta(seconds=1)),
        clock=clock,
        chance=lambda: 0.5,
        new_id=store.ids,
        tracing=SILENT,
    )
    service = assemble(Settings(**settings), DEVELOPMENT, edges, operations, metrics=metrics)
    store.become(service)
    return service
