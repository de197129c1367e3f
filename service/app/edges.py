"""The parts that connect the service to other systems, to time and to random numbers."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parseaddr
from importlib import import_module

from service.app.policies import egress_policy_of
from service.clock import Clock, SystemClock
from service.collection.collector import Collector
from service.collection.outbox import Outbox
from service.collection.sending import Transport
from service.collection.stripe.calls import CONNECTIONS_MAX, StripeCalls
from service.collection.stripe.collector import NAME as STRIPE
from service.collection.stripe.service import Stripe
from service.database.engine import Database
from service.delivery.attempt import Sends
from service.delivery.connection import KEPT_MAX
from service.delivery.proxy import Proxy
from service.delivery.sender import Sender
from service.domain.ids import new_id
from service.errors import ConfigurationError
from service.settings import Settings
from service.telemetry.descriptors import allowed as descriptors_allowed
from service.telemetry.tracing import Tracing

KEPT_MIN = 16
"""Idle connections that are kept even if there are too few file descriptors for the settings."""

OTHER_DESCRIPTORS = 128
"""Descriptors for the database, the log, lookups of names and connections that are refused."""


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


def sender_of(settings: Settings) -> Sender:
    """What performs the requests; it keeps as many connections as there are descriptors for."""
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
async def connected_to_stripe(settings: Settings) -> AsyncIterator[Stripe | None]:
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


def mail_transport_of(settings: Settings) -> Transport:
    """Where mails go: to a server, or into a folder; the library for servers is imported then."""
    if not settings.smtp_url:
        return Outbox(settings.mail_outbox)
    smtp = import_module("service.collection.smtp")
    server = smtp.SmtpServer.of(settings.smtp_url)
    transport: Transport = smtp.Smtp(server, parseaddr(settings.mail_from)[1])
    return transport
