"""What API users ask of the money of an invoice: to void it, and to give money back."""

from collections.abc import Sequence

from service.clock import Clock
from service.collection.collector import Collector
from service.collection.events import EventOf, Record
from service.domain.ids import new_id
from service.domain.invoice import Invoice, Step
from service.domain.payment import Payment, PaymentKind, Refund, Withdrawal
from service.domain.states import IS_PAID, PAYABLE, InvoiceStatus
from service.errors import CollectorUnavailable, Conflict
from service.storage.invoices import as_invoice
from service.storage.payments import RefundRequest
from service.storage.store import Store

ROUNDS = 4
"""How often a customer may begin to pay while the invoice is being voided."""


class Reversals:
    """Voids invoices and gives money back, with *collector*; *record* commits the reports."""

    def __init__(
        self, store: Store, collector: Collector, record: Record, event_of: EventOf, clock: Clock
    ) -> None:
        self._store = store
        self._collector = collector
        self._record = record
        self._event_of = event_of
        self._clock = clock

    async def void(self, invoice: Invoice) -> None:
        """
        Void *invoice*, so that nobody can pay it any more; again, it changes nothing.

        Raises:
            Conflict: if it was paid, or is being paid.
            CollectorUnavailable: if the collector gives no answer.
        """
        for _ in range(ROUNDS):
            if invoice.status is InvoiceStatus.VOID:
                return
            if invoice.status not in PAYABLE:
                raise Conflict(f"The invoice cannot be voided: it is {invoice.status}.")
            await self._collector.withdraw(invoice)
            step = Step(
                invoice=invoice,
                status=InvoiceStatus.VOID,
                event=self._event_of("Invoice void", InvoiceStatus.VOID),
                is_report=True,
                settlement=Withdrawal(),
            )
            if await self._record(step):
                return
            row = await self._store.history.find_invoice(invoice.account_id, invoice.id)
            invoice = as_invoice(row)
        raise CollectorUnavailable("The customer begins to pay again and again.")

    def check_refund(self, invoice: Invoice, amount_minor: int) -> str | None:
        """Why the collector cannot give back *amount_minor*; None if it can."""
        return self._collector.check_refund(invoice, amount_minor)

    async def refund(
        self, invoice: Invoice, asked_minor: int | None, idempotency_key: str
    ) -> Sequence[Refund]:
        """
        Begin to give back *asked_minor*, or all that is left.

        Returns:
            The parts of the refund; those of an earlier request with the same key.

        Raises:
            Conflict: if the key was used with another amount.
            NothingLeft: if that much is not left.
        """
        asked = RefundRequest(
            account_id=invoice.account_id,
            invoice_key=invoice.key,
            id=f"ref_{new_id()}",
            idempotency_key=idempotency_key,
            asked_minor=asked_minor,
            now=self._clock.now(),
        )
        return await self._store.money.request_refund(asked, self._sandbox_payment(invoice))

    def _sandbox_payment(self, invoice: Invoice) -> Payment | None:
        """What a collector that moves no money has received; it is recorded when it is needed."""
        if self._collector.moves_money or invoice.status not in IS_PAID:
            return None
        return Payment(
            account_id=invoice.account_id,
            id=invoice.key,
            invoice_key=invoice.key,
            kind=PaymentKind.TOTAL,
            amount_minor=invoice.total_minor,
            received_at=self._clock.now(),
        )
