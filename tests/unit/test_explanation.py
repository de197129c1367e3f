"""The verdict about a delivery or an invoice, from its facts alone."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.explanation import (
    DeliveryFacts,
    EarlierDelivery,
    InvoiceFacts,
    LastAttempt,
    Next,
    NextStep,
    Verdict,
    explain_delivery,
    explain_invoice,
    verdict_of,
)
from service.domain.outcomes import POINTS_TO, AttemptOutcome
from service.domain.payment import CheckoutStatus
from service.domain.states import DeadReason, DeliveryStatus, InvoiceStatus, MailStatus
from service.domain.waiting import WaitingFor, Waits
from tests.clock import START
from tests.processes import ROOT

MINUTE = timedelta(minutes=1)
FAILED = [one for one in AttemptOutcome if one is not AttemptOutcome.DELIVERED]


def waits(**changes):
    """What a delivery waits for that is due."""
    values = {
        "is_first": True,
        "is_asked": False,
        "due_at": START,
        "leased_until": None,
        "held_until": None,
        "cooldown_until": None,
    }
    return Waits(**{**values, **changes})


def last(outcome=AttemptOutcome.REFUSED, **changes):
    """The newest attempt."""
    values = {
        "number": 1,
        "started_at": START,
        "duration_ms": 12,
        "status_code": 500,
        "outcome": outcome,
        "detail": "what was wrong",
    }
    return LastAttempt(**{**values, **changes})


def facts(**changes):
    """The facts about a pending delivery that is due."""
    values = {
        "id": "msg_1",
        "invoice_id": "1",
        "url": "https://one.example/invoices/1",
        "description": "Invoice paid",
        "status": DeliveryStatus.PENDING,
        "reason": None,
        "attempt_count": 0,
        "created_at": START,
        "settled_at": None,
        "waits": waits(),
        "failing_since": None,
        "last": None,
    }
    return DeliveryFacts(**{**values, **changes})


def an_invoice(**changes):
    """The facts about an invoice without a delivery."""
    values = {
        "id": "1",
        "status": InvoiceStatus.SENT,
        "has_callback": True,
        "event_count": 0,
        "last_event_at": None,
        "due_at": None,
        "mail_status": None,
        "mail_due_at": None,
        "delivery": None,
    }
    return InvoiceFacts(**{**values, **changes})


def explained(**changes):
    """The explanation of a pending delivery, at the start."""
    return explain_delivery(facts(**changes), START)


# What is closed


def test_every_reason_to_wait_has_a_verdict():
    """Whatever a delivery waits for, there is a verdict of that name or meaning."""
    assert {"not_due", "held", "cooldown", "earlier_event", "slot"} <= {
        verdict_of(reason) for reason in WaitingFor
    }
    assert {"rate", "paused", "listener"} <= set(Verdict)


@pytest.mark.parametrize("reason", DeadReason)
def test_every_dead_delivery_has_a_verdict(reason):
    """The verdict of a dead delivery is its reason, and nothing happens to it by itself."""
    explanation = explained(status=DeliveryStatus.DEAD, reason=reason, last=last())

    assert reason.value == explanation.verdict
    assert explanation.next is None
    assert explanation.do


@pytest.mark.parametrize("outcome", FAILED)
def test_every_failure_has_a_verdict(outcome):
    """While the schedule alone is waited for, the verdict is how the last attempt failed."""
    explanation = explained(waits=waits(due_at=START + MINUTE), last=last(outcome), attempt_count=1)

    assert outcome.value == explanation.verdict
    assert Next(NextStep.ATTEMPT, START + MINUTE) == explanation.next
    assert 1 == explanation.evidence["attempt"]["number"]


# The rule for pending deliveries


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        (Verdict.HELD, {"held_until": START + MINUTE}),
        (Verdict.COOLDOWN, {"cooldown_until": START + MINUTE}),
        (Verdict.EARLIER_EVENT, {"is_first": False, "due_at": START + MINUTE}),
        (Verdict.SLOT, {}),
        (Verdict.IN_PROGRESS, {"leased_until": START + MINUTE}),
    ],
)
def test_what_holds_a_delivery_goes_before_how_it_failed(expected, changes):
    """The verdict says what else a delivery waits for; the evidence has the last attempt too."""
    explanation = explained(waits=waits(**changes), last=last(), attempt_count=1)

    assert expected is explanation.verdict
    assert "refused" == explanation.evidence["attempt"]["outcome"]


def test_a_delivery_that_was_never_attempted_is_not_due():
    """Without an attempt, a delivery that is due later is just that."""
    explanation = explained(waits=waits(due_at=START + MINUTE))

    assert Verdict.NOT_DUE is explanation.verdict
    assert Next(NextStep.ATTEMPT, START + MINUTE) == explanation.next
    assert "attempt" not in explanation.evidence


def test_a_lease_that_ran_out_was_lost():
    """Where a lease has ended and nobody gave it up, the service stopped in the middle."""
    explanation = explained(waits=waits(leased_until=START - MINUTE))

    assert Verdict.LOST is explanation.verdict
    assert START - MINUTE == explanation.evidence["since"]
    assert Next(NextStep.ATTEMPT) == explanation.next


def test_the_attempt_in_progress_ends_with_its_lease():
    """While an attempt is made, its outcome is next, at the end of the lease at the latest."""
    explanation = explained(waits=waits(leased_until=START + MINUTE))

    assert Next(NextStep.OUTCOME, START + MINUTE) == explanation.next


def test_a_redirect_is_told_with_its_target():
    """A redirect is no mere refusal: its target is in the sentence and in the evidence."""
    redirect = last(status_code=308, detail=f"not followed{POINTS_TO}https://www.one.example/")
    explanation = explained(waits=waits(due_at=START + MINUTE), last=redirect, attempt_count=1)

    assert Verdict.REDIRECTED is explanation.verdict
    assert "https://www.one.example/" == explanation.evidence["location"]
    assert "https://www.one.example/" in explanation.sentence


def test_the_earlier_delivery_is_named():
    """Who waits for an earlier event is told which one, and how often it was attempted."""
    earlier = EarlierDelivery(id="msg_0", description="Invoice sent", attempt_count=2)
    explanation = explained(waits=waits(is_first=False), earlier=earlier)

    assert "msg_0" == explanation.evidence["earlier_delivery_id"]
    assert "Invoice sent" in explanation.sentence
    assert Next(NextStep.EARLIER_EVENT) == explanation.next


def test_a_cooldown_says_since_when_the_receiver_fails():
    """The evidence of a cooldown has its beginning and its end."""
    explanation = explained(
        waits=waits(cooldown_until=START + MINUTE), failing_since=START - MINUTE
    )

    assert (START - MINUTE, START + MINUTE) == (
        explanation.evidence["since"],
        explanation.evidence["until"],
    )


def test_an_exhausted_delivery_says_how_it_failed_last():
    """The sentence about an exhausted delivery contains its last failure."""
    explanation = explained(
        status=DeliveryStatus.DEAD, reason=DeadReason.EXHAUSTED, last=last(), attempt_count=10
    )

    assert "number 10" in explanation.sentence
    assert "it answered 500" in explanation.sentence


def test_a_mismatch_that_was_accepted_is_noted():
    """A delivered delivery whose answer was not as declared says so."""
    noted = last(AttemptOutcome.DELIVERED, status_code=200, detail="accepted although odd")
    explanation = explained(
        status=DeliveryStatus.DELIVERED, last=noted, attempt_count=1, settled_at=START
    )

    assert Verdict.DELIVERED is explanation.verdict
    assert "accepted although odd" in explanation.sentence
    assert (None, None) == (explanation.next, explanation.do)


# Invoices


def test_an_invoice_without_callback_url_calls_nobody():
    """An invoice without a callback_url has a verdict of its own, whatever has happened to it."""
    explanation = explain_invoice(an_invoice(has_callback=False, event_count=1), START)

    assert Verdict.NO_CALLBACK_URL is explanation.verdict


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        (Next(NextStep.PAYMENT), {}),
        (Next(NextStep.COLLECTION, START + MINUTE), {"due_at": START + MINUTE}),
        (
            Next(NextStep.MAIL, START + MINUTE),
            {"mail_status": MailStatus.PENDING, "mail_due_at": START + MINUTE, "due_at": START},
        ),
        (Next(NextStep.PAYMENT), {"mail_status": MailStatus.SENT}),
        (Next(NextStep.PAYMENT), {"checkout_status": CheckoutStatus.OPEN}),
        (
            Next(NextStep.COLLECTION, START + MINUTE),
            {
                "checkout_status": CheckoutStatus.PROCESSING,
                "checkout_due_at": START + MINUTE,
                "mail_status": MailStatus.PENDING,
            },
        ),
        (None, {"has_mismatch": True}),
    ],
)
def test_an_invoice_without_event_says_what_is_waited_for(expected, changes):
    """Without an event, the next thing is the mail, the collector, the customer, or nothing."""
    explanation = explain_invoice(an_invoice(**changes), START)

    assert Verdict.NO_EVENT is explanation.verdict
    assert expected == explanation.next


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("The customer has not paid yet.", {}),
        ("The customer has begun to pay.", {"checkout_status": CheckoutStatus.CREATING}),
        ("the money is on its way", {"checkout_status": CheckoutStatus.PROCESSING}),
        ("the invoice cannot be paid any more", {"has_mismatch": True}),
    ],
)
def test_an_invoice_without_event_says_how_far_its_payment_is(said, changes):
    """The sentence says whether the customer has begun, has paid, or has paid another amount."""
    assert said in explain_invoice(an_invoice(**changes), START).sentence


def test_deliveries_that_are_gone_were_removed():
    """An invoice with events and a callback_url, and without a delivery, has lost it to time."""
    explanation = explain_invoice(an_invoice(event_count=2, last_event_at=START), START)

    assert Verdict.REMOVED is explanation.verdict
    assert START == explanation.evidence["since"]


def test_an_invoice_is_explained_by_its_delivery():
    """The explanation of an invoice with a delivery is that of the delivery."""
    delivery = facts(waits=waits(held_until=START + MINUTE))

    assert explain_delivery(delivery, START) == explain_invoice(
        an_invoice(event_count=1, delivery=delivery), START
    )


def test_an_unnamed_reason_to_wait_is_told_by_its_name(monkeypatch):
    """A reason to wait that has no words of its own is told in those of its verdict."""
    monkeypatch.setattr(Waits, "reason_at", lambda self, now: (_Paused.PAUSED, None))

    explanation = explained()

    assert Verdict.PAUSED is explanation.verdict
    assert Verdict.PAUSED.meaning == explanation.sentence
    assert Next(NextStep.ATTEMPT) == explanation.next


class _Paused:
    """A reason to wait that another version may have."""

    class PAUSED:
        """Its name and its value."""

        name, value = "PAUSED", "paused"


def test_facts_are_values():
    """Equal facts are equal: an explanation depends on nothing else."""
    assert facts() == replace(facts())


# What the guide says about the evidence

OF_DELIVERIES = {"delivery_id", "invoice_id", "url", "event", "created_at", "attempt_count"}
OF_INVOICES = {Verdict.NO_CALLBACK_URL, Verdict.NO_EVENT, Verdict.REMOVED}
LATER = START + MINUTE
EARLIER = EarlierDelivery(id="msg_0", description="Invoice sent", attempt_count=1)


def documented_evidence():
    """What each verdict always has and may have, as the table of the guide says."""
    lines = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8").splitlines()
    begin = lines.index("| `verdict` | always has | may have |") + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[begin:])
    for verdicts, always, may in (row.split("|")[1:4] for row in rows):
        for name in words_in_code(verdicts):
            yield Verdict(name), words_in_code(always), words_in_code(may)


def words_in_code(text):
    """What stands between backticks."""
    return set(re.findall("`([^`]+)`", text))


def every_explanation():
    """Explanations of every verdict, with little and with much that is known."""
    redirected = last(status_code=302, detail=f"x{POINTS_TO}y")
    for known in (None, last(), redirected):
        ended = {"settled_at": START, "last": known}
        for reason in DeadReason:
            yield explained(status=DeliveryStatus.DEAD, reason=reason, **ended)
        yield explained(status=DeliveryStatus.DELIVERED, **ended)
        for changes in (
            {},
            {"due_at": LATER},
            {"held_until": LATER},
            {"cooldown_until": LATER},
            {"leased_until": LATER},
            {"leased_until": START - MINUTE},
            {"is_first": False},
            {"is_paused": True},
            {"is_for_listener": True},
        ):
            yield explained(waits=waits(**changes), last=known, earlier=EARLIER)
    # An address that may not be called ends a delivery at once.
    for outcome in set(FAILED) - {AttemptOutcome.BLOCKED}:
        yield explained(waits=waits(due_at=LATER), last=last(outcome))
    yield explain_invoice(an_invoice(has_callback=False), START)
    yield explain_invoice(an_invoice(event_count=2, last_event_at=START), START)
    for changes in ({}, {"due_at": LATER}, {"mail_status": MailStatus.PENDING}):
        yield explain_invoice(an_invoice(**changes), START)


def test_the_guide_says_which_evidence_a_verdict_has():
    """Every verdict has what the table promises, and nothing that the table does not name."""
    known = {verdict: (always, may) for verdict, always, may in documented_evidence()}
    assert set(Verdict) == known.keys()
    seen = set()
    for one in every_explanation():
        always, may = known[one.verdict]
        of_all = set() if one.verdict in OF_INVOICES else OF_DELIVERIES
        attempted = {"attempt"} & one.evidence.keys() if one.verdict not in OF_INVOICES else set()
        if "attempt" in always and one.evidence.keys().isdisjoint({"attempt"}):
            # Without an attempt such a delivery does not exist.
            continue
        assert always | of_all <= one.evidence.keys(), one
        assert one.evidence.keys() <= always | may | of_all | attempted, one
        seen.add(one.verdict)
    assert set(Verdict) - {Verdict.RATE} <= seen
