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
from datetime import UTC, datetime
from typing import cast

from service import __version__
from service.api.application import make_application
from service.api.dependencies import Dependencies, ListenerHub, PayLinkMaker, Reverser
from service.app.documents import document_of
from service.app.policies import egress_policy_of, judge_of
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.event_loop import run, stop_signal
from service.clock import SystemClock
from service.delivery.attempt import Attempts, Listens, Rules
from service.delivery.fanout import deliveries_of
from service.delivery.sender import Sender
from service.delivery.signing import Signer
from service.development import DEV_ACCOUNT, DEV_SECRET, for_development
from service.domain.delivery import Delivered
from service.domain.ids import new_id
from service.domain.invoice import Event, Invoice, Step
from service.domain.states import Acceptance, InvoiceStatus
from service.receiver.document import VERSIONS
from service.settings import Settings, read_settings
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from service.web.server import Server

CALLBACKS = {INVOICE_NOTIFICATION.name: INVOICE_NOTIFICATION}


@dataclass(frozen=True, slots=True)
class Nowhere:
    """Stands where the store and the loops stand: it keeps nothing, and sends what it is given."""

    attempts: Attempts
    tasks: asyncio.TaskGroup
    slots: asyncio.Semaphore

    async def accept(self, invoice: Invoice) -> Acceptance:
        """Accept everything; call back where that was asked for."""
        if invoice.callbacks:
            self.tasks.create_task(self._deliver(invoice))
        return Acceptance.STORED

    async def _deliver(self, invoice: Invoice) -> None:
        event = Event(
            description="Invoice paid",
            paid=True,
            at=self.attempts.clock.now(),
            collector="sandbox",
            callbacks=tuple(CALLBACKS),
        )
        step = Step(invoice=invoice, status=InvoiceStatus.PAID, event=event)
        async with self.slots:
            for delivery in deliveries_of(step, CALLBACKS, new_id, lambda _receiver, _origin: None):
                attempt = await self.attempts.make(delivery)
                assert isinstance(attempt.decision, Delivered), attempt.detail


def _attempts(settings: Settings, sender: Sender, metrics: Metrics) -> Attempts:
    signer = Signer((DEV_SECRET,))
    rules = Rules(
        retry_schedule=settings.retry_schedule,
        is_strict=True,
        user_agent=f"invoices/{__version__}",
        chance=random.random,
    )

    async def signer_of(_account_id: str) -> Signer:
        return signer

    return Attempts(
        store=cast("Store", None),
        sender=sender,
        listeners=cast("Listens", None),
        signer_of=signer_of,
        callbacks=CALLBACKS,
        rules=rules,
        clock=SystemClock(),
        metrics=metrics,
        tracing=Tracing(),
    )


async def _everybody(_authorization: str | None) -> str:
    return DEV_ACCOUNT


async def _no_key(_account_id: str) -> tuple[str, datetime]:
    return "", datetime.now(UTC)


class NoListeners:
    """No listener can connect."""

    answer_request_bytes = 0

    def close(self) -> None:
        """There is no connection to end."""


def _dependencies(settings: Settings, nowhere: Nowhere, metrics: Metrics) -> Dependencies:
    async def admit(_account_id: str) -> None:
        return

    async def record(_step: Step) -> bool:
        return False

    return Dependencies(
        admit_delivery=admit,
        store=cast("Store", None),
        accept=nowhere.accept,
        record=record,
        metrics=metrics,
        clock=SystemClock(),
        document=document_of(settings),
        receiver_documents={version: {} for version in VERSIONS},
        vectors={},
        authenticate=_everybody,
        limit=lambda _account_id: None,
        currency=settings.currency,
        pay_links=cast("PayLinkMaker", None),
        reversals=cast("Reverser", None),
        stripe=None,
        judge=judge_of(settings, is_development=True),
        listener_of=lambda _url: None,
        listeners=cast("ListenerHub", NoListeners()),
        authenticate_listener=_everybody,
        issue_listen_key=_no_key,
        is_ready=lambda: True,
        is_mail_paused=lambda: False,
    )


async def serve(settings: Settings) -> int:
    """Serve until told to stop."""
    stop = stop_signal()
    policy = egress_policy_of(settings)
    timeout_seconds = settings.callback_timeout.total_seconds()
    sender = Sender(policy, timeout_seconds=timeout_seconds)
    metrics = Metrics()
    async with sender, asyncio.TaskGroup() as tasks:
        slots = asyncio.Semaphore(settings.origin_concurrency)
        nowhere = Nowhere(_attempts(settings, sender, metrics), tasks, slots)
        server = Server(make_application(_dependencies(settings, nowhere, metrics)))
        await server.start(settings.host, settings.port)
        await stop.wait()
        await server.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(run(serve(for_development(read_settings()))))
