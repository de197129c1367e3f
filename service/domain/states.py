"""
The states of an invoice and of a delivery, and every legal move between them.

If it changes a state, it stands in one of these tables. The statements of storage match on the
states from which a move may start, so that an illegal one changes no row.
"""

from enum import StrEnum


class Acceptance(StrEnum):
    """What became of an invoice that was sent in."""

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
    """Whether the duty to bring an event to its URL still stands."""

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

`received` to `paid` is a step of its own: a collector that sends and is paid at once writes
once. `sent` to `sent` is a collector that wants to be asked again. A failure before anything was
sent is an invoice that could not be sent at all.
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
