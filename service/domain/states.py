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
    """How far the sending and the collection of an invoice have come."""

    RECEIVED = "received"
    SENT = "sent"
    UNDELIVERABLE = "undeliverable"
    PAID = "paid"
    PAYMENT_FAILED = "payment_failed"
    VOID = "void"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class MailStatus(StrEnum):
    """Whether a mail still has to be handed over, and how its sending ended."""

    PENDING = "pending"
    SENT = "sent"
    UNDELIVERABLE = "undeliverable"


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
    CANCELLED = "cancelled"


class Cause(StrEnum):
    """Why an attempt is made."""

    EVENT = "event"
    RETRY = "retry"
    REDELIVERY = "redelivery"


INVOICE_MOVES: dict[InvoiceStatus, frozenset[InvoiceStatus]] = {
    InvoiceStatus.RECEIVED: frozenset(
        {
            InvoiceStatus.RECEIVED,
            InvoiceStatus.SENT,
            InvoiceStatus.UNDELIVERABLE,
            InvoiceStatus.PAID,
            InvoiceStatus.PAYMENT_FAILED,
            InvoiceStatus.VOID,
        }
    ),
    InvoiceStatus.SENT: frozenset(
        {
            InvoiceStatus.SENT,
            InvoiceStatus.PAID,
            InvoiceStatus.PAYMENT_FAILED,
            InvoiceStatus.VOID,
        }
    ),
    InvoiceStatus.UNDELIVERABLE: frozenset(
        {
            InvoiceStatus.UNDELIVERABLE,
            InvoiceStatus.PAID,
            InvoiceStatus.PAYMENT_FAILED,
            InvoiceStatus.VOID,
        }
    ),
    InvoiceStatus.PAYMENT_FAILED: frozenset(
        {InvoiceStatus.PAYMENT_FAILED, InvoiceStatus.PAID, InvoiceStatus.VOID}
    ),
    InvoiceStatus.PAID: frozenset(
        {InvoiceStatus.PARTIALLY_REFUNDED, InvoiceStatus.REFUNDED, InvoiceStatus.DISPUTED}
    ),
    InvoiceStatus.PARTIALLY_REFUNDED: frozenset(
        {InvoiceStatus.PARTIALLY_REFUNDED, InvoiceStatus.REFUNDED, InvoiceStatus.DISPUTED}
    ),
    InvoiceStatus.DISPUTED: frozenset(
        {InvoiceStatus.PAID, InvoiceStatus.PARTIALLY_REFUNDED, InvoiceStatus.REFUNDED}
    ),
    InvoiceStatus.REFUNDED: frozenset(),
    InvoiceStatus.VOID: frozenset(),
}
"""
From each state, the states that may follow: steps of the collection, mail, and what API users do.

An invoice whose mail is committed stays `received` until a server accepts the mail, and can be paid
before. From `payment_failed` to `paid`, the customer tried again; to `payment_failed`, in vain.
From `disputed` back, the dispute was won. A state that leads to itself, apart from these and from a
further part of a refund, is a step after which the collector wants to be called again.
"""

PAYABLE = frozenset(
    status for status, moves in INVOICE_MOVES.items() if InvoiceStatus.VOID in moves
)
"""The states in which the customer may still pay, and in which the invoice can be voided."""

COLLECTING = (InvoiceStatus.RECEIVED, InvoiceStatus.SENT, InvoiceStatus.UNDELIVERABLE)
"""The states in which the collector is still called by itself."""

COLLECTED = frozenset({InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED})
"""The states in which a collection ends."""

IS_PAID = frozenset({InvoiceStatus.PAID, InvoiceStatus.PARTIALLY_REFUNDED})
"""The states in which the money is there: the `paid` of the event that leads to them."""

DELIVERY_MOVES: dict[DeliveryStatus, frozenset[DeliveryStatus]] = {
    DeliveryStatus.PENDING: frozenset(
        {DeliveryStatus.PENDING, DeliveryStatus.DELIVERED, DeliveryStatus.DEAD}
    ),
    DeliveryStatus.DELIVERED: frozenset({DeliveryStatus.PENDING}),
    DeliveryStatus.DEAD: frozenset({DeliveryStatus.PENDING}),
}
"""
From each state, the states that may follow.

Settling an attempt leads out of `pending`, and so does cancelling, to `dead`; `pending` again is a
retry. Redelivery leads back to it.
"""

SETTLED = frozenset(DeliveryStatus) - {DeliveryStatus.PENDING}
"""The states in which no attempt is due. Retention removes deliveries in these states only."""
