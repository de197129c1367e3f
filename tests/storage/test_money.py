"""Checkouts, payments and refunds on both kinds of databases, also at the same moment."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.invoice import Step
from service.domain.payment import (
    Checkout,
    CheckoutStatus,
    Decline,
    NothingLeft,
    Payment,
    PaymentKind,
    Receipt,
    RefundStatus,
    SettledRefund,
    Withdrawal,
)
from service.domain.states import InvoiceStatus
from service.errors import Conflict
from service.storage.invoices import as_invoice
from service.storage.payments import RefundRequest
from service.storage.tables import deliveries, processes
from service.storage.webhooks import Webhook
from tests.clock import START
from tests.rows import a_delivery, an_event, an_invoice, rows_of

MINUTE = timedelta(minutes=1)
TOTAL = 9_900


@pytest.fixture
async def invoice(store):
    """An invoice that nobody has paid."""
    await store.accept(an_invoice("1", total_minor=TOTAL))
    return as_invoice(await store.history.find_invoice("dev", "1"))


def a_checkout(invoice, id_):
    """A checkout that is due at once."""
    return Checkout(
        account_id="dev",
        id=id_,
        invoice_key=invoice.key,
        created_at=START,
        expires_at=START + 24 * 60 * MINUTE,
        due_at=START,
    )


def a_receipt(invoice, checkout, status=InvoiceStatus.PAID):
    """The report that *checkout* was paid."""
    payment = Payment(
        account_id="dev",
        id=checkout.id,
        invoice_key=invoice.key,
        kind=PaymentKind.TOTAL if status else PaymentKind.OVERPAYMENT,
        amount_minor=TOTAL,
        payment_intent="pi_1",
        received_at=START,
    )
    return Step(
        invoice=invoice,
        status=status,
        event=an_event(delivery_id=None) if status else None,
        is_report=True,
        overpaid_minor=0 if status else TOTAL,
        settlement=Receipt(payment),
    )


def asked(invoice, key, minor=None):
    """A request for a refund."""
    return RefundRequest(
        account_id="dev",
        invoice_key=invoice.key,
        id=f"ref_{key}",
        idempotency_key=key,
        asked_minor=minor,
        now=START,
    )


async def paid(store, invoice):
    """Have *invoice* paid."""
    checkout = await store.money.begin_checkout(a_checkout(invoice, "c1"))
    assert await store.report(a_receipt(invoice, checkout), []) == []


async def test_an_invoice_has_one_checkout_at_a_time(store, invoice):
    """Of many clicks at the same moment, one begins a checkout, and all get that one."""
    new = [a_checkout(invoice, f"c{number}") for number in range(8)]

    begun = await asyncio.gather(*map(store.money.begin_checkout, new))

    assert 1 == len({one.id for one in begun})
    await store.money.close_checkout(begun[0])
    assert "c9" == (await store.money.begin_checkout(a_checkout(invoice, "c9"))).id


async def test_a_payment_is_recorded_once(store, invoice):
    """Of many that learn of a payment at the same moment, one reports it."""
    checkout = await store.money.begin_checkout(a_checkout(invoice, "c1"))
    reports = [store.report(a_receipt(invoice, checkout), []) for _ in range(6)]
    reports += [store.report(a_receipt(invoice, checkout, status=None), []) for _ in range(2)]

    done = await asyncio.gather(*reports)

    assert 1 == sum(one is not None for one in done)
    row = await store.history.find_invoice("dev", "1")
    told = row["status"] == "paid"
    assert (told, len(row["events"]), row["overpaid_minor"]) in {(True, 1, None), (False, 0, TOTAL)}
    assert await store.money.active_checkout("dev", invoice.key) is None


async def test_a_payment_of_a_disputed_invoice_is_none_of_its_total(store, invoice):
    """A dispute that is won makes an invoice `paid` again; a second payment does not."""
    given_up = await store.money.begin_checkout(a_checkout(invoice, "c1"))
    await store.money.close_checkout(given_up)
    checkout = await store.money.begin_checkout(a_checkout(invoice, "c2"))
    await store.report(a_receipt(invoice, checkout), [])
    disputed = Step(invoice=invoice, status=InvoiceStatus.DISPUTED, is_report=True)
    assert [] == await store.report(disputed, [])

    assert await store.report(a_receipt(invoice, given_up), []) is None
    assert [] == await store.report(a_receipt(invoice, given_up, status=None), [])
    row = await store.history.find_invoice("dev", "1")
    assert ("disputed", 1, TOTAL) == (row["status"], len(row["events"]), row["overpaid_minor"])


async def test_the_deliveries_of_a_payment_have_the_lease_of_the_process(store, database, invoice):
    """The process that records a payment is the holder: its leases end with it."""
    await store.beat(START)
    checkout = await store.money.begin_checkout(a_checkout(invoice, "c1"))
    step = replace(a_receipt(invoice, checkout), event=an_event())

    (delivery,) = await store.report(step, [a_delivery(step, leased_until=START + MINUTE)])

    (process,) = await rows_of(database, processes)
    (row,) = await rows_of(database, deliveries)
    assert (delivery.id, process["id"]) == (row["id"], row["leased_by"])


async def test_void_and_checkout_exclude_each_other(store, invoice):
    """An invoice that is void has no checkout, and one that has a checkout is not void."""
    event = an_event("Invoice void", paid=False, delivery_id=None)
    void = Step(
        invoice=invoice,
        status=InvoiceStatus.VOID,
        event=event,
        is_report=True,
        settlement=Withdrawal(),
    )

    checkout, is_void = await asyncio.gather(
        store.money.begin_checkout(a_checkout(invoice, "c1")), store.report(void, [])
    )

    assert (checkout is None) == (is_void is not None)


async def test_checkouts_are_leased_fairly(store, invoice):
    """A checkout is leased once; one of another account does not wait for a hundred."""
    for number in range(40):
        one = an_invoice(f"a{number}")
        await store.accept(one)
        await store.money.begin_checkout(a_checkout(one, f"a{number}"))
    other = an_invoice("1", account_id="other")
    await store.accept(other)
    due = Checkout(
        **{
            **{name: getattr(a_checkout(other, "o1"), name) for name in Checkout.__slots__},
            "account_id": "other",
        }
    )
    await store.money.begin_checkout(due)

    first = await store.money.lease_checkouts(START, START + MINUTE, 10)
    second = await store.money.lease_checkouts(START, START + MINUTE, 100)

    assert "other" in {one.checkout.account_id for one in first}
    leased = [one.checkout.id for one in (*first, *second)]
    assert len(leased) == len(set(leased))
    assert START + MINUTE == first[0].checkout.due_at


async def test_what_became_due_meanwhile_stays_due(store, invoice):
    """A webhook during a look is not forgotten when the look ends."""
    await store.money.begin_checkout(a_checkout(invoice, "c1"))
    (due,) = await store.money.lease_checkouts(START, START + MINUTE, 10)
    webhook = Webhook(id="evt_1", type="x", checkout_id="c1")

    assert await store.money.take_webhook("dev", webhook, START)
    assert not await store.money.take_webhook("dev", webhook, START)
    await store.money.checkout_looked_at(due.checkout, START + 60 * MINUTE, None)

    assert 1 == len(await store.money.lease_checkouts(START, START + MINUTE, 10))


async def test_a_decline_is_recorded_once(store, invoice):
    """The second decline of a checkout changes nothing."""
    checkout = await store.money.begin_checkout(a_checkout(invoice, "c1"))
    step = Step(
        invoice=invoice,
        status=InvoiceStatus.PAYMENT_FAILED,
        event=an_event("Payment failed", paid=False, delivery_id=None),
        is_report=True,
        settlement=Decline(checkout),
    )

    assert [[], None] == [await store.report(step, []) for _ in range(2)]
    assert CheckoutStatus.CREATING is (await store.money.active_checkout("dev", invoice.key)).status


async def test_refunds_at_the_same_moment_give_back_no_more_than_there_is(store, invoice):
    """Of refunds that ask for more than is left together, some are refused."""
    await paid(store, invoice)
    requests = [asked(invoice, f"k{number}", 4_000) for number in range(4)]

    done = await asyncio.gather(
        *(store.money.request_refund(one, None) for one in requests), return_exceptions=True
    )

    assert [1_900, 1_900] == [one.left_minor for one in done if isinstance(one, NothingLeft)]


async def test_of_payments_of_one_instant_that_with_the_lowest_id_is_given_back_first(
    store, invoice
):
    """The refund and its repetition name the same parts in the same order."""
    given_up = [a_checkout(invoice, id_) for id_ in ("c4", "c2", "c3")]
    for one in given_up:
        await store.money.close_checkout(await store.money.begin_checkout(one))
    await paid(store, invoice)
    for one in given_up:
        assert [] == await store.report(a_receipt(invoice, one, status=None), [])

    parts = await store.money.request_refund(asked(invoice, "k1", 3 * TOTAL), None)

    assert ["c2", "c3", "c4"] == [one.payment_id for one in parts]
    assert parts == await store.money.request_refund(asked(invoice, "k1", 3 * TOTAL), None)


async def test_a_refund_is_settled_once(store, invoice):
    """Of two that learn of the same refund, one reports it; both parts add up."""
    await paid(store, invoice)
    (part,) = await store.money.request_refund(asked(invoice, "k1", 900), None)
    assert [part] == await store.money.request_refund(asked(invoice, "k1", 900), None)
    with pytest.raises(Conflict):
        await store.money.request_refund(asked(invoice, "k1"), None)
    (due,) = await store.money.lease_payments(START, START + MINUTE, 10)
    values = {name: getattr(part, name) for name in type(part).__slots__}
    settled = type(part)(**{**values, "status": RefundStatus.SUCCEEDED, "refund_id": "re_1"})
    step = Step(
        invoice=invoice,
        status=InvoiceStatus.PARTIALLY_REFUNDED,
        event=an_event("Partly refunded", delivery_id=None),
        is_report=True,
        refunded_minor=900,
        settlement=SettledRefund(settled, 0),
    )

    done = await asyncio.gather(*(store.report(step, []) for _ in range(3)))

    assert [part] == list(due.refunds)
    assert 1 == sum(one is not None for one in done)
    assert 900 == (await store.history.find_invoice("dev", "1"))["amount_refunded_minor"]
    await store.money.payment_looked_at(due.payment, None, None)
    assert [] == await store.money.lease_payments(START, START + MINUTE, 10)


async def test_a_webhook_that_comes_before_its_payment_is_remembered(store, invoice):
    """A dispute that is told before the payment was noticed makes the payment due."""
    webhook = Webhook(id="evt_1", type="x", payment_intent="pi_1", dispute_id="du_1")
    await store.money.take_webhook("dev", webhook, START)

    await paid(store, invoice)

    (due,) = await store.money.lease_payments(START, START + MINUTE, 10)
    assert "du_1" == due.payment.dispute_id


async def test_old_webhooks_are_removed(store):
    """What was taken long ago is forgotten."""
    await store.money.take_webhook("dev", Webhook(id="evt_1", type="x"), START)

    assert not await store.money.remove_webhooks(START + MINUTE)
    assert await store.money.take_webhook("dev", Webhook(id="evt_1", type="x"), START)
