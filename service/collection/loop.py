"""
The loop that collects every invoice: lease what is due, ask the collector, write the step.

One round leases a batch. Each invoice of it advances in a task of its own, so that a slow
collection delays no other.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from service.clock import Clock
from service.collection.collector import Collector, Progress
from service.collection.events import Recorder
from service.domain.invoice import FIRST_LEASE_TOKEN, Event, Invoice, Step
from service.domain.mail import Mail
from service.domain.states import COLLECTED, IS_PAID, Acceptance, InvoiceStatus
from service.errors import StorageUnavailable
from service.loops import POLL, Drain, Loop, Round, persist
from service.storage.leases import LeaseRound
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Span, SpanKind, Tracing

log = logging.getLogger("invoices.collection")

LEASE = timedelta(seconds=15)
"""How long one step may take. After a crash, an invoice waits this long at most."""

GRAIN = timedelta(milliseconds=20)
"""Steps are due at multiples of this, so that several of them share one statement."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CONCURRENCY = 512
"""Invoices in collection at a time; all others wait in the database."""

Compose = Callable[[Invoice], Awaitable[Mail]]
"""Composes the mail of an invoice that has the e-mail address of its customer."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What the loop works with: how money comes, what the customer is sent, where steps go."""

    collector: Collector
    compose: Compose
    recorder: Recorder


