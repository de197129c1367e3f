"""The values that stand for the money of an invoice: checkouts, payments and refunds."""

from datetime import datetime
from enum import StrEnum

from service.values import value


class CheckoutStatus(StrEnum):
    """How far a checkout has come. Of an invoice, one at most is not `paid` or `closed`."""

    CREATING = "creating"
    """It is committed here; whether the collector has it is not known."""
    OPEN = "open"
    """The customer can pay."""
    PROCESSING = "processing"
    """The customer has paid in a way that takes days; it cannot be paid again."""
    PAID = "paid"
    CLOSED = "closed"
    """It ended without money, or never began."""


ACTIVE = (CheckoutStatus.CREATING, CheckoutStatus.OPEN, CheckoutStatus.PROCESSING)
"""An invoice has one checkout in these states at most."""


@value(kw_only=True)
class Checkout:
    """
    The way to pay an invoice at the collector, for a limited time.

    *failure_count* is how often the collector has stored a failure for an idempotency key: the next
    key is another one. *is_declined* is whether an attempt to pay was declined. *due_at* is when
    the collector is asked next; a lease moves it, and whoever changes it has to know it.
    """

    account_id: str
    id: str
    invoice_key: str
    status: CheckoutStatus = CheckoutStatus.CREATING
    failure_count: int = 0
    session_id: str | None = None
    url: str | None = None
    is_declined: bool = False
    created_at: datetime
    expires_at: datetime
    due_at: datetime | None
    failing_since: datetime | None = None

    @property
    def key(self) -> str:
        """The idempotency key with which it is created."""
        return f"invoices-{self.id}-{self.failure_count}"


class PaymentKind(StrEnum):
    """What a payment is for."""

    TOTAL = "total"
    """It paid the invoice."""
    OVERPAYMENT = "overpayment"
    """The invoice was paid or void already."""
    MISMATCH = "mismatch"
    """It is not of the amount and currency of the invoice."""


@value(kw_only=True)
class Payment:
    """
    Money that came for an invoice.

    *payment_intent* and *dispute_id* are what Stripe calls it and its latest dispute.
    """

    account_id: str
    id: str
    invoice_key: str
    kind: PaymentKind
    amount_minor: int
    payment_intent: str | None = None
    received_at: datetime
    dispute_id: str | None = None
    due_at: datetime | None = None
    failing_since: datetime | None = None


class RefundStatus(StrEnum):
    """What has become of a refund."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@value(kw_only=True)
class Refund:
    """
    The part of a refund that is taken from one payment.

    *asked_minor* is what the request asked for; None is all that was left. *idempotency_key* is
    None where it was made at the collector. *refund_id* is what the collector calls it.
    """

    account_id: str
    id: str
    payment_id: str
    invoice_key: str
    idempotency_key: str | None
    asked_minor: int | None
    amount_minor: int
    status: RefundStatus = RefundStatus.PENDING
    failure_count: int = 0
    refund_id: str | None = None
    created_at: datetime

    @property
    def reference(self) -> str:
        """By which the collector's refund is recognised as this one."""
        return f"{self.id}-{self.payment_id}"

    @property
    def key(self) -> str:
        """The idempotency key with which it is made."""
        return f"invoices-{self.reference}-{self.failure_count}"


class NothingLeft(Exception):
    """More is asked for than is left to give back; *left_minor* is what is left."""

    def __init__(self, left_minor: int) -> None:
        super().__init__(left_minor)
        self.left_minor = left_minor


@value()
class Receipt:
    """Money came in through a checkout: the checkout is paid, and *payment* is recorded."""

    payment: Payment


@value()
class Decline:
    """The first attempt to pay *checkout* was declined; it can still be paid."""

    checkout: Checkout


@value()
class Failure:
    """The payment of *checkout* failed after the customer had finished: the checkout has ended."""

    checkout: Checkout


@value()
class SettledRefund:
    """
    A refund has ended as *refund* says; one that is not known yet is recorded.

    *refunded_before_minor* is what was given back of the payment before.
    """

    refund: Refund
    refunded_before_minor: int


@value()
class WonDispute:
    """A dispute about the payment was won: the invoice is no longer disputed."""


@value()
class Withdrawal:
    """The invoice is void: it has no checkout that can be paid."""


Settlement = Receipt | Decline | Failure | SettledRefund | WonDispute | Withdrawal
"""What is recorded in one transaction with the report about it, or not at all."""
