"""
Wires the service of one process: settings and edges in, its parts out.

Tests use it as well, and replace only the edges: the database, the sender, the collector, the clock
and the source of random numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from service import __version__
from service.accounts.authenticator import Authenticator
from service.accounts.encryption import SecretCipher
from service.accounts.listen_keys import ListenKeys
from service.accounts.open_deliveries import OpenDeliveries
from service.accounts.pay_links import PayLinks
from service.accounts.rate_limit import RateLimit
from service.accounts.signing_secrets import SigningSecrets
from service.api.application import OPERATIONS
from service.api.dependencies import Dependencies
from service.api.operations import Operation
from service.app.collecting import Collecting, collecting_with
from service.app.console import console_of
from service.app.delivering import Delivering, delivering_with
from service.app.edges import Edges
from service.app.policies import judge_of
from service.app.process import Process, Role
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.collection.loop import Collection
from service.collection.mailing import Mailing
from service.collection.notice_mail import NoticeMails
from service.collection.sandbox import ENDING_LABELS, ENDINGS, Sandbox
from service.collection.stripe.collector import NAME as STRIPE
from service.delivery.dispatcher import Dispatcher
from service.delivery.notices import Notices
from service.delivery.sweeper import Sweeper
from service.development import DEV_ACCOUNT
from service.heartbeat import Heartbeat
from service.loops import Loop
from service.pages.console.wiring import Console
from service.pages.pay import Payments as PayPages
from service.pages.rendering import invoice_renderer
from service.receiver.document import VERSIONS
from service.receiver.vectors import vectors_document
from service.settings import Settings
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.web.bodies import BodyLimits


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
    clock = edges.clock
    metrics = metrics or Metrics(__version__, worker_number=process.worker_number)
    store = Store(edges.database, metrics.committed)
    cipher = SecretCipher(settings.encryption_key) if settings.encryption_key else None
    signing_secrets = SigningSecrets(store, cipher, clock)
    callbacks = {one.name: one for operation in operations for one in operation.callbacks}
    delivering = delivering_with(settings, edges, store, signing_secrets, callbacks, metrics)
    default_account_id = DEV_ACCOUNT if process.is_development else None
    pay_links = PayLinks(
        store, cipher, clock, settings.public_url, dev_account_id=default_account_id
    )
    dispatcher = delivering.dispatcher
    collecting = collecting_with(settings, edges, store, dispatcher, cipher, pay_links, metrics)
    loops = _loops(settings, process, edges, store, collecting, delivering, metrics)
    open_deliveries = OpenDeliveries(
        settings.account_open_deliveries, store.history.count_open, clock
    )
    authenticator = Authenticator(store, clock, default_account_id=default_account_id)
    listen_keys = ListenKeys(store, clock, authenticator.authenticate)
    dependencies = Dependencies(
        store=store,
        accept=collecting.collection.accept,
        record=dispatcher.record,
        metrics=metrics,
        tracing=edges.tracing,
        clock=clock,
        document=dict(document or {}),
        receiver_documents=receiver_documents or {one: {} for one in VERSIONS},
        vectors=_vectors(),
        authenticate=authenticator.authenticate,
        admit_delivery=open_deliveries.admit,
        limit=RateLimit(settings.rate_limit, settings.rate_burst, clock).take,
        currency=settings.currency,
        pay_links=pay_links,
        reversals=collecting.reversals,
        stripe=collecting.stripe,
        judge=judge_of(settings, is_development=process.is_development),
        listener_of=delivering.listeners.urls.origin_of,
        listeners=delivering.listeners,
        authenticate_listener=listen_keys.authenticate,
        issue_listen_key=listen_keys.issue,
        is_ready=lambda: all(loop.is_running for loop in loops),
        is_mail_paused=lambda: collecting.mailing.is_paused,
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
        collection=collecting.collection,
        mailing=collecting.mailing,
        dispatcher=delivering.dispatcher,
        loops=loops,
        dependencies=dependencies,
        payments=_pay_pages(settings, store, pay_links, collecting),
        console=console_of(settings, process, dependencies, signing_secrets, loops),
    )


@cache
def _vectors() -> Mapping[str, Any]:
    """The vectors that are served; signing them takes as long as the rest of the wiring."""
    return vectors_document(INVOICE_NOTIFICATION)


def _loops(
    settings: Settings,
    process: Process,
    edges: Edges,
    store: Store,
    collecting: Collecting,
    delivering: Delivering,
    metrics: Metrics,
) -> tuple[Loop, ...]:
    """The loops of *process*, in the order in which they are drained."""
    if process.role is Role.API:
        return ()
    clock = edges.clock
    # Drained last: until then the process holds leases.
    heartbeat = [Heartbeat(store, clock, metrics)] if edges.database.is_shared else []
    return (
        Notices(store, NoticeMails(settings.mail_from, clock).compose, clock, metrics),
        Sweeper(store, settings.retention, clock, metrics),
        *collecting.loops,
        delivering.listeners,
        delivering.dispatcher,
        # Drained after the dispatcher, whose last attempts it stores.
        delivering.observer,
        *heartbeat,
    )


def _pay_pages(
    settings: Settings, store: Store, pay_links: PayLinks, collecting: Collecting
) -> PayPages:
    """The hosted pages of invoices."""
    collection = collecting.collection
    return PayPages(
        store=store,
        find=pay_links.find,
        collector=collecting.collector,
        choose=lambda invoice, ending: collection.report(invoice, ENDINGS[ending]),
        endings=ENDING_LABELS if isinstance(collecting.collector, Sandbox) else {},
        public_path=settings.public_path,
        renderer=invoice_renderer(_form_targets(settings)),
    )


def _form_targets(settings: Settings) -> str:
    """To which sources the button of an invoice may lead: the page of Stripe has any domain."""
    if settings.collector != STRIPE:
        return "'self'"
    # A Stripe of tests has pages without TLS.
    is_real = settings.stripe_api_url.startswith("https:")
    return "'self' https:" if is_real else "'self' https: http:"
