"""
What collects: sends an invoice to its customer and takes the money.

`Collector` is the port. The sandbox is the embedded one; a mail service and a payment provider
make another. A collector may be asked about the same invoice twice, after a process died between
asking and writing, so it must treat the invoice's account and id as an idempotency key.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from service.domain.states import InvoiceStatus
from service.storage.steps import LeasedInvoice
from service.values import value


@value()
class Progress:
    """
    How far a collector has brought an invoice.

    *description* tells the receiver what happened; None means that nobody needs to know yet.
    *look_again_after* is when to ask again; None means never, which a final status implies.
    """

    status: InvoiceStatus
    description: str | None = None
    look_again_after: timedelta | None = None


class Collector(Protocol):
    """Sends invoices and collects their money."""

    name: str
    """What its events are labelled with."""

    async def send(self, invoice: LeasedInvoice) -> Progress:
        """Send a received invoice to its customer."""
        ...

    async def collect(self, invoice: LeasedInvoice) -> Progress:
        """Take the money for an invoice that was sent, or find out that it will not come."""
        ...
