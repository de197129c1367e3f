"""
The composition root: settings in, a wired service out.

The only place where the rooms meet. Who judges, who signs and who renders is decided here and
handed in as plain functions, so that the rooms need not know each other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from service import __version__
from service.accounts.administration import AccountAdministration
from service.accounts.authenticator import Authenticator
from service.accounts.encryption import SecretCipher
from service.accounts.rate_limit import RateLimit
from service.accounts.signing_secrets import SigningSecrets
from service.api.application import OPERATIONS, make_application, make_health_application
from service.api.dependencies import Dependencies
from service.api.openapi import build_document
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.url import CallbackUrl
from service.clock import Clock, SystemClock
from service.collection.loop import Collection
from service.collection.sandbox import Sandbox
from service.database.engine import Database, open_database
from service.database.group_commit import TellCount, tell_nobody
from service.delivery.attempt import Performer, Rules
from service.delivery.dispatcher import Dispatcher, Limits
from service.delivery.egress import EgressPolicy
from service.delivery.sender import Sender
from service.delivery.signing import Signer
from service.delivery.sweeper import Sweeper
from service.development import DEV_ACCOUNT, DEV_SECRET
from service.domain.ids import new_id
from service.errors import ConfigurationError
from service.loops import Loop, running_loops
from service.settings import Settings
from service.storage.schema import migrate, prepare
from service.storage.steps import NewDelivery
from service.storage.store import Store
from service.telemetry.exporter import exported_traces
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from service.web.bodies import BodyLimits
from service.web.connections import ConnectionLimits
from service.web.server import Server

CALLBACKS = {callback.name: callback for callback in (INVOICE_NOTIFICATION,)}
"""Every declared callback by its name."""


class Role(StrEnum):
    """What a process does of the road of an invoice."""

    API = "api"
    """Accepts, and answers questions."""
    DISPATCHER = "dispatcher"
    """Collects and delivers."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Process:
    """What one process is among those that serve: its role, and which of the workers it is."""

    role: Role = Role.ALL
    is_development: bool = False
    worker_number: int | None = None

    @property
    def is_worker(self) -> bool:
        """Whether it shares its port and its figures with others, and has a parent."""
        return self.worker_number is not None


ALONE = Process()
"""One process that does everything."""

DEVELOPMENT = Process(is_development=True)
"""The same, with an account that needs no key."""


def document_of(settings: Settings) -> dict[str, Any]:
    """
    The OpenAPI document, without starting anything.

    Raises:
        DeclarationError: if a callback promises what its operation cannot keep.
    """
    return build_document(
        OPERATIONS,
        version=__version__,
        public_url=settings.public_url,
        callback_timeout=settings.callback_timeout,
        is_strict=settings.receiver_contract == "strict",
    )


