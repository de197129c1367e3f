"""
The composition root: settings in, a wired service out.

The only module that connects the packages. Tests use it as well, and replace only the edges: the
database, the sender, the collector, the clock and the source of random numbers.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import parseaddr
from enum import StrEnum
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from service import __version__
from service.accounts.administration import AccountAdministration
from service.accounts.authenticator import Authenticator
from service.accounts.console_sessions import ConsoleSessions
from service.accounts.encryption import SecretCipher, make_key_file
from service.accounts.listen_keys import ListenKeys
from service.accounts.open_deliveries import OpenDeliveries
from service.accounts.pay_links import PayLinks
from service.accounts.rate_limit import RateLimit
from service.accounts.signing_secrets import SigningSecrets
from service.accounts.stripe_keys import StripeKeyring
from service.api.application import OPERATIONS, make_application, make_health_application
from service.api.callbacks import example_exchange
from service.api.dependencies import Dependencies
from service.api.hosted_pages import HOSTED_PAGES
from service.api.openapi import build_document
from service.api.operations import Operation
from service.api.receivers import test_event
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.listening import ListenUrls
from service.callbacks.url import CallbackUrl, parse_url
from service.checking import ReceiverChecks
from service.clock import Clock, SystemClock
from service.collection.collector import Collector
from service.collection.events import event_maker
from service.collection.invoice_mail import InvoiceMails
from service.collection.loop import Collection, Ports
from service.collection.mailing import Mailing, MailRules
from service.collection.notice_mail import NoticeMails
from service.collection.outbox import Outbox
from service.collection.payments import Payments
from service.collection.reversal import Reversals
from service.collection.sandbox import ENDING_LABELS, ENDINGS, Sandbox
from service.collection.sending import Transport
from service.collection.stripe.calls import CONNECTIONS_MAX, StripeCalls
from service.collection.stripe.collector import NAME as STRIPE
from service.collection.stripe.service import Stripe, StripeService
from service.collection.stripe.sessions import Sessions
from service.database.engine import Database
from service.database.opening import open_database
from service.delivery.attempt import Attempts, Rules, Sends
from service.delivery.connection import KEPT_MAX
from service.delivery.dispatcher import Dispatcher, Limits
from service.delivery.egress import EgressPolicy, is_single_label
from service.delivery.listening import ListenerLimits, Listeners
from service.delivery.notices import Notices
from service.delivery.observer import Observer
from service.delivery.proxy import Proxy
from service.delivery.sender import Sender
from service.delivery.signing import Signer
from service.delivery.sweeper import Sweeper
from service.development import DEV_ACCOUNT, DEV_SECRET, served_hosts
from service.domain.ids import new_id
from service.domain.receivers import KnownReceiver
from service.errors import ConfigurationError, StorageUnavailable
from service.heartbeat import Heartbeat
from service.loops import Loop, running_loops
from service.pages.console.serving import add_console
from service.pages.console.wiring import Console
from service.pages.pay import Payments as PayPages
from service.pages.pay import add_pages
from service.pages.rendering import invoice_renderer
from service.receiver.document import VERSIONS, Promise, Version, build_receiver_document
from service.receiver.vectors import vectors_document
from service.settings import Settings, parse_encryption_keys
from service.storage.schema import migrate, prepare
from service.storage.store import Store
from service.telemetry.descriptors import Descriptors
from service.telemetry.descriptors import allowed as descriptors_allowed
from service.telemetry.exporter import exported_traces
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from service.web.addresses import SETTINGS
from service.web.bodies import BodyLimits
from service.web.connections import ConnectionLimits
from service.web.hosts import make_host_check
from service.web.server import Server

KEPT_MIN = 16
"""Idle connections that are kept even if there are too few file descriptors for the settings."""

OTHER_DESCRIPTORS = 128
"""Descriptors for the database, the log, lookups of names and connections that are refused."""

LISTENER_SHARE = 4
"""Of the connections of clients, one in so many may be that of a listener."""

LEAVE_SECONDS = 2
"""How long a stop waits until the database has recorded it."""


class Role(StrEnum):
    """Which part of the path of an invoice a process does."""

    API = "api"
    """Accepts invoices, and answers requests."""
    DISPATCHER = "dispatcher"
    """Collects and delivers."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Process:
    """The role of a process, its mode, and its number if it is one of several workers."""

    role: Role = Role.ALL
    is_development: bool = False
    worker_number: int | None = None

    @property
    def is_worker(self) -> bool:
        """Whether it shares its port and its metrics with other processes of one parent."""
        return self.worker_number is not None


