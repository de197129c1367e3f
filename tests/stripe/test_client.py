"""The calls to Stripe: what is sent, and what becomes of each way to fail."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientTimeout

from service.collection.stripe import client
from service.collection.stripe.calls import (
    AnswerStored,
    CallRefused,
    NewSession,
    NotAnswered,
    SessionState,
    StripeRefund,
)
from service.collection.stripe.client import StripeHttpCalls, is_signed, stripe_connections
from service.domain.payment import RefundStatus
from tests.stripe.fake import API_KEY, SECRET, Fault
from tests.stripe.server import served

WANTED = NewSession(
    reference="01a2",
    invoice_id="2expen51ve",
    title="Expensive invoice",
    amount=999_900,
    currency="USD",
    locale="de",
    return_url="https://invoices.example/pay/token",
    expires_at=datetime.now(UTC) + timedelta(hours=23),
)


async def test_stripe_takes_every_call(judged_calls, fake):
    """Stripe's own schema allows what the service sends, in every call that it makes."""
    calls = judged_calls
    session = await calls.create_session(WANTED, "key-1")
    await calls.read_session(session.id)
    await calls.find_session("01a2", WANTED.expires_at - timedelta(days=1))
    fake.pay(session.id)
    paid = await calls.read_session(session.id)
    await calls.create_refund(paid.payment_intent, 900, "ref-1", "key-2")
    await calls.refunds_of(paid.payment_intent)
    await calls.disputes_of(paid.payment_intent)
    other = await calls.create_session(replace(WANTED, reference="01a3"), "key-3")
    await calls.expire_session(other.id)

    assert SessionState.PAID is paid.state


@pytest.mark.parametrize("wrong", [{"locale": "tlh"}, {"amount": "much"}])
async def test_stripe_mock_judges(judged_calls, wrong):
    """The judge refuses parameters that Stripe's schema does not allow, so that it proves some."""
    with pytest.raises(CallRefused):
        await judged_calls.create_session(replace(WANTED, **wrong), "key-1")


async def test_a_session_is_created_once_for_a_key(calls, fake):
    """The same call with the same key gives the same session."""
    first = await calls.create_session(WANTED, "key-1")
    second = await calls.create_session(WANTED, "key-1")

    assert first == second
    assert [first.id] == list(fake.sessions)
    assert "01a2" == fake.sessions[first.id]["client_reference_id"]
    assert (SessionState.OPEN, 999_900, "USD") == (first.state, first.amount, first.currency)
    assert first.url.startswith("https://")


async def test_a_session_tells_what_became_of_it(calls, fake):
    """Open, declined, processing, failed, paid and expired sessions are told apart."""
    ids = []
    for number in range(5):
        wanted = replace(WANTED, reference=f"r{number}")
        ids.append((await calls.create_session(wanted, f"key-{number}")).id)
    fake.decline(ids[0])
    fake.pay(ids[1], is_late=True)
    fake.pay(ids[2], is_late=True)
    fake.settle(ids[2], is_paid=False)
    fake.pay(ids[3])
    await calls.expire_session(ids[4])

    found = [await calls.read_session(one) for one in ids]

    states = [one.state.value for one in found]
    assert ["open", "processing", "failed", "paid", "expired"] == states
    assert "Your card was declined." == found[0].decline
    assert "The debit was returned." == found[2].decline
    assert ["https", None] == [found[0].url[:5], found[3].url]


async def test_a_session_is_found_by_its_reference(calls, fake):
    """A session is found although others were created since, on whatever page of the list."""
    wanted = await calls.create_session(WANTED, "key-1")
    for number in range(230):
        fake.sessions[f"cs_{number}"] = {
            **fake.sessions[wanted.id],
            "id": f"cs_{number}",
            "client_reference_id": f"other-{number}",
        }
    since = datetime.now(UTC) - timedelta(hours=1)

    assert wanted == await calls.find_session("01a2", since)
    assert await calls.find_session("none", since) is None


async def test_refunds_are_found_with_their_references(calls, fake):
    """Every refund of a payment is told, with the reference of those that were made here."""
    session = await calls.create_session(WANTED, "key-1")
    fake.pay(session.id)
    intent = (await calls.read_session(session.id)).payment_intent

    made = await calls.create_refund(intent, 500, "ref-1", "key-2")
    fake.refund_by_hand(intent, 200)

    by_hand = StripeRefund(id="re_2", reference=None, amount=200, status=RefundStatus.SUCCEEDED)
    assert RefundStatus.SUCCEEDED is made.status
    assert [by_hand, made] == await calls.refunds_of(intent)


