from datetime import timedelta

import pytest

from service.collection.collector import Progress
from service.collection.sandbox import PENDING_FACTOR, Sandbox, tag_of
from service.domain.states import InvoiceStatus
from tests import rows

DELAY = timedelta(milliseconds=500)
PAID = Progress(InvoiceStatus.PAID, "Invoice paid")


def an_invoice(customer, customer_email=None):
    """A leased invoice to *customer*."""
    return rows.an_invoice(customer=customer, customer_email=customer_email)


@pytest.mark.parametrize(
    ("tag", "customer", "customer_email"),
    [
        ("", "Mr. Richie Rich", None),
        ("declined", "Acme+declined", None),
        ("declined", "Acme+declined Inc.", None),
        ("declined", "jo+declined@example.com", None),
        ("declined", "Jo", "jo+declined@example.com"),
        ("insufficient_funds", "Acme+insufficient_funds", "jo+declined@example.com"),
        ("never", "A+B Ltd. +never", None),
        ("", "A + B", None),
        ("", "A+", None),
        ("", "Acme+DECLINED", None),
        ("", "Acme+declined!", None),
        ("whatever", "Acme+whatever", None),
    ],
)
def test_the_tag_stands_behind_a_plus(tag, customer, customer_email):
    """A tag is the word behind a plus in the name or the address, and the name counts first."""
    assert tag == tag_of(an_invoice(customer, customer_email))


@pytest.mark.parametrize("customer", ["Acme", "Acme+whatever", "Acme+DECLINED"])
async def test_an_invoice_without_a_known_tag_is_paid(customer):
    """Sent at once, paid after the delay."""
    invoice = an_invoice(customer)

    assert Progress(InvoiceStatus.SENT, None, DELAY) == await Sandbox(DELAY).send(invoice)
    assert PAID == await Sandbox(DELAY).collect(invoice)


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        ("declined", "declined"),
        ("insufficient funds", "insufficient_funds"),
        ("expired", "expired_card"),
        ("processing", "processing_error"),
    ],
)
async def test_a_failing_tag_fails_for_its_reason(words, tag):
    """The invoice is sent, and the payment fails with the reason that was chosen."""
    invoice = an_invoice(f"Acme+{tag}")

    assert InvoiceStatus.SENT is (await Sandbox(DELAY).send(invoice)).status
    progress = await Sandbox(DELAY).collect(invoice)
    assert (InvoiceStatus.PAYMENT_FAILED, None) == (progress.status, progress.look_again_after)
    assert progress.description.startswith("Payment failed: ")
    assert words in progress.description


async def test_pending_takes_ten_times_as_long():
    """A slow payment is paid in the end."""
    progress = await Sandbox(DELAY).send(an_invoice("Acme+pending"))

    assert Progress(InvoiceStatus.SENT, None, 10 * DELAY) == progress
    assert 10 == PENDING_FACTOR
    assert PAID == await Sandbox(DELAY).collect(an_invoice("Acme+pending"))


async def test_never_is_not_looked_at_again():
    """An invoice that nobody pays stays sent."""
    progress = await Sandbox(DELAY).send(an_invoice("Acme+never"))

    assert Progress(InvoiceStatus.SENT, None, None) == progress


async def test_undeliverable_cannot_be_sent():
    """An invoice that does not reach the customer fails at once, and says so."""
    progress = await Sandbox(DELAY).send(an_invoice("Acme+undeliverable"))

    assert (InvoiceStatus.PAYMENT_FAILED, None) == (progress.status, progress.look_again_after)
    assert "could not be sent" in progress.description
