"""
The loop that brings every invoice to its end: lease what is due, ask the collector, write it.

One round leases a batch; every invoice of it moves on by itself, so that one slow collection
holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from service.clock import Clock
from service.collection.collector import Collector, Progress
from service.domain.states import INVOICE_MOVES, InvoiceStatus
from service.errors import StorageUnavailable
from service.loops import POLL, keep_rounds
from service.storage.steps import LeasedInvoice, LeaseRound, NewDelivery, NewEvent, Step
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Span, Tracing

log = logging.getLogger("invoices.collection")

LEASE = timedelta(seconds=15)
"""How long one step may take. After a crash, this is also how long an invoice waits."""

GRAIN = timedelta(milliseconds=20)
"""Waits end on multiples of this, so that steps taken together are written by one statement."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CONCURRENCY = 512
"""Invoices in collection at a time; what is beyond that waits in the database."""


Announce = Callable[[str, str, bool], NewDelivery]
"""Callback name, description, paid -> what brings that event to the receiver."""


def _rounded(instant: datetime) -> datetime:
    """*instant* or a little later, in steps of `GRAIN`."""
    return instant + (EPOCH - instant) % GRAIN


class Collection:
    """
    Collects every accepted invoice, with as many others beside it as there is room for.

    Takes invoices that were accepted here as they are (`Takes`), and leases all others.

    *announce* renders an event for the callback of the invoice; it is called only where the
    API user asked to be called.
    """

    def __init__(
        self,
        store: Store,
        collector: Collector,
        announce: Announce,
        clock: Clock,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._store = store
        self._collector = collector
        self._announce = announce
        self._clock = clock
        self._metrics = metrics
        self._tracing = tracing
        self._steps: asyncio.TaskGroup
        self.is_draining = False
        self._is_backlogged = False
        self.held_count = 0

    async def run(self) -> None:
        """Collect until `drain` is called, then finish what was begun."""
        async with asyncio.TaskGroup() as steps:
            self._steps = steps
            with self._store.to_collection.connected(self):
                await keep_rounds(self, self._store.invoices_due, self._clock)

    def drain(self) -> None:
        """Lease nothing more; `run` returns once the steps in progress are written."""
        self.is_draining = True
        self._store.invoices_due.set()

    def reserve(self, origin: str) -> datetime | None:
        """Room for an invoice that is about to be accepted, unless older ones wait for it."""
        if self.is_draining:
            return None
        if self._is_backlogged or self.held_count >= CONCURRENCY:
            self._is_backlogged = True
            return None
        self.held_count += 1
        return self._clock.now() + LEASE

    def cancel(self, origin: str) -> None:
        """Give back the room of an invoice that was not accepted."""
        self._give_room()

    def start(self, row: LeasedInvoice) -> None:
        """Collect an invoice that was accepted with a lease."""
        self._steps.create_task(self._take_step(row, self._clock.now()))

    async def run_round(self) -> timedelta:
        """
        Lease what is due and start a task for each.

        Returns:
            How long the next round may wait unless a signal comes first.
        """
        now = self._clock.now()
        room = CONCURRENCY - self.held_count
        if room <= 0:
            self._is_backlogged = True
            return POLL
        due = await self._store.lease_invoices(LeaseRound(now, now + LEASE, room))
        self.held_count += len(due.invoices)
        self._is_backlogged = len(due.invoices) == room
        for invoice in due.invoices:
            self._steps.create_task(self._take_step(invoice, now))
        return min(POLL, due.next_due_at - now) if due.next_due_at else POLL

    async def _take_step(self, invoice: LeasedInvoice, now: datetime) -> None:
        """One invoice's step; whatever goes wrong with it, its lease brings it back."""
        try:
            with self._tracing.working("collect", invoice.traceparent) as span:
                step = self._step(invoice, await self._advance(invoice), now)
                is_taken = await self._store.take_step(step)
                _trace(span, step)
            if is_taken:
                self._tell(step)
            else:
                log.warning("step.outlived_lease", extra={"fields": _log_fields(invoice)})
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        except Exception:  # one bad invoice must not stop the others
            log.exception("step.failed", extra={"fields": _log_fields(invoice)})
        finally:
            self._give_room()

    def _tell(self, step: Step) -> None:
        """Count and log what a step that was taken has brought."""
        if not INVOICE_MOVES[step.status]:
            self._metrics.collected(step.status)
        if step.event:
            told = {**_log_fields(step.invoice), **_event_fields(step.event)}
            log.info("event.recorded", extra={"fields": told})

    def _give_room(self) -> None:
        self.held_count -= 1
        if self._is_backlogged or self.is_draining:
            self._store.invoices_due.set()

    async def _advance(self, invoice: LeasedInvoice) -> Progress:
        """As far as the invoice comes without waiting."""
        if invoice.status is InvoiceStatus.SENT:
            return await self._collector.collect(invoice)
        progress = await self._collector.send(invoice)
        return await self._collector.collect(invoice) if _is_passing(progress) else progress

    def _step(self, invoice: LeasedInvoice, progress: Progress, now: datetime) -> Step:
        wait = progress.look_again_after
        return Step(
            invoice=invoice,
            status=progress.status,
            due_at=None if wait is None else _rounded(now + wait),
            collector=self._collector.name,
            event=self._event(invoice, progress),
        )

    def _event(self, invoice: LeasedInvoice, progress: Progress) -> NewEvent | None:
        if progress.description is None:
            return None
        is_paid = progress.status is InvoiceStatus.PAID
        return NewEvent(
            description=progress.description,
            paid=is_paid,
            at=self._clock.now(),
            delivery=self._delivery(invoice, progress.description, is_paid=is_paid),
        )

    def _delivery(
        self, invoice: LeasedInvoice, description: str, *, is_paid: bool
    ) -> NewDelivery | None:
        if invoice.call is None:
            return None
        return self._announce(invoice.call.callback, description, is_paid)


def _is_passing(progress: Progress) -> bool:
    """Whether the invoice was sent, nobody needs to know, and it can be collected at once."""
    is_silent = progress.status is InvoiceStatus.SENT and progress.description is None
    return is_silent and progress.look_again_after == timedelta(0)


def _log_fields(invoice: LeasedInvoice) -> dict[str, Any]:
    """By what a line about *invoice* is found."""
    return {
        "request_id": invoice.request_id,
        "invoice_id": invoice.id,
        "account_id": invoice.account_id,
    }


def _trace(span: Span, step: Step) -> None:
    """What a trace says of a step: the same, and where it has led."""
    if span.is_recorded:
        told = {**_log_fields(step.invoice), "invoice_status": step.status.value}
        span.set_attributes({f"invoices.{name}": value for name, value in told.items()})


def _event_fields(event: NewEvent) -> dict[str, Any]:
    delivery_id = event.delivery.id if event.delivery else None
    return {"description": event.description, "paid": event.paid, "delivery_id": delivery_id}