async def test_a_dispute_is_won_or_lost_or_open(calls, fake):
    """A dispute is open until the bank has decided."""
    session = await calls.create_session(WANTED, "key-1")
    fake.pay(session.id)
    intent = (await calls.read_session(session.id)).payment_intent
    id_ = fake.dispute(intent)

    assert [None] == await calls.disputes_of(intent)
    fake.close_dispute(id_, is_won=True)
    assert [True] == await calls.disputes_of(intent)
    fake.close_dispute(id_, is_won=False)
    assert [False] == await calls.disputes_of(intent)


# Failures


async def test_a_lost_connection_is_not_answered(calls, fake):
    """Where a connection was lost, the result is not known; the library has tried it twice."""
    fake.faults.extend([Fault.CUT_AFTER, Fault.CUT_BEFORE])

    with pytest.raises(NotAnswered):
        await calls.create_session(WANTED, "key-1")

    assert 1 == len(fake.sessions)
    assert (await calls.create_session(WANTED, "key-1")).id in fake.sessions


async def test_a_stored_failure_is_told_apart(calls, fake):
    """A 500 is the answer to its key from then on, and another key gets another answer."""
    fake.faults.append(Fault.FAILS_AFTER)

    for _ in range(2):
        with pytest.raises(AnswerStored):
            await calls.create_session(WANTED, "key-1")

    assert 1 == len(fake.sessions)
    assert await calls.create_session(WANTED, "key-2")


async def test_a_key_that_was_used_otherwise_is_as_good_as_a_stored_failure(calls):
    """A key with other parameters will never work: another key is needed."""
    await calls.create_session(WANTED, "key-1")

    with pytest.raises(AnswerStored):
        await calls.create_session(replace(WANTED, amount=1), "key-1")


async def test_too_many_requests_are_not_answered(calls, fake):
    """A 429 is tried again later."""
    fake.faults.append(Fault.BUSY)

    with pytest.raises(NotAnswered):
        await calls.create_session(WANTED, "key-1")


async def test_a_refused_key_can_be_replaced(calls, fake):
    """A key that Stripe does not accept is a matter of the operator, and nothing is given up."""
    fake.api_keys.clear()

    with pytest.raises(NotAnswered) as refusal:
        await calls.create_session(WANTED, "key-1")

    assert refusal.value.is_of_key
    assert API_KEY not in str(refusal.value)


async def test_a_refusal_has_its_code(calls):
    """What Stripe will never do is told apart, with its code."""
    with pytest.raises(CallRefused) as refusal:
        await calls.read_session("cs_none")

    assert "resource_missing" == refusal.value.code


async def test_a_failure_of_a_gateway_is_not_answered(fake):
    """A 5xx that is not Stripe's own says nothing about the call, which may still be at work."""
    fake.answer = lambda *_: (502, "<html>Bad Gateway</html>")
    async with served(fake) as url, stripe_connections() as http:
        with pytest.raises(NotAnswered):
            await StripeHttpCalls(API_KEY, url, http).create_session(WANTED, "key-1")


async def test_an_answer_without_end_is_not_answered(fake, monkeypatch):
    """A body that stalls ends with the deadline: the session may exist."""
    monkeypatch.setattr(client, "CALL_TIMEOUT", ClientTimeout(total=0.2))
    async with served(fake, stalls=True) as url, stripe_connections() as http:
        with pytest.raises(NotAnswered):
            await StripeHttpCalls(API_KEY, url, http).create_session(WANTED, "key-1")


async def test_no_call_logs_the_key(calls, caplog):
    """The API key is in no line of the log, whatever its level."""
    with caplog.at_level(logging.DEBUG):
        await calls.create_session(WANTED, "key-1")

    assert API_KEY not in caplog.text


# Signatures


def test_a_signature_of_any_secret_counts(fake):
    """While secrets are replaced, either of them may have signed."""
    body, signature = fake.signed({"id": "evt_1"})

    assert is_signed(body, signature, ["whsec_new", SECRET])
    assert not is_signed(body, signature, ["whsec_new"])
    assert not is_signed(body, signature, [])
    assert not is_signed(body + b" ", signature, [SECRET])


@pytest.mark.parametrize(
    "signature",
    ["", "t=,v1=", "t=1", "v1=a", "t=x,v1=a", "t=1,v1=", "t", ",", "t=1,v1=\udcff", "=" * 100_000],
)
def test_a_malformed_signature_signs_nothing(signature):
    """Whatever stands in the header, it is no signature, and no error."""
    assert not is_signed(b"{}", signature, [SECRET])
    assert not is_signed(b"\xff", signature, [SECRET])
