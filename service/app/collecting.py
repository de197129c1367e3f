"""The parts that send invoices to customers and collect the money."""

from dataclasses import dataclass

from service.accounts.encryption import SecretCipher
from service.accounts.pay_links import PayLinks
from service.accounts.stripe_keys import StripeKeyring
from service.app.edges import Edges
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.collection.collector import Collector
from service.collection.events import Recorder, event_maker
from service.collection.invoice_mail import InvoiceMails
from service.collection.loop import Collection, Ports
from service.collection.mailing import Mailing, MailRules
from service.collection.payments import Payments
from service.collection.reversal import Reversals
from service.collection.stripe.collector import NAME as STRIPE
from service.collection.stripe.service import StripeService
from service.collection.stripe.sessions import Sessions
from service.loops import Loop
from service.settings import Settings
from service.storage.store import Store
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Collecting:
    """What sends and collects; the loops among it are *loops*, in the order of draining."""

    collection: Collection
    mailing: Mailing
    collector: Collector
    reversals: Reversals
    stripe: StripeService | None
    loops: tuple[Loop, ...]


def collecting_with(
    settings: Settings,
    edges: Edges,
    store: Store,
    recorder: Recorder,
    cipher: SecretCipher | None,
    pay_links: PayLinks,
    metrics: Metrics,
) -> Collecting:
    """What collects with the collector of *edges*, or with Stripe, and has *recorder* commit it."""
    clock, callback, record = edges.clock, INVOICE_NOTIFICATION.name, recorder.record
    event_of = event_maker(STRIPE if edges.stripe else edges.collector.name, callback, clock)
    sessions = Sessions(store, record, event_of, settings.stripe_poll_interval, clock, metrics)
    stripe = _stripe(edges, store, StripeKeyring(store, cipher), sessions, pay_links)
    collector = stripe.collector if stripe else edges.collector
    mails = InvoiceMails(settings.mail_from, pay_links.url_of, clock)
    ports = Ports(collector, mails.compose, recorder)
    collection = Collection(store, ports, callback, clock, metrics, edges.tracing)
    rules = MailRules(callback, settings.mail_retry_schedule, edges.chance)
    mailing = Mailing(store, edges.mail_transport, record, rules, clock, metrics)
    payments = Payments(store, collector, record, event_of, clock, metrics)
    watch = [stripe.watch(settings.stripe_poll_interval)] if stripe else []
    return Collecting(
        collection=collection,
        mailing=mailing,
        collector=collector,
        reversals=Reversals(store, collector, record, event_of, clock),
        stripe=stripe,
        loops=(collection, *watch, payments, mailing),
    )


def _stripe(
    edges: Edges, store: Store, keyring: StripeKeyring, sessions: Sessions, pay_links: PayLinks
) -> StripeService | None:
    """What collects with Stripe, if that collects."""
    if edges.stripe is None:
        return None
    return StripeService(
        edges.stripe, sessions, store, keyring.keys_of, pay_links.url_of, edges.clock
    )
