"""
The answer to "why did it not come?": one verdict, its evidence, and what happens next.

Every place that explains a delivery or an invoice calls these two functions, so that the API, the
command line and the pages cannot say different things. They are pure: what they need was read
before, and the clock is an argument.

The verdict of a pending delivery follows one rule. Where it only waits for the next attempt of the
schedule, the verdict says how the last attempt failed. Where anything else holds it, the verdict
says what that is, and the evidence has the last attempt all the same.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.domain.outcomes import POINTS_TO, AttemptOutcome
from service.domain.payment import CheckoutStatus
from service.domain.states import DeadReason, DeliveryStatus, InvoiceStatus, MailStatus
from service.domain.waiting import WaitingFor, Waits
from service.domain.words import Word
from service.values import value


class Verdict(Word):
    """Why a callback did or did not come."""

    DELIVERED = "delivered", "Your receiver acknowledged the event."
    IN_PROGRESS = "in_progress", "An attempt is being made, or is about to begin."
    NOT_DUE = "not_due", "The next attempt is due later, and none has failed before it."
    COOLDOWN = "cooldown", "Attempts for this `callback_url` or its host failed: a pause."
    HELD = "held", "Your receiver asked for a pause with `Retry-After`."
    EARLIER_EVENT = "earlier_event", "An earlier event of the invoice goes first."
    SLOT = "slot", "It is due, and waits for its turn."
    RATE = "rate", "It is due, and your account sends as fast as it may."
    PAUSED = "paused", "The receiver was paused by hand."
    LISTENER = "listener", "Nobody listens at the address."
    REFUSED = "refused", "Your receiver answered, and its status was not 2xx."
    INVALID_ANSWER = "invalid_answer", "Your receiver answered 2xx, but not what is declared."
    REDIRECTED = "redirected", "Your receiver answered with a redirect, which is not followed."
    UNREACHABLE = "unreachable", "There was no connection, or it was lost before the answer."
    TIMEOUT = "timeout", "There was no complete answer in time."
    MALFORMED = "malformed", "The answer was not valid HTTP."
    LOST = "lost", "The service ended in the middle of the attempt."
    BLOCKED = "blocked", "The address in the URL may not be called."
    GONE = "gone", "Your receiver answered 410: this event is not sent again."
    EXHAUSTED = "exhausted", "The last attempt of the schedule failed."
    CANCELLED = "cancelled", "The delivery was cancelled."
    NO_CALLBACK_URL = "no_callback_url", "The invoice was sent without a `callback_url`."
    NO_EVENT = "no_event", "Nothing has happened to the invoice that would be told."
    REMOVED = "removed", "The delivery ended so long ago that it was removed."


class NextStep(Word):
    """What happens next to a delivery or an invoice."""

    ATTEMPT = "attempt", "An attempt is made, at `at` or soon after."
    OUTCOME = "outcome", "The attempt ends, at `at` at the latest; then another one follows."
    EARLIER_EVENT = "earlier_event", "The earlier event is delivered or dead; then this one goes."
    RESUMPTION = "resumption", "The receiver is resumed by hand; then an attempt is made."
    LISTENER = "listener", "A listener connects; then an attempt is made."
    MAIL = "mail", "The mail of the invoice is sent to the customer."
    COLLECTION = "collection", "The collector is asked whether the money has come."
    PAYMENT = "payment", "The customer pays."


@value()
class Next:
    """What happens next, and when; *at* is None where that is not known."""

    what: NextStep
    at: datetime | None = None


@value(kw_only=True)
class Explanation:
    """
    Why a callback did or did not come.

    *evidence* has what the verdict was concluded from. *next* is None where nothing happens by
    itself, and *do* where there is nothing to do.
    """

    verdict: Verdict
    sentence: str
    evidence: Mapping[str, Any]
    next: Next | None = None
    do: str | None = None


@value(kw_only=True)
class LastAttempt:
    """The newest attempt of a delivery."""

    number: int
    started_at: datetime
    duration_ms: int
    status_code: int | None
    outcome: AttemptOutcome
    detail: str | None
    response_body: str | None = None


@value(kw_only=True)
class EarlierDelivery:
    """The delivery of an earlier event, which goes first."""

    id: str
    description: str
    attempt_count: int


@value(kw_only=True)
class DeliveryFacts:
    """
    What is stored about a delivery.

    *waits* is None unless it is pending. *failing_since* is of its receiver. *earlier* is the
    delivery that goes before it, if there is one.
    """

    id: str
    invoice_id: str
    url: str
    description: str
    status: DeliveryStatus
    reason: DeadReason | None
    attempt_count: int
    created_at: datetime
    settled_at: datetime | None
    waits: Waits | None
    failing_since: datetime | None
    last: LastAttempt | None
    earlier: EarlierDelivery | None = None


@value(kw_only=True)
class InvoiceFacts:
    """
    What is stored about an invoice whose callback is asked about.

    *due_at* is when its collector is asked next. *checkout_status* and *checkout_due_at* are of its
    checkout that has not ended: *checkout_due_at* is when the collector is asked about that.
    *delivery* is the one that matters: the first that is pending; if there is none, the newest dead
    one; if there is none, the newest.
    """

    id: str
    status: InvoiceStatus
    has_callback: bool
    event_count: int
    last_event_at: datetime | None
    due_at: datetime | None
    mail_status: MailStatus | None
    mail_due_at: datetime | None
    delivery: DeliveryFacts | None
    has_mismatch: bool = False
    checkout_status: CheckoutStatus | None = None
    checkout_due_at: datetime | None = None


def explain_delivery(facts: DeliveryFacts, now: datetime) -> Explanation:
    """Why the delivery of *facts* has come, or has not come at *now*."""
    match facts.status:
        case DeliveryStatus.DELIVERED:
            return _delivered(facts)
        case DeliveryStatus.DEAD:
            return _dead(facts)
    assert facts.waits is not None  # noqa: S101 -- a pending delivery waits
    reason, until = facts.waits.reason_at(now)
    if reason is None:
        return _in_progress(facts)
    if reason is WaitingFor.SLOT and facts.waits.leased_until:
        return _lost(facts, facts.waits.leased_until)
    if reason is WaitingFor.DUE and facts.last:
        return _failed(facts, facts.last, until)
    return _waiting(facts, reason, until)


def explain_invoice(facts: InvoiceFacts, now: datetime) -> Explanation:
    """Why the callback of the invoice of *facts* has come, or has not come at *now*."""
    if facts.delivery:
        return explain_delivery(facts.delivery, now)
    evidence = {"invoice_id": facts.id, "invoice_status": facts.status}
    if not facts.has_callback:
        return Explanation(
            verdict=Verdict.NO_CALLBACK_URL,
            sentence="The invoice was sent without a callback_url, so nobody is called.",
            evidence=evidence,
            do="Send an invoice with ?callback_url=… and a new id; this one cannot be changed.",
        )
    if facts.event_count and facts.last_event_at:
        return Explanation(
            verdict=Verdict.REMOVED,
            sentence=f"There is no delivery any more for the {_events(facts.event_count)} of the "
            "invoice: deliveries are removed some time after they have ended.",
            evidence={**evidence, "since": facts.last_event_at},
            do="Ask for the invoice itself: its status and its events are kept.",
        )
    return _no_event(facts, evidence)


# --- A delivery that has ended


def _delivered(facts: DeliveryFacts) -> Explanation:
    last = facts.last
    answer = f" with {last.status_code}" if last and last.status_code else ""
    noted = last.detail if last else None
    return Explanation(
        verdict=Verdict.DELIVERED,
        sentence=f"Your receiver acknowledged the event{answer}, in attempt {facts.attempt_count}."
        + (f" Noted: {noted}." if noted else ""),
        evidence=_evidence(facts, since=facts.settled_at),
    )


_DEAD: dict[DeadReason, tuple[str, str]] = {
    DeadReason.GONE: (
        "Your receiver answered 410: it does not want this event, so it is not sent again.",
        "If that was a mistake, redeliver it: POST /deliveries/{id}/redeliver.",
    ),
    DeadReason.BLOCKED: (
        "The address in the URL may not be called.",
        "Send later invoices with another callback_url, or ask the operator to allow the address "
        "and redeliver it.",
    ),
    DeadReason.CANCELLED: (
        "The delivery was cancelled by a request, and is not attempted again.",
        "If you want it after all, redeliver it: POST /deliveries/{id}/redeliver.",
    ),
}


def _dead(facts: DeliveryFacts) -> Explanation:
    reason = facts.reason or DeadReason.EXHAUSTED
    evidence = _evidence(facts, since=facts.settled_at)
    if reason is DeadReason.EXHAUSTED:
        failure = f" {_failure(facts.last)[1]}" if facts.last else ""
        return Explanation(
            verdict=Verdict.EXHAUSTED,
            sentence=f"The last attempt of the schedule failed, number {facts.attempt_count}."
            + failure,
            evidence=evidence,
            do="Mend the receiver, and redeliver: POST /deliveries/{id}/redeliver, or "
            "POST /deliveries/redeliver for all that are dead.",
        )
    sentence, do = _DEAD[reason]
    return Explanation(verdict=Verdict[reason.name], sentence=sentence, evidence=evidence, do=do)


# --- A delivery that is pending


def _in_progress(facts: DeliveryFacts) -> Explanation:
    until = facts.waits.leased_until if facts.waits else None
    return Explanation(
        verdict=Verdict.IN_PROGRESS,
        sentence=f"Attempt {facts.attempt_count + 1} is being made, or is about to begin.",
        evidence=_evidence(facts, until=until),
        next=Next(NextStep.OUTCOME, until),
    )


def _lost(facts: DeliveryFacts, ended_at: datetime) -> Explanation:
    """A lease that ran out, and was not given up: who held it has ended."""
    return Explanation(
        verdict=Verdict.LOST,
        sentence=f"The service ended in the middle of attempt {facts.attempt_count + 1}. Your "
        "receiver may have seen it, or nothing. The next attempt follows by itself.",
        evidence=_evidence(facts, since=ended_at),
        next=Next(NextStep.ATTEMPT),
    )


def _failed(facts: DeliveryFacts, last: LastAttempt, until: datetime | None) -> Explanation:
    verdict, sentence, do = _failure(last)
    if last.outcome is AttemptOutcome.DELIVERED:
        # It was delivered, and then asked for again by a filter.
        return _waiting(facts, WaitingFor.DUE, until)
    return Explanation(
        verdict=verdict,
        sentence=f"{sentence} That was attempt {last.number}; the next one follows by itself.",
        evidence=_evidence(facts, until=until),
        next=Next(NextStep.ATTEMPT, until),
        do=do,
    )


_WAITING: dict[WaitingFor, tuple[Verdict, str, str | None]] = {
    WaitingFor.DUE: (Verdict.NOT_DUE, "The next attempt is due later.", None),
    WaitingFor.HOLD: (
        Verdict.HELD,
        "Your receiver asked for a pause with Retry-After. Nothing is sent to it before the end.",
        "If the receiver is ready before, attempt it now: POST /deliveries/{id}/redeliver.",
    ),
    WaitingFor.COOLDOWN: (
        Verdict.COOLDOWN,
        "Attempts for this callback_url failed, or no connection to its host was possible. After "
        "a pause, a single attempt finds out whether it answers again.",
        "Mend the receiver. Then wait, or attempt it now: POST /deliveries/{id}/redeliver.",
    ),
    WaitingFor.EARLIER_EVENT: (
        Verdict.EARLIER_EVENT,
        "The events of an invoice are sent in order, and an earlier one is not delivered yet.",
        "Ask why the earlier one has not come, or cancel it: POST /deliveries/{id}/cancel, with "
        "the id of the earlier one.",
    ),
    WaitingFor.SLOT: (
        Verdict.SLOT,
        "The delivery is due. It waits for its turn among the attempts of the service.",
        None,
    ),
    WaitingFor.RATE: (
        Verdict.RATE,
        "The delivery is due, and your account has more attempts to make than it may in a second.",
        None,
    ),
    WaitingFor.PAUSED: (
        Verdict.PAUSED,
        "The receiver was paused by hand. Its deliveries wait, and lose nothing.",
        "Resume the receiver: POST /receivers/{id}/resume.",
    ),
    WaitingFor.LISTENER: (
        Verdict.LISTENER,
        "The callback_url is that of a listener, and no listener of that name is connected.",
        "Connect it: invoices listen --name NAME --forward-to URL.",
    ),
}
"""What is said of each reason to wait that this module knows; of others, their own name."""


_NEXT = {
    WaitingFor.EARLIER_EVENT: NextStep.EARLIER_EVENT,
    WaitingFor.PAUSED: NextStep.RESUMPTION,
    WaitingFor.LISTENER: NextStep.LISTENER,
}
"""What happens next where that is not an attempt by itself."""


def verdict_of(reason: WaitingFor) -> Verdict:
    """The verdict of a delivery that waits for *reason*."""
    return _WAITING[reason][0] if reason in _WAITING else Verdict[reason.name]


def _waiting(facts: DeliveryFacts, reason: WaitingFor, until: datetime | None) -> Explanation:
    verdict = verdict_of(reason)
    _, sentence, do = _WAITING.get(reason, (verdict, verdict.meaning, None))
    more: dict[str, Any] = {}
    if reason is WaitingFor.EARLIER_EVENT and facts.earlier:
        more["earlier_delivery_id"] = facts.earlier.id
        sentence += (
            f" It is “{facts.earlier.description}”, with {_attempts(facts.earlier.attempt_count)}."
        )
    if reason is WaitingFor.COOLDOWN and facts.failing_since:
        more["since"] = facts.failing_since
    what = _NEXT.get(reason, NextStep.ATTEMPT)
    return Explanation(
        verdict=verdict,
        sentence=sentence,
        evidence=_evidence(facts, until=until, **more),
        next=Next(what, until),
        do=do,
    )


# --- How an attempt failed

_FAILURES: dict[AttemptOutcome, tuple[str, str]] = {
    AttemptOutcome.REFUSED: (
        "Your receiver refused the event: it answered {code}.",
        "Look at the answer and at the log of your receiver.",
    ),
    AttemptOutcome.INVALID_ANSWER: (
        "Your receiver answered {code}, but not what the callback declares: {detail}.",
        "Answer what the documentation of the callback says; does a login page or a proxy answer?",
    ),
    AttemptOutcome.UNREACHABLE: (
        "Your receiver could not be reached: {detail}.",
        "Check the URL, DNS, the firewall and the certificate of your receiver.",
    ),
    AttemptOutcome.TIMEOUT: (
        "Your receiver was too slow: {detail}.",
        "Store the event, answer at once, and do longer work afterwards.",
    ),
    AttemptOutcome.MALFORMED: (
        "The answer of your receiver cannot be read: {detail}.",
        "Check the port in the URL: does it speak HTTP, does it speak TLS?",
    ),
    AttemptOutcome.BLOCKED: (
        "The address in the URL may not be called.",
        "Send later invoices with another callback_url, or ask the operator to allow the address.",
    ),
}


def _failure(last: LastAttempt) -> tuple[Verdict, str, str | None]:
    """The verdict about a failed attempt, what happened, and what to do."""
    target = redirect_target(last)
    if target is not None:
        where = f" to {target}" if target else ""
        sentence = f"Your receiver answered {last.status_code}, a redirect{where}: not followed."
        return Verdict.REDIRECTED, sentence, "Send later invoices with the target as callback_url."
    if last.outcome is AttemptOutcome.LOST:
        sentence = (
            "The service ended in the middle of the attempt. Your receiver may have seen it, or "
            "nothing."
        )
        return Verdict.LOST, sentence, None
    if last.outcome is AttemptOutcome.DELIVERED:
        return Verdict.DELIVERED, "Your receiver acknowledged the event.", None
    sentence, do = _FAILURES[last.outcome]
    detail = last.detail or last.outcome.meaning.rstrip(".")
    return Verdict[last.outcome.name], sentence.format(code=last.status_code, detail=detail), do


def redirect_target(last: LastAttempt) -> str | None:
    """Where a redirect points to, empty if it does not say; None if it is no redirect."""
    is_redirect = last.outcome is AttemptOutcome.REFUSED and (last.status_code or 0) // 100 == 3
    return (last.detail or "").partition(POINTS_TO)[2] if is_redirect else None


# --- An invoice without an event


def _no_event(facts: InvoiceFacts, evidence: Mapping[str, Any]) -> Explanation:
    step: Next | None
    do: str | None = None
    if facts.has_mismatch:
        sentence = (
            "A payment came that is not of the amount and the currency of the invoice (mismatch). "
            "It is not told as paid, and the invoice cannot be paid any more."
        )
        step = None
        do = "Ask the operator: Stripe's dashboard has the payment. Then send another invoice."
    elif facts.checkout_status is CheckoutStatus.PROCESSING:
        sentence = "The customer has paid, and the money is on its way; the collector is asked."
        step = Next(NextStep.COLLECTION, facts.checkout_due_at)
    elif facts.mail_status is MailStatus.PENDING:
        sentence = "The mail that brings the invoice to the customer has not gone yet."
        step = Next(NextStep.MAIL, facts.mail_due_at)
    elif facts.due_at:
        sentence = "The collector has not been told of any money yet; it is asked again."
        step = Next(NextStep.COLLECTION, facts.due_at)
    else:
        has_begun = facts.checkout_status is not None
        sentence = f"The customer has {'begun to pay' if has_begun else 'not paid yet'}."
        step = Next(NextStep.PAYMENT)
    return Explanation(
        verdict=Verdict.NO_EVENT,
        sentence=f"Nothing has happened yet that would be told: the invoice is {facts.status}. "
        + sentence,
        evidence={**evidence, "until": step.at} if step and step.at else evidence,
        next=step,
        do=do,
    )


# --- Words and evidence


def _evidence(facts: DeliveryFacts, **more: Any) -> dict[str, Any]:
    """What is known of a delivery, and *more*; without what is not known."""
    last = facts.last
    known = {
        "delivery_id": facts.id,
        "invoice_id": facts.invoice_id,
        "url": facts.url,
        "event": facts.description,
        "created_at": facts.created_at,
        "attempt_count": facts.attempt_count,
        "attempt": last and _attempt(last),
        "location": (redirect_target(last) or None) if last else None,
        **more,
    }
    return {name: fact for name, fact in known.items() if fact is not None}


def _attempt(last: LastAttempt) -> dict[str, Any]:
    return {
        "number": last.number,
        "started_at": last.started_at,
        "duration_ms": last.duration_ms,
        "status_code": last.status_code,
        "outcome": last.outcome,
        "detail": last.detail,
        "response_body": last.response_body,
    }


def _events(count: int) -> str:
    return "event" if count == 1 else f"{count} events"


def _attempts(count: int) -> str:
    return {0: "no attempt yet", 1: "one attempt so far"}.get(count, f"{count} attempts so far")