class Collection(Loop):
    """
    Collects every accepted invoice, up to `CONCURRENCY` at a time.

    An invoice that is accepted in this process is committed with its first step, if the collector
    has to ask nobody for that and the invoice gets no mail. Otherwise it is committed leased and
    collected at once, if there is capacity and no older one waits; all others are leased when they
    are due. The first step also commits the mail, if there is to be one; the collection does not
    wait for that mail. *callback* is the name of the callback that the events fire.
    """

    def __init__(
        self,
        store: Store,
        ports: Ports,
        callback: str,
        clock: Clock,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        super().__init__(clock, store.invoices_due)
        self._store = store
        self._collector = ports.collector
        self._compose = ports.compose
        self._record = ports.recorder.record
        self._accept = ports.recorder.accept
        self._callbacks = (callback,)
        self._metrics = metrics
        self._tracing = tracing
        self._drain = Drain()
        self._held_count = 0
        self._is_backlogged = False

    @property
    def held_count(self) -> int:
        """Invoices that are leased here, or about to be."""
        return self._held_count

    def drain(self) -> None:
        """Lease no more; `run` returns after the last step."""
        super().drain()
        self._drain.begin()

    async def accept(self, invoice: Invoice) -> Acceptance:
        """Store *invoice*, unless its account has used the id, and collect it."""
        now, leased_until = self.clock.now(), None
        if self.is_running and not self.is_draining:
            if not invoice.customer_email and (progress := self._collector.begun(invoice)):
                return await self._accept_begun(self._step_of(invoice, progress, now))
            self._is_backlogged |= self._held_count >= CONCURRENCY
            if not self._is_backlogged:
                self._held_count += 1
                leased_until = now + LEASE
        is_started = False
        try:
            acceptance = await self._store.accept(invoice, leased_until)
            if leased_until and acceptance is Acceptance.STORED:
                self.tasks.create_task(self._collect(invoice, now))
                is_started = True
        finally:
            if leased_until and not is_started:
                self._release_capacity()
        return acceptance

    async def _accept_begun(self, step: Step) -> Acceptance:
        with self._tracing.begin(SpanKind.INTERNAL, "collect", step.invoice.traceparent) as span:
            acceptance = await self._accept(step)
            if acceptance is Acceptance.STORED:
                self._count(step)
                if span.is_recorded:
                    _describe(span, step)
        return acceptance

    async def run_round(self) -> Round:
        """Lease what is due and start a task for each."""
        now = self.clock.now()
        capacity = CONCURRENCY - self._held_count
        if capacity <= 0:
            self._is_backlogged = True
            return Round(0, POLL)
        due = await self._store.lease_invoices(LeaseRound(now, now + LEASE, capacity))
        self._held_count += len(due.invoices)
        self._is_backlogged = len(due.invoices) == capacity
        for invoice in due.invoices:
            self.tasks.create_task(self._collect(invoice, now))
        return Round(
            len(due.invoices), min(POLL, due.next_due_at - now) if due.next_due_at else POLL
        )

    async def report(self, invoice: Invoice, progress: Progress) -> bool:
        """Record what was learned outside the collection; False if the move is not legal."""
        event = self._event_of(progress)
        step = Step(invoice=invoice, status=progress.status, event=event, is_report=True)
        is_recorded = await self._record(step)
        if is_recorded:
            self._count(step)
        return is_recorded

    async def _collect(self, invoice: Invoice, now: datetime) -> None:
        """Take one step of *invoice*; if that fails, its lease runs out and it is due again."""
        try:
            with self._tracing.begin(SpanKind.INTERNAL, "collect", invoice.traceparent) as span:
                step = await self._next_step(invoice, now)
                is_taken = await self._take(step, now + LEASE)
                if span.is_recorded:
                    _describe(span, step)
            if not is_taken:
                log.warning("step.outlived_lease", extra={"fields": _log_fields(invoice)})
            else:
                self._count(step)
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        except Exception:  # one bad invoice must not stop the others
            log.exception("step.failed", extra={"fields": _log_fields(invoice)})
        finally:
            self._release_capacity()

    async def _take(self, step: Step, leased_until: datetime) -> bool:
        """Record *step*; while the database is away, again and again until the lease runs out."""
        try:
            return await self._record(step)
        except StorageUnavailable:
            write = partial(self._record, step)
            return await persist(write, leased_until, self.clock, self._drain)

    async def _next_step(self, invoice: Invoice, now: datetime) -> Step:
        """Call the collector, and compose the mail of an invoice that is new."""
        mail = None
        is_new = invoice.status is InvoiceStatus.RECEIVED
        if is_new and invoice.customer_email and invoice.lease_token > FIRST_LEASE_TOKEN:
            # It stays received until its mail has gone; its first lease has no mail yet.
            is_new = not await self._store.has_mail(invoice)
        if is_new:
            progress = await self._collector.begin(invoice)
            if invoice.customer_email and progress.status is not InvoiceStatus.UNDELIVERABLE:
                mail = await self._compose(invoice)
        else:
            progress = await self._collector.collect(invoice)
        return self._step_of(invoice, progress, now, mail)

    def _step_of(
        self, invoice: Invoice, progress: Progress, now: datetime, mail: Mail | None = None
    ) -> Step:
        status, due_at = progress.status, None
        if invoice.customer_email and status is InvoiceStatus.SENT:
            # Its mail decides when it is sent.
            status = invoice.status
        if progress.look_again_after is not None:
            due_at = now + progress.look_again_after
            due_at += (EPOCH - due_at) % GRAIN
        event = self._event_of(progress)
        return Step(invoice=invoice, status=status, due_at=due_at, event=event, mail=mail)

    def _event_of(self, progress: Progress) -> Event | None:
        if progress.description is None:
            return None
        return Event(
            description=progress.description,
            paid=progress.status in IS_PAID,
            at=self.clock.now(),
            collector=self._collector.name,
            callbacks=self._callbacks,
        )

    def _count(self, step: Step) -> None:
        if step.status in COLLECTED:
            self._metrics.collected(step.status)

    def _release_capacity(self) -> None:
        self._held_count -= 1
        if self._is_backlogged or self.is_draining:
            self.signal.set()


def _describe(span: Span, step: Step) -> None:
    fields = {**_log_fields(step.invoice), "invoice_status": step.status}
    span.set_attributes({f"invoices.{name}": text for name, text in fields.items()})


def _log_fields(invoice: Invoice) -> dict[str, Any]:
    return {
        "request_id": invoice.request_id,
        "invoice_id": invoice.id,
        "account_id": invoice.account_id,
    }
