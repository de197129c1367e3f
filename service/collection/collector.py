"""
The port of collecting: how the money of an invoice comes.

The sandbox is the built-in implementation. A collector is called for an invoice while it is
received, sent or undeliverable, and says when it wants to be called again. It may be called twice
for the same step, if a process ends between the call and the commit: it must use the account and
the key of the invoice as an idempotency key. What it learns in another way, such as by a webhook,
is reported without it.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from service.domain.invoice import Invoice
from service.domain.payment import Payment, Refund
from service.domain.states import InvoiceStatus
from service.storage.payments import DuePayment
from service.values import value


@value()
class Progress:
    """
    The state of an invoice according to its collector.

    `sent` means that the money has not come yet: whether the invoice has reached its customer is
    the business of sending. *description* describes the event for the receiver; None means that
    there is no event. *look_again_after* is when to ask again; None means never, as after a final
    status.
    """

    status: InvoiceStatus
    description: str | None = None
    look_again_after: timedelta | None = None


class Collector(Protocol):
    """Collects the money of invoices."""

    name: str
    """The name that its events carry."""
    moves_money: bool
    """Whether what it collects is money, of which each payment is recorded."""

    def begun(self, invoice: Invoice) -> Progress | None:
        """What `begin` says of *invoice*, if nobody has to be asked for that; None otherwise."""
        ...

    async def begin(self, invoice: Invoice) -> Progress:
        """Begin to collect a received invoice; what the customer has to do may happen later."""
        ...

    async def collect(self, invoice: Invoice) -> Progress:
        """Collect the money for an invoice, or find out that it will not be paid."""
        ...

    async def checkout(self, invoice: Invoice, page_url: str) -> str:
        """
        The URL at which the customer pays *invoice*, to which the button of its page leads.

        *page_url* is that page, to which the customer returns.
        """
        ...

    async def withdraw(self, invoice: Invoice) -> None:
        """
        Make sure that *invoice* cannot be paid at the collector any more.

        Raises:
            Conflict: if it is being paid.
            CollectorUnavailable: if the collector gives no answer.
        """
        ...

    def check_refund(self, invoice: Invoice, amount_minor: int) -> str | None:
        """Why *amount_minor* of *invoice* cannot be given back; None if it can."""
        ...

    async def give_back(self, due: DuePayment) -> Sequence[Refund]:
        """
        Give back what is pending of a payment; asked again, it gives nothing back twice.

        Returns:
            The refunds that have ended.

        Raises:
            CollectorUnavailable: if the collector gives no answer.
        """
        ...

    async def given_back_elsewhere(self, due: DuePayment) -> Sequence[Refund]:
        """
        What was given back of a payment in another way, and is not known yet.

        Raises:
            CollectorUnavailable: if the collector gives no answer.
        """
        ...

    async def is_won(self, payment: Payment) -> bool | None:
        """
        Whether the dispute about *payment* was won; None while it is open.

        Raises:
            CollectorUnavailable: if the collector gives no answer.
        """
        ...
