"""Each verdict, concluded from the rows of a store, whichever kind it is."""

from __future__ import annotations

import pytest

from service.domain.delivery import Dead, OriginState, Retry
from service.domain.explanation import (
    Next,
    NextStep,
    Verdict,
    explain_delivery,
    explain_invoice,
)
from service.domain.outcomes import POINTS_TO, AttemptOutcome
from service.domain.states import DeadReason, DeliveryStatus, InvoiceStatus
from service.errors import NotFound
from service.storage.retention import SweepPosition
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    a_callback,
    a_delivery,
    a_failing_state,
    a_step,
    add_delivery,
    add_two_events,
    an_attempt,
    an_event,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    lease_invoice,
    take_step,
)

LATER = START + 300 * SECOND


async def why(store, delivery_id="msg_1", now=START):
    """The explanation of a delivery."""
    return explain_delivery(await store.history.facts_of_delivery("dev", delivery_id), now)


async def why_invoice(store, invoice_id="1", now=START):
    """The explanation of an invoice."""
    return explain_invoice(await store.history.facts_of_invoice("dev", invoice_id), now)


async def fail(store, outcome=AttemptOutcome.REFUSED, **changes):
    """Settle the one due delivery: the next attempt is due later."""
    leased = await lease_delivery(store)
    attempt = an_attempt(leased, outcome, Retry(LATER - START), **changes)
    assert await store.settle(attempt)


async def test_delivered(store):
    """A delivered delivery has the exact answer and its instant."""
    await add_delivery(store)
    assert await store.settle(delivered(await lease_delivery(store), at=START + SECOND))

    explanation = await why(store)

    assert (Verdict.DELIVERED, None) == (explanation.verdict, explanation.next)
    assert START + SECOND == explanation.evidence["since"]
    attempt = explanation.evidence["attempt"]
    assert (1, 200, '{"ok": true}') == (
        attempt["number"],
        attempt["status_code"],
        attempt["response_body"],
    )


async def test_slot(store):
    """A new delivery waits for its turn."""
    await add_delivery(store)

    explanation = await why(store)

    assert (Verdict.SLOT, Next(NextStep.ATTEMPT)) == (explanation.verdict, explanation.next)


async def test_in_progress(store):
    """A leased delivery is being attempted, until its lease ends."""
    await add_delivery(store)
    await lease_delivery(store)

    explanation = await why(store)

    assert Verdict.IN_PROGRESS is explanation.verdict
    assert Next(NextStep.OUTCOME, START + LEASE) == explanation.next


async def test_lost(store):
    """A delivery whose lease ran out was lost, and is attempted again."""
    await add_delivery(store)
    await lease_delivery(store)

    explanation = await why(store, now=START + 2 * LEASE)

    assert (Verdict.LOST, Next(NextStep.ATTEMPT)) == (explanation.verdict, explanation.next)


@pytest.mark.parametrize(
    ("expected", "outcome", "status_code", "detail"),
    [
        (Verdict.REFUSED, AttemptOutcome.REFUSED, 500, "the receiver answered 500"),
        (Verdict.REDIRECTED, AttemptOutcome.REFUSED, 301, f"moved{POINTS_TO}https://a.example"),
        (Verdict.INVALID_ANSWER, AttemptOutcome.INVALID_ANSWER, 200, "the body is empty"),
        (Verdict.UNREACHABLE, AttemptOutcome.UNREACHABLE, None, "no connection"),
        (Verdict.TIMEOUT, AttemptOutcome.TIMEOUT, None, "no answer within 15 s"),
        (Verdict.MALFORMED, AttemptOutcome.MALFORMED, None, "not HTTP"),
    ],
)
async def test_failures(store, expected, outcome, status_code, detail):
    """While the next attempt is due later, the verdict is how the last one failed."""
    await add_delivery(store)
    await fail(store, outcome, status_code=status_code, detail=detail)

    explanation = await why(store)

    assert expected is explanation.verdict
    assert Next(NextStep.ATTEMPT, LATER) == explanation.next
    assert detail == explanation.evidence["attempt"]["detail"]


async def test_not_due(store):
    """A delivery that was put off without an attempt is just not due."""
    await add_delivery(store)
    await store.release(await lease_delivery(store), LATER)

    explanation = await why(store)

    assert (Verdict.NOT_DUE, Next(NextStep.ATTEMPT, LATER)) == (
        explanation.verdict,
        explanation.next,
    )


async def test_held(store):
    """A hold that ends after the next attempt is due says until when."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    await store.settle(failed(leased, due_at=LATER, held_until=LATER + SECOND))

    explanation = await why(store)

    assert Verdict.HELD is explanation.verdict
    assert Next(NextStep.ATTEMPT, LATER + SECOND) == explanation.next


@pytest.mark.parametrize("of", ["receiver", "origin"])
async def test_cooldown(store, of):
    """A cooldown of the receiver or of its origin says when the next probe is made."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    states = {
        "receiver": {"receiver_state": a_failing_state(leased, cooldown_until=LATER)},
        "origin": {"origin_state": OriginState(leased.origin, LATER)},
    }
    attempt = an_attempt(leased, AttemptOutcome.TIMEOUT, Retry(SECOND), **states[of])
    await store.settle(attempt)

    explanation = await why(store, now=START + 2 * SECOND)

    assert Verdict.COOLDOWN is explanation.verdict
    assert Next(NextStep.ATTEMPT, LATER) == explanation.next
    since = START if of == "receiver" else None
    assert since == explanation.evidence.get("since")