ALONE = Process()
"""One process that does everything."""

DEVELOPMENT = Process(is_development=True)
"""The same in development mode, with an account that needs no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """The parts that connect the service to other systems, to time and to random numbers."""

    database: Database
    sender: Sends
    collector: Collector
    mail_transport: Transport
    stripe: Stripe | None = None
    """The connection to Stripe, if that collects instead of *collector*."""
    clock: Clock = field(default_factory=SystemClock)
    chance: Callable[[], float] = random.random
    """Random numbers from 0 to 1."""
    new_id: Callable[[], str] = new_id
    tracing: Tracing = field(default_factory=Tracing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The wired service of one process; none of its loops runs yet."""

    store: Store
    signing_secrets: SigningSecrets
    open_deliveries: OpenDeliveries
    collection: Collection
    mailing: Mailing
    dispatcher: Dispatcher
    loops: tuple[Loop, ...]
    """The loops that the process runs, in the order in which they are drained."""
    dependencies: Dependencies
    payments: PayPages
    console: Console


@dataclass(frozen=True, slots=True)
class Running:
    """A process that serves; *failed* is done once one of its loops has ended by itself."""

    port: int
    database: str
    """The database product, and its version if it is a library in this program."""
    failed: asyncio.Future[None]


@asynccontextmanager
async def running(
    settings: Settings, process: Process = ALONE, operations: Sequence[Operation] = OPERATIONS
) -> AsyncIterator[Running]:
    """
    Run the service as *process* inside the block; at its end it is drained.

    Raises:
        ConfigurationError: before anything is started.
        AddressError: if an address cannot be listened on.
    """
    document = document_of(settings, operations, is_development=process.is_development)
    receiver_documents: dict[str, dict[str, Any]] = {
        openapi: receiver_document_of(settings, operations, openapi=openapi) for openapi in VERSIONS
    }
    metrics = Metrics(__version__, worker_number=process.worker_number)
    async with (
        exported_traces() as tracing,
        migrated_database(settings) as database,
        _sender(settings) as sender,
        _connected_to_stripe(settings) as stripe,
    ):
        edges = Edges(
            database=database,
            sender=sender,
            collector=Sandbox(settings.sandbox_delay),
            stripe=stripe,
            mail_transport=_mail_transport(settings),
            tracing=tracing,
        )
        service = assemble(
            settings,
            process,
            edges,
            operations,
            document,
            metrics,
            receiver_documents=receiver_documents,
        )
        if not process.is_development:
            await service.signing_secrets.check()
        service.store.listen()
        drain_seconds = settings.drain_timeout.total_seconds()
        async with (
            _joined(service, edges.clock),
            running_loops(service.loops, drain_seconds=drain_seconds) as failed,
            _serving(service, settings, process, operations) as port,
            _watched_descriptors(sender, metrics),
        ):
            yield Running(port, database.product, failed)


