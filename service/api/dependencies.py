"""What handlers depend on: one value, under one key of the application."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from aiohttp import web

from service.api.exposition import Exposition
from service.api.feed import WAITING_MAX, Feed
from service.api.reads import Reads
from service.callbacks.declaration import Callback
from service.callbacks.url import CallbackUrl
from service.clock import Clock
from service.domain.invoice import Invoice, Step
from service.domain.listening import AttemptKey, StreamEnd
from service.domain.payment import Refund
from service.domain.states import Acceptance
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from service.web.bodies import BodyLimits


class PayLinkMaker(Protocol):
    """Makes the URLs of the pages on which customers pay."""

    async def url_of(self, account_id: str, invoice_key: str) -> str | None:
        """The URL of the page of an invoice; None if its account can have none."""
        ...


class Reverser(Protocol):
    """Voids invoices, and gives money back."""

    async def void(self, invoice: Invoice) -> None:
        """Void an invoice; Conflict if it was paid, CollectorUnavailable if that is not known."""
        ...

    def check_refund(self, invoice: Invoice, amount_minor: int) -> str | None:
        """Why that much cannot be given back; None if it can."""
        ...

    async def refund(
        self, invoice: Invoice, asked_minor: int | None, idempotency_key: str
    ) -> Sequence[Refund]:
        """Begin to give back an amount, or all; Conflict and NothingLeft as they say."""
        ...


class StripeReceiver(Protocol):
    """Judges invoices, and takes what Stripe sends."""

    async def check(self, invoice: Invoice) -> str | None:
        """Why Stripe cannot collect an invoice; None if it can."""
        ...

    async def take(self, account_id: str, body: bytes, signature: str) -> bool:
        """Take a webhook; False if it is not signed by a secret of the account."""
        ...


class ListenerEvent(Protocol):
    """An event for a listener."""

    @property
    def number(self) -> int:
        """Its number in its connection, from 1."""
        ...

    @property
    def name(self) -> str:
        """What it is."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """What it says."""
        ...


class ListenerStream(Protocol):
    """The connection of a listener; see `service.delivery.listener_stream.Stream`."""

    @property
    def end(self) -> StreamEnd | None:
        """Why it has ended; None while it has not."""
        ...

    async def next(self, seconds: float) -> ListenerEvent | None:
        """The next event; None if there is none within *seconds*, or after the end."""
        ...


class ListenerHub(Protocol):
    """The listeners of a process; see `service.delivery.listening.Listeners`."""

    @property
    def answer_request_bytes(self) -> int:
        """The bytes of the largest request with an answer."""
        ...

    async def connect(
        self, account_id: str, name: str, *, acknowledges: bool, replaces: str = ""
    ) -> ListenerStream:
        """Connect a listener; ListenersUnavailable or TooManyRequests if that is refused."""
        ...

    async def disconnect(self, stream: Any, end: StreamEnd = ...) -> None:
        """End the connection of a listener."""
        ...

    async def note_seen(self, account_id: str, name: str, token: str, count: int) -> bool:
        """The first *count* events have arrived; False if the connection has ended."""
        ...

    async def answer(self, key: AttemptKey, content: bytes) -> bool:
        """Take the answer of an attempt; False if it has ended, or is answered already."""
        ...

    def close(self) -> None:
        """End all connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Everything that the application needs."""

    store: Store
    accept: Callable[[Invoice], Awaitable[Acceptance]]
    """Stores an invoice to be collected; returns after the commit."""
    record: Callable[[Step], Awaitable[bool]]
    """Records an event of an invoice with its deliveries; returns after the commit."""
    metrics: Metrics
    clock: Clock
    document: dict[str, Any]
    """The OpenAPI document that is served."""
    receiver_documents: Mapping[str, dict[str, Any]]
    """The document of the receiver, by version of OpenAPI; the first is the default."""
    vectors: Mapping[str, Any]
    """What receivers test their verification with."""
    authenticate: Callable[[str | None], Awaitable[str]]
    """Returns the account id for an `Authorization` header, or raises Unauthorized."""
    limit: Callable[[str], None]
    """Counts one request of an account, or raises TooManyRequests."""
    admit_delivery: Callable[[str], Awaitable[None]]
    """Counts an invoice with a callback of an account, or raises TooManyRequests."""
    currency: str
    """The currency of invoices that name none."""
    pay_links: PayLinkMaker
    """Makes the URLs of the pages of invoices."""
    reversals: Reverser
    """Voids invoices, and gives money back."""
    stripe: StripeReceiver | None
    """Judges invoices and takes webhooks, where Stripe collects."""
    judge: Callable[[CallbackUrl], str | None]
    """Returns why a URL may not be called, in words for the API user; None where it may."""
    listener_of: Callable[[CallbackUrl], str | None]
    """Returns the origin of a URL that is that of a listener; None where it is called."""
    listeners: ListenerHub
    """Sends callbacks over the connections of listeners."""
    authenticate_listener: Callable[[str | None], Awaitable[str]]
    """As `authenticate`, and for keys that permit nothing but to listen."""
    issue_listen_key: Callable[[str], Awaitable[tuple[str, datetime]]]
    """A new key of an account that permits nothing but to listen, and when it expires."""
    is_ready: Callable[[], bool]
    """Whether the loops of collection and delivery are running."""
    is_mail_paused: Callable[[], bool]
    """Whether this process sends no mail until the operator changes something."""
    is_queued: Callable[[str, str], bool] = lambda _receiver, _delivery_id: False
    """Whether a delivery to a receiver is leased by this process, without an attempt yet."""
    body_limits: BodyLimits = field(default_factory=BodyLimits)
    is_public_over_tls: bool = False
    public_path: str = ""
    """What links begin with: the path that a proxy in front removes."""
    tracing: Tracing = field(default_factory=Tracing)
    reads: Reads = field(default_factory=Reads)
    callbacks: Mapping[str, Callback] = field(default_factory=dict)
    """The callbacks of all operations, by name: they make the bodies in the feed."""
    waiting_max: int = WAITING_MAX
    """How many requests may wait for events."""
    exposition: Exposition = field(init=False)
    feed: Feed = field(init=False)

    def __post_init__(self) -> None:
        exposition = Exposition(self.store, self.metrics, self.clock)
        object.__setattr__(self, "exposition", exposition)
        feed = Feed(self.store, self.reads, self.clock, self.callbacks, self.waiting_max)
        object.__setattr__(self, "feed", feed)


DEPENDENCIES = web.AppKey("dependencies", Dependencies)
