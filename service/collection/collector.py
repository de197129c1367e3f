"""
The port of collecting: how the money of an invoice comes.

The sandbox is the built-in implementation. A collector is called for an invoice while it is
received, sent or undeliverable, and says when it wants to be called again. It may be called twice
for the same step, if a process ends between the call and the commit: it must use the account and
the key of the invoice as an idempotency key. What it learns in another way, such as by a webhook,
it reports with a `Report`.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

from service.domain.invoice import Invoice
from service.domain.states import InvoiceStatus
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


Report = Callable[[Invoice, Progress], Awaitable[bool]]
"""
Records what has become of an invoice outside its collection, with the deliveries of its event.

False if the move is not legal from the state in which the invoice is: nothing was recorded then.
The same report may be made any number of times: the second one is not legal.
"""


class Collector(Protocol):
    """Collects the money of invoices."""

    name: str
    """The name that its events carry."""

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
