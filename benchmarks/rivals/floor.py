"""
The floor: the service without its storage.

The same handler behind the same middlewares, the same schemas, callback, signature and sender,
wired as the service wires them. Only what is durable is missing: an accepted invoice becomes
paid at once and its callback leaves from a TaskGroup, with nothing kept and nothing logged.
What the service needs beyond this is the price of never losing anything.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from service import __version__
from service.api.application import make_application
from service.api.dependencies import Dependencies
from service.app import CALLBACKS, announce, document_of, judge_of
from service.cli.event_loop import run, stop_signal
from service.clock import SystemClock
from service.delivery.attempt import Performer, Rules
from service.delivery.decision import Delivered
from service.delivery.egress import EgressPolicy
from service.delivery.sender import Sender
from service.delivery.signing import Signer
from service.development import DEV_ACCOUNT, DEV_SECRET, for_development
from service.domain.states import Cause
from service.settings import Settings, read_settings
from service.storage.deliveries import LeasedDelivery
from service.storage.invoices import Acceptance, Call, NewInvoice
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from service.web.server import Server


@dataclass(frozen=True, slots=True)
class Nowhere:
    """Stands where the store stands: it keeps nothing, and sends what it is given."""

    performer: Performer
    attempts: asyncio.TaskGroup
    slots: asyncio.Semaphore

    async def accept(self, invoice: NewInvoice) -> Acceptance:
        """Accept everything; call back where that was asked for."""
        if invoice.call:
            self.attempts.create_task(self._deliver(invoice, invoice.call))
        return Acceptance.STORED

    async def _deliver(self, invoice: NewInvoice, call: Call) -> None:
        async with self.slots:
            attempt = await self.performer.perform(_delivery(invoice, call))
            assert isinstance(attempt.outcome, Delivered), attempt.verified


def _delivery(invoice: NewInvoice, call: Call) -> LeasedDelivery:
    at = datetime.now(invoice.created_at.tzinfo)
    announced = announce(call.callback, "Invoice paid", True)
    return LeasedDelivery(
        id=announced.id,
        account_id=invoice.account_id,
        invoice_id=invoice.id,
        collector="sandbox",
        callback=call.callback,
        url=call.url,
        origin=call.origin,
        body=announced.body,
        attempt_count=0,
        failure_count=0,
        cause=Cause.EVENT,
        accepted_at=invoice.created_at,
        created_at=at,
        leased_until=at,
        lease_token=1,
        request_id=invoice.request_id,
        traceparent=invoice.traceparent,
    )


def _performer(settings: Settings, sender: Sender) -> Performer:
    signer = Signer((DEV_SECRET,))
    rules = Rules(
        retry_schedule=settings.retry_schedule,
        is_strict=True,
        user_agent=f"invoices/{__version__}",
        chance=random.random,
    )

    async def signer_of(_account_id: str) -> Signer:
        return signer

    return Performer(sender, signer_of, CALLBACKS, rules, SystemClock(), Tracing())


async def _everybody(_authorization: str | None) -> str:
    return DEV_ACCOUNT


def _dependencies(settings: Settings, store: Any) -> Dependencies:
    return Dependencies(
        store=cast("Store", store),
        accept=store.accept,
        metrics=Metrics(),
        clock=SystemClock(),
        document=document_of(settings),
        authenticate=_everybody,
        limit=lambda _account_id: None,
        currency=settings.currency,
        judge=judge_of(settings),
        is_ready=lambda: True,
    )


async def serve(settings: Settings) -> int:
    """Serve until told to stop."""
    stop = stop_signal()
    policy = EgressPolicy(settings.callback_allow)
    timeout_seconds = settings.callback_timeout.total_seconds()
    sender = Sender(policy, timeout_seconds=timeout_seconds)
    async with sender, asyncio.TaskGroup() as attempts:
        slots = asyncio.Semaphore(settings.origin_concurrency)
        store = Nowhere(_performer(settings, sender), attempts, slots)
        server = Server(make_application(_dependencies(settings, store)))
        await server.start(settings.host, settings.port)
        await stop.wait()
        await server.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(run(serve(for_development(read_settings()))))
