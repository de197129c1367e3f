from datetime import timedelta

import pytest

from service.collection.collector import Progress
from service.collection.sandbox import PENDING_FACTOR, Sandbox, tag_of
from service.domain.states import InvoiceStatus
from tests import rows

DELAY = timedelta(milliseconds=500)
PAID = Progress(InvoiceStatus.PAID, "Invoice paid")


def an_invoice(customer, customer_email=None):
    """A leased invoice for *customer*."""
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
def test_the_tag_follows_a_plus(tag, customer, customer_email):
    """A tag is the word after a plus in the name or the e-mail address; the name has precedence."""
    assert tag == tag_of(an_invoice(customer, customer_email))


@pytest.mark.parametrize("customer", ["Acme", "Acme+whatever", "Acme+DECLINED"])
async def test_an_invoice_without_a_known_tag_is_paid(customer):
    """An invoice without a known tag is sent at once and paid after the delay."""
    invoice = an_invoice(customer)

    assert Progress(InvoiceStatus.SENT, None, DELAY) == await Sandbox(DELAY).begin(invoice)
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
    """The invoice is sent, and its payment fails with the reason of the tag."""
    invoice = an_invoice(f"Acme+{tag}")

    assert InvoiceStatus.SENT is (await Sandbox(DELAY).begin(invoice)).status
    progress = await Sandbox(DELAY).collect(invoice)
    assert (InvoiceStatus.PAYMENT_FAILED, None) == (progress.status, progress.look_again_after)
    assert progress.description.startswith("Payment failed: ")
    assert words in progress.description


async def test_pending_takes_ten_times_as_long():
    """With the tag `pending`, an invoice is paid after ten times the delay."""
    progress = await Sandbox(DELAY).begin(an_invoice("Acme+pending"))

    assert Progress(InvoiceStatus.SENT, None, 10 * DELAY) == progress
    assert 10 == PENDING_FACTOR
    assert PAID == await Sandbox(DELAY).collect(an_invoice("Acme+pending"))


async def test_never_is_not_due_again():
    """With the tag `never`, an invoice stays sent."""
    progress = await Sandbox(DELAY).begin(an_invoice("Acme+never"))

    assert Progress(InvoiceStatus.SENT, None, None) == progress


async def test_undeliverable_cannot_be_sent():
    """With the tag `undeliverable`, an invoice is undeliverable at once, and its event says so."""
    progress = await Sandbox(DELAY).begin(an_invoice("Acme+undeliverable"))

    assert (InvoiceStatus.UNDELIVERABLE, None) == (progress.status, progress.look_again_after)
    assert "could not be sent" in progress.description