async def test_earlier_event(store):
    """A later event names the delivery that goes before it."""
    await add_two_events(store)

    explanation = await why(store, "msg_1b")

    assert Verdict.EARLIER_EVENT is explanation.verdict
    assert "msg_1a" == explanation.evidence["earlier_delivery_id"]
    assert Next(NextStep.EARLIER_EVENT) == explanation.next


@pytest.mark.parametrize("reason", DeadReason)
async def test_dead(store, reason):
    """The verdict of a dead delivery is its reason."""
    await add_delivery(store)
    if reason is DeadReason.CANCELLED:
        await store.cancel("dev", "msg_1", START)
    else:
        leased = await lease_delivery(store)
        await store.settle(failed(leased, status=DeliveryStatus.DEAD, reason=reason))

    explanation = await why(store)

    assert (reason.value, None) == (explanation.verdict, explanation.next)
    assert START == explanation.evidence["since"]


async def test_a_denied_address_is_told_as_unreachable(store):
    """What the policy denies of a name is told to its account like any other missing connection."""
    await add_delivery(store)
    neutral = "no connection to the receiver could be made"
    for is_denied in (True, False):
        leased = await lease_delivery(store, now=LATER)
        attempt = an_attempt(
            leased,
            AttemptOutcome.UNREACHABLE,
            Retry(SECOND),
            status_code=None,
            response_body=None,
            detail=neutral,
            is_denied=is_denied,
            at=LATER - 2 * SECOND,
        )
        await store.settle(attempt)

        explanation = await why(store, now=LATER - 2 * SECOND)

        assert Verdict.UNREACHABLE is explanation.verdict
        assert f"Your receiver could not be reached: {neutral}." in explanation.sentence


# Invoices


async def test_no_callback_url(store):
    """An invoice without a callback calls nobody."""
    await store.accept(an_invoice(origin=None))

    assert Verdict.NO_CALLBACK_URL is (await why_invoice(store)).verdict


async def test_no_event(store):
    """An invoice that is collected later says when the collector is asked."""
    await store.accept(an_invoice())
    step = a_step(await lease_invoice(store), InvoiceStatus.SENT, due_at=LATER)
    await take_step(store, step)

    explanation = await why_invoice(store)

    assert Verdict.NO_EVENT is explanation.verdict
    assert Next(NextStep.COLLECTION, LATER) == explanation.next
    assert "sent" == explanation.evidence["invoice_status"]


async def test_removed(store):
    """After retention, the invoice says that its delivery was removed."""
    at = START.replace(year=2020)
    # Deliveries are found by their ids, which are in the order of time.
    await add_delivery(store, at=at, delivery_id=f"msg_{int(at.timestamp() * 1000):012x}")
    await store.settle(delivered(await lease_delivery(store, now=at), at=at))
    await store.sweep(SweepPosition("dev"), START)

    explanation = await why_invoice(store)

    assert Verdict.REMOVED is explanation.verdict
    assert at == explanation.evidence["since"]


async def test_the_first_pending_delivery_of_an_invoice_matters(store):
    """Of several deliveries the first pending one is explained, then a dead one, then the last."""
    await add_two_events(store)
    assert "msg_1a" == (await why_invoice(store)).evidence["delivery_id"]

    leased = await lease_delivery(store)
    await store.settle(an_attempt(leased, AttemptOutcome.REFUSED, Dead(DeadReason.GONE)))
    assert "msg_1b" == (await why_invoice(store)).evidence["delivery_id"]

    await store.settle(delivered(await lease_delivery(store)))
    explanation = await why_invoice(store)
    assert (Verdict.GONE, "msg_1a") == (explanation.verdict, explanation.evidence["delivery_id"])

    await store.redeliver("dev", "msg_1a", START)
    for one in await lease_deliveries(store):
        await store.settle(delivered(one))
    assert "msg_1b" == (await why_invoice(store)).evidence["delivery_id"]


async def test_of_several_callbacks_the_delivery_with_the_lowest_id_is_explained(store):
    """The deliveries of one event are equal otherwise: the choice is the same each time."""
    both = (a_callback(ONE, name="a"), a_callback("https://two.example:443", name="b"))
    await store.accept(an_invoice(callbacks=both))
    step = a_step(await lease_invoice(store), event=an_event())
    ids = ("msg_2", "msg_1")
    await store.take_step(step, [a_delivery(step, delivery_id=ids[n], callback=n) for n in (0, 1)])

    assert "msg_1" == (await why_invoice(store)).evidence["delivery_id"]


async def test_an_event_without_delivery_is_explained_as_removed(store):
    """An invoice with a callback whose events have no delivery any more has no pending one."""
    await store.accept(an_invoice())
    step = a_step(await lease_invoice(store), event=an_event(delivery_id=None))
    await take_step(store, step)

    assert Verdict.REMOVED is (await why_invoice(store)).verdict


@pytest.mark.parametrize("account_id", ["dev", "other"])
async def test_unknown_ids_are_not_found(store, account_id):
    """An id of another account is not found, like an unknown one."""
    await add_delivery(store)
    unknown = "9" if account_id == "dev" else "1"

    with pytest.raises(NotFound):
        await store.history.facts_of_delivery(account_id, f"msg_{unknown}")
    with pytest.raises(NotFound):
        await store.history.facts_of_invoice(account_id, unknown)
