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
def test_every_status_has_its_moves(statuses, moves):
    """The table says of each state where it may lead, and names no other states."""
    assert set(statuses) == set(moves)
    assert set(statuses) >= set().union(*moves.values())


@pytest.mark.parametrize(
    ("first", "moves"),
    [(InvoiceStatus.RECEIVED, INVOICE_MOVES), (DeliveryStatus.PENDING, DELIVERY_MOVES)],
    ids=["invoice", "delivery"],
)
def test_every_status_can_be_reached(first, moves):
    """No state stands in a table that nothing can come into."""
    reached, frontier = {first}, {first}
    while frontier:
        frontier = set().union(*(moves[status] for status in frontier)) - reached
        reached |= frontier

    assert set(moves) == reached


@pytest.mark.parametrize("status", [InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED])
def test_an_invoice_that_is_collected_stays_as_it_is(status):
    """Paid and failed are final."""
    assert frozenset() == INVOICE_MOVES[status]


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DEAD])
def test_a_delivery_that_is_settled_is_only_redelivered(status):
    """No attempt changes what is delivered or dead; a redelivery makes it pending again."""
    assert {DeliveryStatus.PENDING} == DELIVERY_MOVES[status]


def test_settled_is_every_state_that_an_attempt_leads_to_and_not_from():
    """Retention removes what waits for no attempt."""
    assert DELIVERY_MOVES[DeliveryStatus.PENDING] - {DeliveryStatus.PENDING} == SETTLED


def test_a_failed_attempt_leaves_a_delivery_pending():
    """A retry is a move from pending to pending."""
    assert DeliveryStatus.PENDING in DELIVERY_MOVES[DeliveryStatus.PENDING]
