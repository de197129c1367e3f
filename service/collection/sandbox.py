"""
The sandbox: a collector that moves no money, so that developers can try every ending.

What happens is chosen by a tag on the customer, as in plus-addressing: `Acme+declined` or
`jo+declined@example.com`. Magic amounts would bite real data; a customer's name does not.
Everything it makes carries its name, "sandbox".
"""

from __future__ import annotations

import re
from datetime import timedelta

from service.collection.collector import Progress
from service.domain.states import InvoiceStatus
from service.storage.steps import LeasedInvoice

PENDING_FACTOR = 10
"""How many times longer than usual a `+pending` payment takes."""

_FAILURES = {
    "declined": "Payment failed: the card was declined",
    "insufficient_funds": "Payment failed: insufficient funds",
    "expired_card": "Payment failed: the card has expired",
    "processing_error": "Payment failed: an error occurred while processing the card",
}
_TAG = re.compile(r"\+([a-z_]+)(?=@|\s|$)")


class Sandbox:
    """
    Collects nothing: invoices without a tag, or with an unknown one, are paid after *delay*.

    Tags: `declined`, `insufficient_funds`, `expired_card` and `processing_error` fail for that
    reason; `pending` is paid after ten times the delay; `never` stays sent; `undeliverable`
    cannot be sent at all.
    """

    name = "sandbox"

    def __init__(self, delay: timedelta) -> None:
        self._delay = delay

    async def send(self, invoice: LeasedInvoice) -> Progress:
        """Send the invoice to nobody; `+undeliverable` cannot be sent."""
        tag = tag_of(invoice)
        if tag == "undeliverable":
            description = "Payment failed: the invoice could not be sent to the customer"
            return Progress(InvoiceStatus.PAYMENT_FAILED, description)
        delays = {"never": None, "pending": self._delay * PENDING_FACTOR}
        return Progress(InvoiceStatus.SENT, look_again_after=delays.get(tag, self._delay))

    async def collect(self, invoice: LeasedInvoice) -> Progress:
        """Take no money, and say how it went."""
        failure = _FAILURES.get(tag_of(invoice))
        if failure:
            return Progress(InvoiceStatus.PAYMENT_FAILED, failure)
        return Progress(InvoiceStatus.PAID, "Invoice paid")


def tag_of(invoice: LeasedInvoice) -> str:
    """The tag of the invoice's customer, in the name or the address; empty where there is none."""
    for text in (invoice.customer, invoice.customer_email or ""):
        if "+" in text and (match := _TAG.search(text)):
            return match[1]
    return ""