@dataclass(frozen=True, slots=True)
class Running:
    """A process that runs; *failed* is done once one of its loops has ended by itself."""

    port: int
    failed: asyncio.Future[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What the loops and the API of a process have in common."""

    settings: Settings
    process: Process
    store: Store
    clock: Clock
    metrics: Metrics
    tracing: Tracing


@asynccontextmanager
async def running(settings: Settings, process: Process = ALONE) -> AsyncIterator[Running]:
    """
    A service that does what its *process* says; it is drained at the end of the block.

    Raises:
        ConfigurationError: before anything is started.
        OSError: if the address cannot be listened on.
    """
    document = document_of(settings)
    metrics = Metrics(__version__, worker_number=process.worker_number)
    async with (
        exported_traces() as tracing,
        store_of(settings, metrics.committed) as store,
        _sender(settings) as sender,
    ):
        shared = _Shared(
            settings=settings,
            process=process,
            store=store,
            clock=SystemClock(),
            metrics=metrics,
            tracing=tracing,
        )
        secretary = _secretary(settings, store)
        if not process.is_development:
            await secretary.check()
        store.listen()
        loops = () if process.role is Role.API else _loops(shared, sender, secretary)
        drain_seconds = settings.drain_timeout.total_seconds()
        async with (
            running_loops(loops, drain_seconds=drain_seconds) as beside,
            _served(shared, beside.is_ready, document) as port,
        ):
            yield Running(port, beside.failed)


def _loops(shared: _Shared, sender: Sender, secretary: SigningSecrets) -> tuple[Loop, ...]:
    """What removes, what collects and what delivers, in the order in which they are drained."""
    settings, store, clock = shared.settings, shared.store, shared.clock
    sandbox = Sandbox(settings.sandbox_delay)
    return (
        Sweeper(store, settings.retention, clock, shared.metrics),
        Collection(store, sandbox, announce, clock, shared.metrics, shared.tracing),
        _dispatcher(shared, sender, signer_of(secretary)),
    )


@asynccontextmanager
async def _served(
    shared: _Shared, is_ready: Callable[[], bool], document: dict[str, Any]
) -> AsyncIterator[int]:
    """The API, or the health of a process without one; the port it listens on."""
    settings, process = shared.settings, shared.process
    default_account_id = DEV_ACCOUNT if process.is_development else None
    gate = Authenticator(shared.store, shared.clock, default_account_id=default_account_id)
    dependencies = Dependencies(
        store=shared.store,
        accept=shared.store.accept,
        metrics=shared.metrics,
        tracing=shared.tracing,
        clock=shared.clock,
        document=document,
        authenticate=gate.authenticate,
        limit=RateLimit(settings.rate_limit, settings.rate_burst, shared.clock).take,
        currency=settings.currency,
        judge=judge_of(settings),
        is_ready=is_ready,
        body_limits=BodyLimits(settings.body_limit, settings.body_timeout.total_seconds()),
        is_public_over_tls=settings.public_url.startswith("https:"),
    )
    make = make_health_application if process.role is Role.DISPATCHER else make_application
    limits = ConnectionLimits(settings.connection_limit, settings.idle_timeout.total_seconds())
    server = Server(make(dependencies), limits, shared.metrics.connections_open)
    try:
        yield await server.start(settings.host, settings.port, is_shared=process.is_worker)
    finally:
        await server.stop()


def announce(name: str, description: str, paid: bool) -> NewDelivery:
    """The delivery that brings an event of an invoice, rendered as the callback declares."""
    return NewDelivery(f"msg_{new_id()}", _rendered(name, description, paid))


# Most events are one of a few, and equal ones make equal bytes.
@lru_cache(maxsize=1024)
def _rendered(name: str, description: str, paid: bool) -> bytes:
    return CALLBACKS[name].render({"description": description, "paid": paid})


def judge_of(settings: Settings) -> Callable[[CallbackUrl], str | None]:
    """What says why a URL may not be called, in words that tell nothing about our network."""
    # The same few receivers are called again and again.
    permits_host = lru_cache(maxsize=4096)(_policy(settings).permits_host)

    def judge(url: CallbackUrl) -> str | None:
        if settings.callback_require_https and url.scheme != "https":
            return "must be an https:// URL"
        if not permits_host(url.host):
            return "is an address that cannot be called"
        return None

    return judge


def _policy(settings: Settings) -> EgressPolicy:
    return EgressPolicy(settings.callback_allow)


def _sender(settings: Settings) -> Sender:
    return Sender(
        _policy(settings),
        timeout_seconds=settings.callback_timeout.total_seconds(),
        concurrency=settings.callback_concurrency,
    )


SignerOf = Callable[[str], Awaitable[Signer]]


def signer_of(secretary: SigningSecrets) -> SignerOf:
    """What signs for an account. Everybody knows the secret of the development account."""
    signer_with = lru_cache(maxsize=4096)(Signer)

    async def find(account_id: str) -> Signer:
        if account_id == DEV_ACCOUNT:
            return signer_with((DEV_SECRET,))
        return signer_with(await secretary.secrets_of(account_id))

    return find


def _secretary(settings: Settings, store: Store) -> SigningSecrets:
    vault = SecretCipher(settings.encryption_key) if settings.encryption_key else None
    return SigningSecrets(store, vault, SystemClock())


def _dispatcher(shared: _Shared, sender: Sender, sign: SignerOf) -> Dispatcher:
    settings = shared.settings
    rules = Rules(
        retry_schedule=settings.retry_schedule,
        is_strict=settings.receiver_contract == "strict",
        user_agent=f"invoices/{__version__}",
        chance=random.random,
    )
    limits = Limits(
        concurrency=settings.callback_concurrency,
        origin_concurrency=settings.origin_concurrency,
        timeout=settings.callback_timeout,
    )
    performer = Performer(sender, sign, CALLBACKS, rules, shared.clock, shared.tracing)
    return Dispatcher(shared.store, performer, limits, shared.clock, shared.metrics)


NO_ENCRYPTION_KEY = """\
INVOICES_ENCRYPTION_KEY is not set, and signing secrets are not kept in the clear.
Make a key with: invoices encryption-key
and keep it as safe as the database, in another place. On a laptop: invoices serve --dev"""


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    """The database, closed at the end of the block; nothing is connected yet."""
    database = open_database(
        settings.database_url, has_prepared_statements=settings.database_prepared_statements
    )
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def store_of(
    settings: Settings, tell_committed: TellCount = tell_nobody
) -> AsyncIterator[Store]:
    """
    What is stored, on the newest schema: SQLite is brought there, PostgreSQL only from nothing.

    Raises:
        SchemaError: if the database is on another one.
    """
    async with database_of(settings) as database:
        await (migrate if settings.is_embedded else prepare)(database)
        yield Store(database, tell_committed)


@asynccontextmanager
async def register_of(settings: Settings) -> AsyncIterator[AccountAdministration]:
    """
    The accounts of the database, which gets its schema if it has none.

    Raises:
        ConfigurationError: if there is no encryption key.
    """
    if not settings.encryption_key:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    async with store_of(settings) as store:
        yield AccountAdministration(store, SecretCipher(settings.encryption_key), SystemClock())
