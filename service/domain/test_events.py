"""
Test events: what a receiver is sent to try it, without an invoice.

A test event has a delivery and nothing else: no invoice, no event of one. Its delivery has an
invoice key of its own, which is also the `invoice_id` that the receiver is sent, and from which the
rest follows that other deliveries have from their invoice and its event.
"""

from service.domain.ids import new_id

ID_PREFIX = "test_"
"""What the `invoice_id` of a test event begins with; the key of an invoice does not."""

DESCRIPTION = "Test event"
IS_PAID = False
"""A receiver that does not look at `test` must not take an invoice for paid."""

COLLECTOR = "test"


def new_test_id() -> str:
    """The `invoice_id` of a new test event, which is also its key."""
    return ID_PREFIX + new_id()
