"""How an invoice is paid at Stripe: sessions that are reused, replaced, found and given up."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from service.collection.stripe.locales import stripe_locale
from service.domain.states import InvoiceStatus
from service.errors import CollectorUnavailable, Conflict
from tests.stripe.fake import Fault
from tests.stripe.world import TOTAL

HOUR = timedelta(hours=1)


async def url_of(world):
    """Where the customer pays the invoice."""
    invoice = await world.process.invoice("i0")
    return await world.process.dependencies.stripe.collector.checkout(invoice, "")


async def shown(world):
    """The status of the invoice, and its events."""
    row = await world.process.store.history.find_invoice("dev", "i0")
    return row["status"], [(one["description"], one["paid"]) for one in row["events"]]


def session_of(url):
    """The session that is paid at *url*."""
    return url.rpartition("/")[2]


async def test_a_session_is_made_when_it_is_wanted(world):
    """An invoice has no session until its customer wants to pay; it then asks for the total."""
    assert {} == world.fake.sessions

    url = await url_of(world)

    (session,) = world.fake.sessions.values()
    assert url == session["url"]
    assert (TOTAL, "usd") == (session["amount_total"], session["currency"])
    assert "i0" == session["metadata"]["invoice_id"]


async def test_a_session_is_reused_while_it_lives(world):
    """Every click leads to the same session, for nearly a day."""
    first = await url_of(world)
    world.clock.advance(23 * HOUR)

    assert first == await url_of(world)
    assert 1 == len(world.fake.sessions)


async def test_a_session_that_ends_soon_is_expired_and_replaced(world):
    """A customer gets enough time; the old session cannot be paid any more."""
    first = await url_of(world)
    world.clock.advance(23 * HOUR + 25 * HOUR / 60)

    second = await url_of(world)

    assert first != second
    assert "expired" == world.fake.sessions[session_of(first)]["status"]
    assert [session_of(second)] == [one["id"] for one in world.fake.payable()]


async def test_a_session_that_has_expired_is_replaced(world):
    """After its day, the next click makes a new session."""
    first = await url_of(world)
    world.clock.advance(48 * HOUR)

    assert first != await url_of(world)
    assert ("received", []) == await shown(world)


async def test_a_payment_is_found_without_any_webhook(world):
    """The poll finds a payment, and tells it once."""
    world.fake.pay(session_of(await url_of(world)))
    # INVOICES_STRIPE_POLL_INTERVAL
    world.clock.advance(timedelta(seconds=60))

    for _ in range(2):
        await world.poll(world.process)

    assert ("paid", [("Invoice paid", True)]) == await shown(world)


async def test_a_paid_invoice_cannot_be_paid_again(world):
    """A click on an invoice that was paid a moment ago notices the payment."""
    world.fake.pay(session_of(await url_of(world)))

    with pytest.raises(Conflict, match="cannot be paid"):
        await url_of(world)

    assert ("paid", [("Invoice paid", True)]) == await shown(world)


async def test_money_that_is_on_its_way_cannot_be_paid_again(world):
    """A debit takes days; meanwhile there is no other session, and the invoice cannot be voided."""
    session_id = session_of(await url_of(world))
    world.fake.pay(session_id, is_late=True)

    with pytest.raises(Conflict, match="being processed"):
        await url_of(world)
    with pytest.raises(Conflict, match="being processed"):
        await world.process.dependencies.reversals.void(await world.process.invoice("i0"))

    world.fake.settle(session_id, is_paid=False)
    world.clock.advance(HOUR)
    await world.poll(world.process)
    failed = ("payment_failed", [("Payment failed: The debit was returned.", False)])
    assert failed == await shown(world)
    world.fake.pay(session_of(await url_of(world)))
    world.clock.advance(HOUR)
    await world.poll(world.process)
    assert "paid" == (await shown(world))[0]


async def test_a_decline_is_told_once_for_a_session(world):
    """However often the card is declined, there is one event; then the customer pays."""
    session_id = session_of(await url_of(world))
    for _ in range(3):
        world.fake.decline(session_id)
        world.clock.advance(HOUR)
        await world.poll(world.process)
    world.fake.pay(session_id)
    world.clock.advance(HOUR)
    await world.poll(world.process)

    declined = ("Payment failed: Your card was declined.", False)
    assert ("paid", [declined, ("Invoice paid", True)]) == await shown(world)


async def test_another_amount_is_a_mismatch(world, caplog):
    """A payment of another amount is no `paid`: it is shown, logged, and nothing more is taken."""
    world.fake.pay(session_of(await url_of(world)), amount=TOTAL - 1)
    world.clock.advance(HOUR)
    with caplog.at_level(logging.ERROR):
        await world.poll(world.process)

    row = await world.process.store.history.find_invoice("dev", "i0")
    assert row["mismatch"]
    assert ("received", []) == await shown(world)
    assert "payment.mismatched" in caplog.text
    with pytest.raises(Conflict):
        await url_of(world)


async def test_money_for_a_session_that_was_given_up_is_an_overpayment(world):
    """Money that comes twice is shown and can be given back; `paid` is not told again."""
    first = session_of(await url_of(world))
    world.fake.hidden = {first}
    world.clock.advance(24 * HOUR)
    await world.poll(world.process)
    world.fake.pay(session_of(await url_of(world)))
    world.fake.sessions[first]["status"] = "open"
    world.fake.sessions[first]["expires_at"] += 10**6
    world.fake.pay(first)
    world.fake.hidden = set()
    for one in world.fake.events:
        await world._deliver(world.process, one)
    await world.poll(world.process)

    row = await world.process.store.history.find_invoice("dev", "i0")
    assert TOTAL == row["overpaid_minor"]
    assert ("paid", [("Invoice paid", True)]) == await shown(world)
    invoice = await world.process.invoice("i0")
    await world.process.dependencies.reversals.refund(invoice, TOTAL, "key")
    await world.look(world.process)
    row = await world.process.store.history.find_invoice("dev", "i0")
    assert (0, TOTAL) == (row["overpaid_minor"], row["amount_refunded_minor"])
    assert ("paid", [("Invoice paid", True)]) == await shown(world)


@pytest.mark.parametrize("fault", [Fault.CUT_AFTER, Fault.FAILS_AFTER])
async def test_a_session_whose_answer_was_lost_is_found_again(world, fault):
    """Whatever happens to the answer, there is one session."""
    # The library tries twice by itself.
    world.fake.faults.extend([fault, fault])
    for _ in range(3):
        try:
            await url_of(world)
        except CollectorUnavailable:
            world.fake.faults.clear()

    assert 1 == len(world.fake.sessions)


async def test_a_stored_failure_is_not_repeated_for_ever(world):
    """After a 500 that Stripe stores for a key, another key is used at once."""
    world.fake.faults.append(Fault.FAILS_BEFORE)

    assert await url_of(world)

    keys = {
        headers["Idempotency-Key"] for method, _, headers in world.fake.requests if method == "POST"
    }
    assert 2 == len(keys)


async def test_nobody_waits_for_a_stripe_that_does_not_answer(world):
    """While Stripe is away, customers are told so; then the same session goes on."""
    first = await url_of(world)
    world.fake.faults.extend([Fault.BUSY] * 4)
    assert first == await url_of(world)
    world.fake.faults.clear()
    world.clock.advance(48 * HOUR)
    world.fake.faults.extend([Fault.BUSY] * 4)

    with pytest.raises(CollectorUnavailable):
        await url_of(world)


async def test_void_expires_the_session_first(world):
    """A void invoice has no session that can be paid, and stays void."""
    session_id = session_of(await url_of(world))
    for _ in range(2):
        await world.process.dependencies.reversals.void(await world.process.invoice("i0"))

    assert "expired" == world.fake.sessions[session_id]["status"]
    assert ("void", [("Invoice void", False)]) == await shown(world)
    with pytest.raises(Conflict):
        await url_of(world)


async def test_void_of_an_invoice_that_was_paid_meanwhile_is_refused(world):
    """The payment that nobody had noticed yet is noticed, and the invoice is paid."""
    world.fake.pay(session_of(await url_of(world)))

    with pytest.raises(Conflict, match="paid"):
        await world.process.dependencies.reversals.void(await world.process.invoice("i0"))

    assert ("paid", [("Invoice paid", True)]) == await shown(world)


async def test_an_account_without_a_key_is_refused(world):
    """Without a key of Stripe, an invoice of the account is not accepted."""
    invoice = await world.process.invoice("i0")
    other = type(invoice)(**{**as_dict(invoice), "account_id": "acct_other"})

    reason = await world.process.dependencies.stripe.check(other)

    assert "no key of Stripe" in reason
    assert await world.process.dependencies.stripe.check(invoice) is None


def as_dict(invoice):
    """The fields of an invoice."""
    return {name: getattr(invoice, name) for name in type(invoice).__dataclass_fields__}


async def test_the_collector_waits_for_the_customer(world):
    """The loop of collection does nothing with Stripe: customers and the poll do."""
    invoice = await world.process.invoice("i0")
    collector = world.process.dependencies.stripe.collector

    progress = await collector.begin(invoice)

    assert (InvoiceStatus.SENT, None, None) == (
        progress.status,
        progress.description,
        progress.look_again_after,
    )
    assert progress == await collector.collect(invoice)


@pytest.mark.parametrize(
    ("locale", "expected"),
    [
        (None, "en"),
        ("de-CH", "de"),
        ("en-GB", "en-GB"),
        ("pt-BR", "pt-BR"),
        ("nn", "nb"),
        ("zh-Hant-TW", "zh-TW"),
        ("sw", "auto"),
    ],
)
def test_the_page_of_stripe_speaks_the_nearest_language(locale, expected):
    """A locale that Stripe does not know becomes its language, or that of the browser."""
    assert expected == stripe_locale(locale)
