"""
The interface of a collector, which sends invoices to customers and collects the money.

The sandbox is the built-in implementation. A collector may be called twice for the same step of an
invoice, if a process ends between the call and the commit: it must use the account and the id of
the invoice as an idempotency key.
"""

from datetime import timedelta
from typing import Protocol

from service.domain.invoice import Invoice
from service.domain.states import InvoiceStatus
from service.values import value


@value()
class Progress:
    """
    The state of an invoice according to its collector.

    *description* describes the event for the receiver; None means that there is no event.
    *look_again_after* is when to ask again; None means never, as after a final status.
    """

    status: InvoiceStatus
    description: str | None = None
    look_again_after: timedelta | None = None


class Collector(Protocol):
    """Sends invoices and collects their money."""

    name: str
    """The name that its events carry."""

    async def send(self, invoice: Invoice) -> Progress:
        """Send a received invoice to its customer."""
        ...

    async def collect(self, invoice: Invoice) -> Progress:
        """Collect the money for an invoice that was sent, or find out that it will not be paid."""
        ...
