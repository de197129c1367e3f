"""
The sandbox: a collector that moves no money, so that developers can try every result.

A tag on the customer chooses the result, as in plus-addressing: `Acme+declined` or
`jo+declined@example.com`. Special amounts could occur in real data; tags do not. The customer can
also choose one, on the page to which the invoice leads. Its events carry its name, "sandbox".
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from service.collection.collector import Progress
from service.domain.invoice import Invoice
from service.domain.payment import Payment, Refund, RefundStatus
from service.domain.states import InvoiceStatus
from service.storage.payments import DuePayment

PENDING_FACTOR = 10
"""A `+pending` payment takes this many times the usual delay."""

UNDELIVERABLE = "Invoice undeliverable: it could not be sent to the customer"
"""The event of an invoice that could not be sent."""

_FAILURES = {
    "declined": "Payment failed: the card was declined",
    "insufficient_funds": "Payment failed: insufficient funds",
    "expired_card": "Payment failed: the card has expired",
    "processing_error": "Payment failed: an error occurred while processing the card",
}
ENDINGS = {
    "pay": Progress(InvoiceStatus.PAID, "Invoice paid"),
    **{
        name: Progress(InvoiceStatus.PAYMENT_FAILED, description)
        for name, description in _FAILURES.items()
    },
}
"""What can be chosen on the page of the sandbox, by name."""

ENDING_LABELS = {
    "pay": "Pay",
    "declined": "Decline",
    "insufficient_funds": "Decline: insufficient funds",
    "expired_card": "Decline: the card has expired",
    "processing_error": "Decline: an error while processing",
}
"""The words on the buttons of that page."""

_UNDELIVERABLE = Progress(InvoiceStatus.UNDELIVERABLE, UNDELIVERABLE)
_NO_DELAY = timedelta(0)

_TAG = re.compile(r"\+([a-z_]+)(?=@|\s|$)")


class Sandbox:
    """
    Collects nothing: invoices without a tag, or with an unknown one, are paid after *delay*.

    Tags: `declined`, `insufficient_funds`, `expired_card` and `processing_error` fail for that
    reason; `pending` is paid after ten times the delay; `never` is not paid by itself;
    `undeliverable` cannot be sent at all.
    """

    name = "sandbox"
    moves_money = False

    def __init__(self, delay: timedelta) -> None:
        self._delays = {"": delay, "pending": delay * PENDING_FACTOR, "never": None}

    def begun(self, invoice: Invoice) -> Progress:
        """When to collect; without a delay, the result. `+undeliverable` fails."""
        tag = tag_of(invoice)
        if tag == "undeliverable":
            return _UNDELIVERABLE
        delay = self._delays.get(tag, self._delays[""])
        if delay == _NO_DELAY:
            return ENDINGS.get(tag, ENDINGS["pay"])
        return Progress(InvoiceStatus.SENT, look_again_after=delay)

    async def begin(self, invoice: Invoice) -> Progress:
        """Do what `begun` says."""
        return self.begun(invoice)

    async def collect(self, invoice: Invoice) -> Progress:
        """Collect nothing; the tag decides the result."""
        return ENDINGS.get(tag_of(invoice), ENDINGS["pay"])

    async def checkout(self, invoice: Invoice, page_url: str) -> str:
        """The page that offers the endings, below the page of the invoice."""
        return f"{page_url}/sandbox"

    async def withdraw(self, invoice: Invoice) -> None:
        """Do nothing: a void invoice can be paid nowhere."""

    def check_refund(self, invoice: Invoice, amount_minor: int) -> str | None:
        """Nothing speaks against any refund."""
        return None

    async def give_back(self, due: DuePayment) -> Sequence[Refund]:
        """Every pending refund succeeds, but of money that another collector has."""
        if due.payment.payment_intent is not None:
            return []
        return [
            replace(one, status=RefundStatus.SUCCEEDED)
            for one in due.refunds
            if one.status is RefundStatus.PENDING
        ]

    async def given_back_elsewhere(self, due: DuePayment) -> Sequence[Refund]:
        """There is no other way."""
        return []

    async def is_won(self, payment: Payment) -> bool | None:
        """Nobody disputes a payment of the sandbox."""
        return None


def tag_of(invoice: Invoice) -> str:
    """The tag of the customer, in the name or the e-mail address; empty if there is none."""
    for text in (invoice.customer, invoice.customer_email or ""):
        if "+" in text and (match := _TAG.search(text)):
            return match[1]
    return ""