def assemble(
    settings: Settings,
    process: Process,
    edges: Edges,
    operations: Sequence[Operation] = OPERATIONS,
    document: Mapping[str, Any] | None = None,
    metrics: Metrics | None = None,
    receiver_documents: Mapping[str, dict[str, Any]] | None = None,
) -> Service:
    """
    Wire the service of one process, with the callbacks that *operations* declare.

    It serves *document* and, by version of OpenAPI, *receiver_documents*. It counts with *metrics*,
    or with new ones.
    """
    clock, tracing = edges.clock, edges.tracing
    metrics = metrics or Metrics(__version__, worker_number=process.worker_number)
    store = Store(edges.database, metrics.committed)
    callbacks = {one.name: one for operation in operations for one in operation.callbacks}
    cipher = SecretCipher(settings.encryption_key) if settings.encryption_key else None
    signing_secrets = SigningSecrets(store, cipher, clock)
    observer = Observer(store, clock)
    listeners = _listeners(settings, edges, store, metrics)
    attempts = Attempts(
        store=store,
        observe=observer.count,
        sender=edges.sender,
        listeners=listeners,
        signer_of=signer_of(signing_secrets),
        callbacks=callbacks,
        rules=_rules(settings, edges.chance),
        clock=clock,
        metrics=metrics,
        tracing=tracing,
    )
    dispatcher = Dispatcher(attempts, _limits(settings), edges.new_id)
    default_account_id = DEV_ACCOUNT if process.is_development else None
    pay_links = PayLinks(
        store, cipher, clock, settings.public_url, dev_account_id=default_account_id
    )
    event_of = event_maker(
        STRIPE if edges.stripe else edges.collector.name, INVOICE_NOTIFICATION.name, clock
    )
    sessions = Sessions(
        store, dispatcher.record, event_of, settings.stripe_poll_interval, clock, metrics
    )
    stripe = _stripe_service(edges, store, StripeKeyring(store, cipher), sessions, pay_links)
    collector = stripe.collector if stripe else edges.collector
    payments = Payments(store, collector, dispatcher.record, event_of, clock, metrics)
    reversals = Reversals(store, collector, dispatcher.record, event_of, clock)
    mails = InvoiceMails(settings.mail_from, pay_links.url_of, clock)
    collection = Collection(
        store,
        Ports(collector, mails.compose, dispatcher.record),
        INVOICE_NOTIFICATION.name,
        clock,
        metrics,
        tracing,
    )
    mailing = Mailing(
        store,
        edges.mail_transport,
        dispatcher.record,
        MailRules(INVOICE_NOTIFICATION.name, settings.mail_retry_schedule, edges.chance),
        clock,
        metrics,
    )
    # The observer is drained after the dispatcher, whose last attempts it stores.
    loops: tuple[Loop, ...] = (
        Notices(store, NoticeMails(settings.mail_from, clock).compose, clock, metrics),
        *(Sweeper(store, settings.retention, clock, metrics), collection),
        *([stripe.watch(settings.stripe_poll_interval)] if stripe else []),
        *(payments, mailing),
        *(listeners, dispatcher, observer),
    )
    if edges.database.is_shared:
        # Drained last: until then the process holds leases.
        loops = (*loops, Heartbeat(store, clock, metrics))
    if process.role is Role.API:
        loops = ()
    open_deliveries = OpenDeliveries(settings.account_open_deliveries, store.count_open, clock)
    authenticator, listen_keys = _access(store, clock, default_account_id)
    dependencies = Dependencies(
        store=store,
        accept=collection.accept,
        record=dispatcher.record,
        metrics=metrics,
        tracing=tracing,
        clock=clock,
        document=dict(document or {}),
        receiver_documents=receiver_documents or {one: {} for one in VERSIONS},
        vectors=vectors_document(INVOICE_NOTIFICATION),
        authenticate=authenticator.authenticate,
        admit_delivery=open_deliveries.admit,
        limit=RateLimit(settings.rate_limit, settings.rate_burst, clock).take,
        currency=settings.currency,
        pay_links=pay_links,
        reversals=reversals,
        stripe=stripe,
        judge=judge_of(settings, is_development=process.is_development),
        listener_of=listeners.urls.origin_of,
        listeners=listeners,
        authenticate_listener=listen_keys.authenticate,
        issue_listen_key=listen_keys.issue,
        is_ready=lambda: all(loop.is_running for loop in loops),
        is_mail_paused=lambda: mailing.is_paused,
        is_queued=dispatcher.is_queued,
        body_limits=BodyLimits(settings.body_limit, settings.body_timeout.total_seconds()),
        is_public_over_tls=settings.public_url.startswith("https:"),
        public_path=settings.public_path,
        callbacks=callbacks,
        waiting_max=max(1, settings.connection_limit // 2),
    )
    return Service(
        store=store,
        signing_secrets=signing_secrets,
        open_deliveries=open_deliveries,
        collection=collection,
        mailing=mailing,
        dispatcher=dispatcher,
        loops=loops,
        dependencies=dependencies,
        payments=PayPages(
            store=store,
            find=pay_links.find,
            collector=collector,
            choose=lambda invoice, ending: collection.report(invoice, ENDINGS[ending]),
            endings=ENDING_LABELS if isinstance(collector, Sandbox) else {},
            public_path=settings.public_path,
            renderer=invoice_renderer(_form_targets(settings)),
        ),
        console=_console(settings, process, dependencies, signing_secrets, loops),
    )


def _console(
    settings: Settings,
    process: Process,
    dependencies: Dependencies,
    signing_secrets: SigningSecrets,
    loops: Sequence[Loop],
) -> Console:
    store, clock = dependencies.store, dependencies.clock

    async def secret_of(account_id: str) -> str:
        if account_id == DEV_ACCOUNT:
            return DEV_SECRET
        return (await signing_secrets.secrets_of(account_id))[0]

    async def send_test(account_id: str, known: KnownReceiver, request_id: str) -> str:
        delivery = test_event(account_id, known, clock.now(), request_id)
        await dependencies.admit_delivery(account_id)
        await store.add_test_event(delivery)
        return delivery.id

    checks = ReceiverChecks(
        egress_policy_of(settings),
        Proxy.of(settings.callback_proxy) if settings.callback_proxy else None,
        settings.callback_timeout.total_seconds(),
        dependencies.judge,
        secret_of,
        clock,
    )
    return Console(
        store=store,
        sessions=ConsoleSessions(store.console, dependencies.authenticate, clock),
        limit=dependencies.limit,
        turn=dependencies.reads.turn,
        pay_url_of=dependencies.pay_links.url_of,
        origin_of=lambda url: parse_url(url).origin,
        loops=lambda: {type(one).__name__: one.is_running for one in loops},
        is_mail_paused=dependencies.is_mail_paused,
        check_receiver=checks.run,
        send_test=send_test,
        metrics=dependencies.metrics,
        clock=clock,
        public_url=settings.public_url,
        public_path=settings.public_path,
        default_account_id=DEV_ACCOUNT if process.is_development else None,
    )


def document_of(
    settings: Settings,
    operations: Sequence[Operation] = OPERATIONS,
    *,
    is_development: bool = False,
) -> dict[str, Any]:
    """
    The OpenAPI document, without starting anything; in development no operation needs a key.

    Raises:
        DeclarationError: if a callback uses what its operation does not declare.
    """
    return build_document(
        operations,
        version=__version__,
        public_url=settings.public_url,
        callback_timeout=settings.callback_timeout,
        is_strict=settings.receiver_contract == "strict",
        is_development=is_development,
        pages=HOSTED_PAGES,
    )


def receiver_document_of(
    settings: Settings,
    operations: Sequence[Operation] = OPERATIONS,
    *,
    openapi: Version = "3.0.3",
) -> dict[str, Any]:
    """
    The document of the API that receives the callbacks of *operations*, without starting anything.

    Raises:
        DeclarationError: if the expression of a callback cannot be turned round.
    """
    return build_receiver_document(
        (
            Promise(callback, example_exchange(operation))
            for operation in operations
            for callback in operation.callbacks
        ),
        version=__version__,
        timeout=settings.callback_timeout,
        is_strict=settings.receiver_contract == "strict",
        openapi=openapi,
    )


def judge_of(
    settings: Settings, *, is_development: bool = False
) -> Callable[[CallbackUrl], str | None]:
    """The function that returns why a URL may not be called; it reveals nothing of our network."""
    # Many invoices have the same receiver.
    permits_host = lru_cache(maxsize=4096)(egress_policy_of(settings).permits_host)
    listen_urls = ListenUrls(settings.public_url)

    def judge(url: CallbackUrl) -> str | None:
        if settings.callback_require_https and url.scheme != "https":
            return "must be an https:// URL"
        if not permits_host(url.host):
            return "is an address that cannot be called"
        if not is_development and is_single_label(url.host):
            return "must have a complete host name, such as api.example.com"
        return listen_urls.mistake_in(url)

    return judge


def egress_policy_of(settings: Settings) -> EgressPolicy:
    """Which addresses may be connected to."""
    return EgressPolicy(settings.callback_allow, settings.callback_nat64_prefixes)


def signer_of(signing_secrets: SigningSecrets) -> Callable[[str], Awaitable[Signer]]:
    """The function that finds the signer of an account; the development secret is public."""
    signer_with = lru_cache(maxsize=4096)(Signer)

    async def find(account_id: str) -> Signer:
        if account_id == DEV_ACCOUNT:
            return signer_with((DEV_SECRET,))
        return signer_with(await signing_secrets.secrets_of(account_id))

    return find


def _limits(settings: Settings) -> Limits:
    return Limits(
        concurrency=settings.callback_concurrency,
        origin_concurrency=settings.origin_concurrency,
        account_rate=settings.account_attempt_rate,
        timeout=settings.callback_timeout,
    )


def _rules(settings: Settings, chance: Callable[[], float]) -> Rules:
    return Rules(
        retry_schedule=settings.retry_schedule,
        is_strict=settings.receiver_contract == "strict",
        user_agent=f"invoices/{__version__}",
        chance=chance,
    )


def _access(
    store: Store, clock: Clock, default_account_id: str | None
) -> tuple[Authenticator, ListenKeys]:
    """What finds the account of a request: by its keys, and by keys that permit to listen."""
    authenticator = Authenticator(store, clock, default_account_id=default_account_id)
    return authenticator, ListenKeys(store, clock, authenticator.authenticate)


def _listeners(settings: Settings, edges: Edges, store: Store, metrics: Metrics) -> Listeners:
    return Listeners(
        store,
        ListenUrls(settings.public_url),
        ListenerLimits(
            timeout=settings.callback_timeout,
            streams_max=max(1, settings.connection_limit // LISTENER_SHARE),
        ),
        edges.new_id,
        edges.clock,
        metrics,
    )


@asynccontextmanager
async def _connected_to_stripe(settings: Settings) -> AsyncIterator[Stripe | None]:
    """The connection to Stripe, if that collects; its library is imported only then."""
    if settings.collector != STRIPE:
        yield None
        return
    try:
        client = import_module("service.collection.stripe.client")
    except ImportError as error:
        raise ConfigurationError(
            "INVOICES_COLLECTOR=stripe needs Stripe's library, which is not installed: "
            "pip install 'invoices[stripe]'."
        ) from error
    async with client.stripe_connections() as http:

        def calls_with(api_key: str) -> StripeCalls:
            calls: StripeCalls = client.StripeHttpCalls(api_key, settings.stripe_api_url, http)
            return calls

        yield Stripe(calls_with, client.is_signed)


def _form_targets(settings: Settings) -> str:
    """To which sources the button of an invoice may lead: the page of Stripe has any domain."""
    if settings.collector != STRIPE:
        return "'self'"
    # A Stripe of tests has pages without TLS.
    is_real = settings.stripe_api_url.startswith("https:")
    return "'self' https:" if is_real else "'self' https: http:"


def _stripe_service(
    edges: Edges, store: Store, keyring: StripeKeyring, sessions: Sessions, pay_links: PayLinks
) -> StripeService | None:
    """What collects with Stripe, if that collects."""
    if edges.stripe is None:
        return None
    return StripeService(
        edges.stripe, sessions, store, keyring.keys_of, pay_links.url_of, edges.clock
    )


def _sender(settings: Settings) -> Sender:
    spare = descriptors_allowed() - descriptors_needed(settings)
    return Sender(
        egress_policy_of(settings),
        timeout_seconds=settings.callback_timeout.total_seconds(),
        concurrency=settings.callback_concurrency,
        proxy=Proxy.of(settings.callback_proxy) if settings.callback_proxy else None,
        kept_max=max(KEPT_MIN, min(KEPT_MAX, KEPT_MAX + spare)),
    )


def descriptors_needed(settings: Settings) -> int:
    """How many file descriptors a process can need: one for each connection, and some others."""
    connections = settings.connection_limit + settings.callback_concurrency + KEPT_MAX
    if settings.collector == STRIPE:
        connections += CONNECTIONS_MAX
    return connections + OTHER_DESCRIPTORS


@asynccontextmanager
async def _watched_descriptors(sender: Sender, metrics: Metrics) -> AsyncIterator[None]:
    """
    Inside the block, descriptors are counted; if none is left, idle connections are closed.

    Workers share what their accounts have at the same interval.
    """

    def report(used: int, allowed: int) -> None:
        metrics.descriptors(used, allowed)
        metrics.connections_kept(sender.kept_count)
        metrics.accounts.share()

    descriptors = Descriptors(metrics.descriptors_exhausted, report, sender.close_kept)
    sender.on_exhausted = descriptors.exhausted
    watching = asyncio.create_task(descriptors.watch())
    try:
        yield
    finally:
        watching.cancel()


@asynccontextmanager
async def _joined(service: Service, clock: Clock) -> AsyncIterator[None]:
    """Inside the block, a process with loops is one of those that take leases."""
    if not service.loops:
        yield
        return
    await service.store.join(clock.now())
    try:
        yield
    finally:
        # If this fails, other processes find it silent.
        with suppress(StorageUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await service.store.leave(clock.now())


def _mail_transport(settings: Settings) -> Transport:
    if not settings.smtp_url:
        return Outbox(settings.mail_outbox)
    smtp = import_module("service.collection.smtp")
    server = smtp.SmtpServer.of(settings.smtp_url)
    transport: Transport = smtp.Smtp(server, parseaddr(settings.mail_from)[1])
    return transport


@asynccontextmanager
async def _serving(
    service: Service, settings: Settings, process: Process, operations: Sequence[Operation]
) -> AsyncIterator[int]:
    """Serve the API, or health and metrics alone; gives the port that is listened on."""
    checks = [make_host_check(served_hosts(settings))] if process.is_development else []
    if process.role is Role.DISPATCHER:
        app = make_health_application(service.dependencies, checks)
    else:
        app = make_application(service.dependencies, operations, checks)
        add_pages(app, service.payments)
        add_console(app, service.console)
    limits = ConnectionLimits(settings.connection_limit, settings.idle_timeout.total_seconds())
    server = Server(app, limits, service.dependencies.metrics.connections_open)
    try:
        yield await server.start(
            settings.host, settings.port, is_shared=process.is_worker, names=SETTINGS
        )
    finally:
        await server.stop()
        await service.open_deliveries.close()


# Databases and accounts, for commands as well

NO_ENCRYPTION_KEY = """\
INVOICES_ENCRYPTION_KEY is not set, and signing secrets are not stored unencrypted.
Make a key with: invoices encryption-key
Keep it as safe as the database, in another place. On a laptop: invoices serve --dev"""


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
async def migrated_database(settings: Settings) -> AsyncIterator[Database]:
    """
    The database on the newest schema: SQLite is migrated, PostgreSQL only if it is empty.

    Raises:
        SchemaError: if the database is on another schema.
    """
    async with database_of(settings) as database:
        await (migrate if settings.is_embedded else prepare)(database)
        yield database


@asynccontextmanager
async def administration_of(
    settings: Settings, report_key: Callable[[Path], None]
) -> AsyncIterator[AccountAdministration]:
    """
    The administration of accounts, on the newest schema.

    An empty database is given its schema; any other is not changed, since the service may be using
    it. *report_key* is called as by `with_encryption_key`.

    Raises:
        SchemaError: if the database is on another schema.
        ConfigurationError: if there is no encryption key.
    """
    if not settings.encryption_key and not settings.is_embedded:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    async with database_of(settings) as database:
        await prepare(database)
        settings = await with_encryption_key(settings, database, report_key)
        cipher = SecretCipher(settings.encryption_key)
        yield AccountAdministration(Store(database), cipher, SystemClock())


async def with_encryption_key(
    settings: Settings, database: Database, report_key: Callable[[Path], None]
) -> Settings:
    """
    *settings* with an encryption key: that of INVOICES_ENCRYPTION_KEY, or of the key file.

    Beside an SQLite *database* without signing secrets, the file is made if it does not exist, and
    *report_key* is called with it.

    Raises:
        ConfigurationError: if there is no key, or none that can be used.
    """
    if settings.encryption_key:
        return settings
    if not settings.is_embedded:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    file = settings.key_file
    if not file.exists():
        # This fails if the database has secrets: the key that encrypted them is missing.
        await SigningSecrets(Store(database), None, SystemClock()).check()
        make_key_file(file)
        report_key(file.absolute())
    try:
        keys = parse_encryption_keys(file.read_text(encoding="ascii"))
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    if not keys:
        raise ConfigurationError(f"{file}: there is no key in this file.")
    return replace(settings, encryption_key=keys)
