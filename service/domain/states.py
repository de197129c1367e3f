"""
The states of an invoice and of a delivery, and every legal move between them.

Every change of a state is in one of these tables. The statements of storage match on the states
from which a move may start, so that an illegal one changes no row.
"""

from enum import StrEnum


class Acceptance(StrEnum):
    """The result of accepting an invoice: stored, known already, or known with other content."""

    STORED = "stored"
    REPLAYED = "replayed"
    CONFLICT = "conflict"


class InvoiceStatus(StrEnum):
    """How far the collection of an invoice has come."""

    RECEIVED = "received"
    SENT = "sent"
    PAID = "paid"
    PAYMENT_FAILED = "payment_failed"


class DeliveryStatus(StrEnum):
    """Whether an event still has to be delivered to its URL, and how the delivery ended."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class DeadReason(StrEnum):
    """Why a delivery gets no more automatic attempts."""

    EXHAUSTED = "exhausted"
    GONE = "gone"
    BLOCKED = "blocked"


class Cause(StrEnum):
    """Why an attempt is made."""

    EVENT = "event"
    RETRY = "retry"
    REDELIVERY = "redelivery"


INVOICE_MOVES: dict[InvoiceStatus, frozenset[InvoiceStatus]] = {
    InvoiceStatus.RECEIVED: frozenset(
        {InvoiceStatus.SENT, InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED}
    ),
    InvoiceStatus.SENT: frozenset(
        {InvoiceStatus.SENT, InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED}
    ),
    InvoiceStatus.PAID: frozenset(),
    InvoiceStatus.PAYMENT_FAILED: frozenset(),
}
"""
From each state, the states that one step of the collection may write.

From `received` to `paid`, the invoice was sent and paid in one step. From `sent` to `sent`, the
collector wants to be called again. From `received` to `payment_failed`, the invoice could not be
sent.
"""

DELIVERY_MOVES: dict[DeliveryStatus, frozenset[DeliveryStatus]] = {
    DeliveryStatus.PENDING: frozenset(
        {DeliveryStatus.PENDING, DeliveryStatus.DELIVERED, DeliveryStatus.DEAD}
    ),
    DeliveryStatus.DELIVERED: frozenset({DeliveryStatus.PENDING}),
    DeliveryStatus.DEAD: frozenset({DeliveryStatus.PENDING}),
}
"""
From each state, the states that may follow.

Settling an attempt leads out of `pending`; `pending` again is a retry. Redelivery leads back to it.
"""

SETTLED = frozenset(DeliveryStatus) - {DeliveryStatus.PENDING}
"""The states in which no attempt is due. Retention removes deliveries in these states only."""
