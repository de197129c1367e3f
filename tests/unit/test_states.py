import pytest

from service.domain.states import (
    DELIVERY_MOVES,
    INVOICE_MOVES,
    SETTLED,
    DeliveryStatus,
    InvoiceStatus,
)


@pytest.mark.parametrize(
    ("statuses", "moves"),
    [(InvoiceStatus, INVOICE_MOVES), (DeliveryStatus, DELIVERY_MOVES)],
    ids=["invoice", "delivery"],
)
def test_every_state_has_its_moves(statuses, moves):
    """The table has the next states of each state, and contains only known states."""
    assert set(statuses) == set(moves)
    assert set(statuses) >= set().union(*moves.values())


@pytest.mark.parametrize(
    ("first", "moves"),
    [(InvoiceStatus.RECEIVED, INVOICE_MOVES), (DeliveryStatus.PENDING, DELIVERY_MOVES)],
    ids=["invoice", "delivery"],
)
def test_every_state_can_be_reached(first, moves):
    """For every state the table has a move that leads to it."""
    reached, frontier = {first}, {first}
    while frontier:
        frontier = set().union(*(moves[status] for status in frontier)) - reached
        reached |= frontier

    assert set(moves) == reached


@pytest.mark.parametrize("status", [InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED])
def test_a_collected_invoice_is_final(status):
    """Paid and failed invoices never change their state."""
    assert frozenset() == INVOICE_MOVES[status]


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DEAD])
def test_a_settled_delivery_can_only_be_redelivered(status):
    """No attempt changes a delivered or dead delivery; a redelivery makes it pending."""
    assert {DeliveryStatus.PENDING} == DELIVERY_MOVES[status]


def test_settled_states_are_the_ends_of_attempts():
    """Retention removes deliveries that wait for no attempt."""
    assert DELIVERY_MOVES[DeliveryStatus.PENDING] - {DeliveryStatus.PENDING} == SETTLED


def test_a_failed_attempt_leaves_a_delivery_pending():
    """A retry is a move from pending to pending."""
    assert DeliveryStatus.PENDING in DELIVERY_MOVES[DeliveryStatus.PENDING]
