"""
The loop that sends mails, of invoices and of notices: what is due is leased, handed over, recorded.

What a mail server says about one mail changes that mail: later, or never. A failure that would
meet every mail pauses the loop instead: no attempt is recorded, no schedule is used up, and one
mail after the other is tried until the operator has mended it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from service.clock import Clock
from service.collection.events import Record
from service.collection.sending import Sending, Transport
from service.domain.invoice import Event, Invoice, Step
from service.domain.mail import OF_NO_INVOICE, Mail, MailAttempt
from service.domain.outcomes import MailOutcome
from service.domain.states import InvoiceStatus, MailStatus
from service.errors import SendingRefused, StorageUnavailable
from service.loops import POLL, Drain, Loop, Round, persist
from service.storage.invoices import as_invoice
from service.storage.leases import LeaseRound
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.mail")

CONCURRENCY = 16
"""Mails on their way at a time in one process; each one has a connection."""

LEASE = timedelta(seconds=90)
"""Longer than an attempt may take, by the time to record it."""

PAUSE = timedelta(seconds=30)
"""How long the loop waits before it tries one mail again, after a failure that meets every mail."""

JITTER = 0.2
"""Delays vary by this fraction, so that the mails of one outage are not due together."""

NAME = "mail"
"""Who reports that an invoice is undeliverable: the `collector` of its event."""


UNDELIVERABLE = {
    MailOutcome.REJECTED: "Invoice undeliverable: the mail to the customer was refused",
    MailOutcome.DEFERRED: "Invoice undeliverable: no mail server took the mail in time",
}
"""The event of an undeliverable mail, by the outcome of its last attempt."""


VOID = Sending(MailOutcome.REJECTED, None, "Nothing was sent: the invoice is void.")
"""The result for an invoice that was voided before its mail had gone."""


@dataclass(frozen=True, slots=True)
class MailRules:
    """
    What follows from an attempt.

    *callback* is the name of the callback that the event of an undeliverable invoice fires.
    *retry_schedule* has the delays after deferred attempts. *chance* gives random numbers from 0
    to 1, for the jitter.
    """

    callback: str
    retry_schedule: Sequence[timedelta]
    chance: Callable[[], float]


class Mailing(Loop):
    """
    Sends every mail that is due, up to `CONCURRENCY` at a time; any number of processes may.

    *record* commits what a mail means for its invoice.
    """

    def __init__(
        self,
        store: Store,
        transport: Transport,
        record: Record,
        rules: MailRules,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        super().__init__(clock, store.mails_due)
        self._store = store
        self._transport = transport
        self._record = record
        self._rules = rules
        self._metrics = metrics
        self._held = Counter[str]()
        """How many mails of each account are leased here."""
        self._has_more = False
        self._paused_until: datetime | None = None
        self._drain = Drain()

    @property
    def held_count(self) -> int:
        """Mails that are leased here."""
        return self._held.total()

    @property
    def is_paused(self) -> bool:
        """Whether no mail can leave until the operator changes something."""
        return self._paused_until is not None

    def drain(self) -> None:
        """Lease no more; `run` returns after the last attempt."""
        super().drain()
        self._drain.begin()

    async def run_round(self) -> Round:
        """Lease what is due and hand it over; while sending is paused, one mail to try it."""
        now = self.clock.now()
        capacity = CONCURRENCY - self.held_count
        if self._paused_until:
            if now < self._paused_until:
                return Round(0, self._paused_until - now)
            capacity = 1 - self.held_count
        self._has_more = capacity <= 0
        if self._has_more:
            return Round(0, POLL)
        held = tuple(self._held.elements())
        due = await self._store.lease_mails(LeaseRound(now, now + LEASE, capacity, held=held))
        self._held.update(mail.account_id for mail in due.mails)
        self._has_more = len(due.mails) == capacity
        for mail in due.mails:
            self.tasks.create_task(self._send(mail, now + LEASE))
        # With more of them due, the next round begins when one of these has gone.
        is_later = due.next_due_at is not None and not self._has_more
        return Round(
            len(due.mails),
            min(POLL, due.next_due_at - now) if due.next_due_at and is_later else POLL,
        )

    async def _send(self, mail: Mail, leased_until: datetime) -> None:
        try:
            invoice, started_at = await self._invoice_of(mail), self.clock.now()
            try:
                sending = await self._hand_over(mail, invoice)
            except SendingRefused as error:
                self._pause(error)
                await self._store.release_mail(mail)
                return
            attempt = self._attempt(mail, sending, started_at)
            write = partial(self._settle, invoice, attempt)
            is_recorded = await persist(write, leased_until, self.clock, self._drain)
            if is_recorded:
                self._metrics.mail_attempted(attempt.outcome)
            _log_attempt(attempt, is_recorded=is_recorded)
            if attempt.due_at:
                # The next round finds out when that is.
                self.signal.set()
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        except Exception:  # one bad mail must not stop the others
            log.exception("mail.failed", extra={"fields": _log_fields(mail)})
        finally:
            self._held[mail.account_id] -= 1
            self._held += Counter()  # without those that have none
            if self._has_more or self.is_draining:
                self.signal.set()

    async def _invoice_of(self, mail: Mail) -> Invoice | None:
        if mail.invoice_key == OF_NO_INVOICE:
            return None
        row = await self._store.invoice_by_key(mail.account_id, mail.invoice_key)
        if row is None:
            raise LookupError(f"{mail.id} has no invoice")
        return as_invoice(row)

    async def _hand_over(self, mail: Mail, invoice: Invoice | None) -> Sending:
        if invoice and invoice.status is InvoiceStatus.VOID:
            return VOID
        sending = await self._transport.send(mail)
        if sending.outcome is MailOutcome.DEFERRED and self._paused_until:
            # That the server is away does not show that it takes our mails again.
            self._paused_until = self.clock.now() + PAUSE
        else:
            self._resume()
        return sending

    def _attempt(self, mail: Mail, sending: Sending, started_at: datetime) -> MailAttempt:
        ended_at, number = self.clock.now(), mail.attempt_count + 1
        status, due_at = MailStatus.SENT, None
        if sending.outcome is MailOutcome.REJECTED:
            status = MailStatus.UNDELIVERABLE
        elif sending.outcome is MailOutcome.DEFERRED:
            if number > len(self._rules.retry_schedule):
                status = MailStatus.UNDELIVERABLE
            else:
                delay = self._rules.retry_schedule[number - 1]
                jitter = 1 + JITTER * (2 * self._rules.chance() - 1)
                status, due_at = MailStatus.PENDING, ended_at + delay * jitter
        return MailAttempt(
            mail=mail,
            number=number,
            started_at=started_at,
            ended_at=ended_at,
            outcome=sending.outcome,
            code=sending.code,
            detail=sending.detail,
            status=status,
            due_at=due_at,
        )

    async def _settle(self, invoice: Invoice | None, attempt: MailAttempt) -> bool:
        """Record *attempt*, and what it means for its invoice; False if the lease was lost."""
        if attempt.status is MailStatus.PENDING or invoice is None:
            return await self._store.settle_mail(attempt)
        status, event = InvoiceStatus.SENT, None
        if attempt.status is MailStatus.UNDELIVERABLE:
            status = InvoiceStatus.UNDELIVERABLE
            event = Event(
                description=UNDELIVERABLE[attempt.outcome],
                paid=False,
                at=attempt.ended_at,
                collector=NAME,
                callbacks=(self._rules.callback,),
            )
        step = Step(
            invoice=invoice,
            status=status,
            event=event,
            is_report=True,
            mail_attempt=attempt,
        )
        if await self._record(step):
            return True
        # Where the invoice is paid or void by now, the attempt is recorded all the same.
        return await self._store.has_mail_attempt(attempt)

    def _pause(self, error: SendingRefused) -> None:
        if self._paused_until is None:
            meaning = "no mail leaves until this is mended; then all of them do"
            log.error("mail.paused", extra={"fields": {"detail": str(error), "meaning": meaning}})
        self._paused_until = self.clock.now() + PAUSE
        self._metrics.mail_paused(1)
        self.signal.set()

    def _resume(self) -> None:
        if self._paused_until is not None:
            self._paused_until = None
            self._metrics.mail_paused(0)
            log.info("mail.resumed")
            self.signal.set()


def _log_attempt(attempt: MailAttempt, *, is_recorded: bool) -> None:
    """One line for each attempt; addresses are not logged."""
    fields = {
        **_log_fields(attempt.mail),
        "number": attempt.number,
        "outcome": attempt.outcome,
        "code": attempt.code,
        "mail_status": attempt.status,
    }
    name = "mail.settled" if is_recorded else "mail.outlived_lease"
    log.log(logging.INFO if is_recorded else logging.WARNING, name, extra={"fields": fields})


def _log_fields(mail: Mail) -> dict[str, Any]:
    return {"account_id": mail.account_id, "mail_id": mail.id, "invoice_key": mail.invoice_key}
