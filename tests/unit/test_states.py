import pytest

from service.domain.states import (
    COLLECTING,
    DELIVERY_MOVES,
    INVOICE_MOVES,
    PAYABLE,
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


def test_money_that_came_does_not_become_money_that_may_come():
    """No move leads from a paid invoice, or what follows from it, to one that is not paid yet."""
    reached, frontier = set(), {InvoiceStatus.PAID}
    while frontier:
        reached |= frontier
        frontier = set().union(*(INVOICE_MOVES[status] for status in frontier)) - reached

    assert {
        InvoiceStatus.PAID,
        InvoiceStatus.PARTIALLY_REFUNDED,
        InvoiceStatus.REFUNDED,
        InvoiceStatus.DISPUTED,
    } == reached


def test_a_void_invoice_is_final():
    """Nothing becomes of a void invoice, whatever money comes for it."""
    assert frozenset() == INVOICE_MOVES[InvoiceStatus.VOID]


def test_an_invoice_can_be_paid_as_long_as_it_can_be_voided():
    """The customer may pay in exactly the states in which the API user may still void."""
    may_be_paid = {status for status, moves in INVOICE_MOVES.items() if InvoiceStatus.PAID in moves}

    assert may_be_paid - {InvoiceStatus.DISPUTED} == PAYABLE
    assert set(COLLECTING) < PAYABLE


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
