from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example
from hypothesis import given as generated
from hypothesis import strategies as st

from service.callbacks.answers import Meaning
from service.delivery.decision import decide, retry_after
from service.delivery.failures import NoAnswer
from service.domain.delivery import Dead, Delivered, Retry
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason
from tests import rows
from tests.clock import START
from tests.fakes import NO_ANSWERS, FakeReceivers, answer, making_attempts
from tests.rows import ONE, SECOND, a_step, an_event, an_invoice

DAY = timedelta(hours=24)
SCHEDULE = (5 * SECOND, 300 * SECOND)
HTML = answer(200, b"<html>This domain is for sale</html>")


async def attempted(given, *, failure_count=1, schedule=SCHEDULE, chance=0.5, **rules):
    """The attempt with the answer *given*, for a delivery with *failure_count* failures."""
    receivers = FakeReceivers()
    receivers.answers[ONE].append(given)
    delivery = rows.a_delivery(a_step(an_invoice(), event=an_event()), leased_until=START + DAY)
    attempts = making_attempts(receivers, retry_schedule=schedule, chance=lambda: chance, **rules)
    return await attempts.make(replace(delivery, failure_count=failure_count - 1))


async def classified(given, **rules):
    """The outcome and the detail of *given*, as the callback of invoices classifies it."""
    attempt = await attempted(given, **rules)
    return attempt.outcome, attempt.detail


async def decided(given, **options):
    """The decision for a delivery with the answer *given*."""
    return (await attempted(given, **options)).decision


async def decided_and_held(given, **options):
    """The decision for a delivery with the answer *given*, and the end of the hold."""
    attempt = await attempted(given, **options)
    return attempt.decision, attempt.held_until


# The outcome of an answer


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize("status_code", [200, 201, 202, 299])
@pytest.mark.parametrize("body", [b'{"ok": true}', b'{"ok": true, "more": [1]}', b' {"ok":true} '])
async def test_the_declared_answer_is_an_acknowledgement(status_code, body, is_strict):
    """Any 2xx with the declared body is an acknowledgement, under both contracts."""
    given = answer(status_code, body)

    assert (AttemptOutcome.DELIVERED, None) == await classified(given, is_strict=is_strict)


MISMATCHES = [
    b"",
    b"OK",
    b"{}",
    b"[]",
    b"null",
    b"true",
    b'{"ok": false}',
    b'{"ok": null}',
    b'{"ok": "true"}',
    b'{"ok": 1}',
    b'{"OK": true}',
    b'{"ok": true',
    b'{"ok": true}\xff',
    b'{"ok": true}\0',
    b"\x1f\x8b\x08gzip",
    HTML.body,
    b"[" * 60_000,
]


@pytest.mark.parametrize("body", MISMATCHES)
async def test_a_2xx_with_another_body_is_invalid(body):
    """A login page, a parked domain and `{"ok": false}` are no acknowledgements."""
    outcome, detail = await classified(answer(200, body))

    assert AttemptOutcome.INVALID_ANSWER is outcome
    assert detail.isprintable()
    assert len(detail) < 300


@pytest.mark.parametrize("body", MISMATCHES)
async def test_a_lenient_contract_records_the_difference(body):
    """If any 2xx is accepted, the difference from the declared body is recorded."""
    outcome, detail = await classified(answer(204, body), is_strict=False)

    assert AttemptOutcome.DELIVERED is outcome
    assert detail.startswith("accepted although")


async def test_a_truncated_answer_is_invalid():
    """A body that is longer than the limit is invalid, even if its beginning is as declared."""
    outcome, detail = await classified(answer(200, is_truncated=True))

    assert AttemptOutcome.INVALID_ANSWER is outcome
    assert "larger" in detail


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize(
    "status_code", [300, 301, 302, 304, 307, 400, 401, 404, 410, 429, 500, 503]
)
async def test_every_other_status_is_a_refusal(status_code, is_strict):
    """A status that is not 2xx, redirects included, is a refusal with any body."""
    expected = (AttemptOutcome.REFUSED, f"the receiver answered {status_code}")

    assert expected == await classified(answer(status_code), is_strict=is_strict)


@pytest.mark.parametrize("outcome", NO_ANSWERS)
async def test_every_failure_without_an_answer_has_its_outcome(outcome):
    """If there is no answer, the reason is recorded as outcome and detail."""
    expected = (outcome, "no answer within 15 s")

    assert expected == await classified(NoAnswer(outcome, "no answer within 15 s"))


# The decision


async def test_an_acknowledgement_delivers():
    """After an acknowledgement the delivery is delivered."""
    assert Delivered() == await decided(answer())


async def test_an_acknowledgement_ignores_retry_after():
    """A Retry-After on an acknowledgement causes no hold."""
    given = answer(retry_after="60")

    assert (Delivered(), None) == await decided_and_held(given, failure_count=99)


async def test_a_lenient_contract_accepts_any_2xx():
    """A receiver that cannot be changed can acknowledge with any 2xx."""
    assert Delivered() == await decided(HTML, is_strict=False)


FAILURES = [
    HTML,
    answer(200, b'{"ok": false}'),
    answer(302),
    answer(400),
    answer(404),
    answer(429),
    answer(500),
    answer(503),
    NoAnswer(AttemptOutcome.TIMEOUT, ""),
    NoAnswer(AttemptOutcome.UNREACHABLE, ""),
    NoAnswer(AttemptOutcome.MALFORMED, ""),
]


@pytest.mark.parametrize("given", FAILURES)
@pytest.mark.parametrize(("failure_count", "delay"), [(1, 5 * SECOND), (2, 300 * SECOND)])
async def test_failures_are_retried_after_the_schedule(given, failure_count, delay):
    """After any failure the next attempt is due after the delay of that failure."""
    assert Retry(delay) == await decided(given, failure_count=failure_count)


@pytest.mark.parametrize("given", FAILURES)
async def test_a_failure_after_the_last_delay_exhausts_the_schedule(given):
    """A delivery is exhausted after one failure more than the schedule has delays."""
    assert Dead(DeadReason.EXHAUSTED) == await decided(given, failure_count=3)


async def test_without_a_schedule_the_first_failure_exhausts():
    """An empty schedule allows a single attempt."""
    assert Dead(DeadReason.EXHAUSTED) == await decided(answer(500), schedule=())


@pytest.mark.parametrize(("delay", "chance"), [(4 * SECOND, 0.0), (6 * SECOND, 1.0)])
async def test_delays_have_jitter(delay, chance):
    """Deliveries that fail together are not retried together."""
    assert Retry(delay) == await decided(answer(500), chance=chance)


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize("retry_after", [None, "60"])
@pytest.mark.parametrize("failure_count", [1, 99])
async def test_410_is_final(failure_count, retry_after, is_strict):
    """A 410 ends the delivery, whatever else the answer contains."""
    given = answer(410, retry_after=retry_after)
    options = {"is_strict": is_strict, "failure_count": failure_count}

    assert (Dead(DeadReason.GONE), None) == await decided_and_held(given, **options)


async def test_a_denied_address_is_final():
    """An address that the policy denies is not attempted again."""
    assert Dead(DeadReason.BLOCKED) == await decided(NoAnswer(AttemptOutcome.BLOCKED, ""))


@pytest.mark.parametrize(
    "given",
    [
        answer(429, retry_after="60"),
        answer(503, retry_after="60"),
        answer(500, retry_after="60"),
        answer(404, retry_after="60"),
        answer(301, retry_after="60"),
        answer(200, b"busy", retry_after="60"),
        answer(503, retry_after="Sat, 31 Jan 2026 12:01:00 GMT"),
    ],
)
async def test_retry_after_is_a_lower_bound(given):
    """After any failure, neither the delivery nor its origin is due before the hold ends."""
    assert (Retry(60 * SECOND), START + 60 * SECOND) == await decided_and_held(given, chance=0.0)


async def test_retry_after_does_not_shorten_the_backoff():
    """A Retry-After that is shorter than the backoff has no effect on the delay."""
    given = answer(503, retry_after="1")

    assert (Retry(300 * SECOND), START + SECOND) == await decided_and_held(given, failure_count=2)


@pytest.mark.parametrize("retry_after", ["99999999", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_retry_after_is_limited_to_a_day(retry_after):
    """One answer holds an origin for a day at most."""
    given = answer(503, retry_after=retry_after)

    assert (Retry(DAY), START + DAY) == await decided_and_held(given)


@pytest.mark.parametrize("retry_after", ["0", "-5", "soon", "", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_an_invalid_retry_after_is_ignored(retry_after):
    """Invalid values, zero and the past leave the backoff unchanged and cause no hold."""
    given = answer(503, retry_after=retry_after)

    assert (Retry(5 * SECOND), None) == await decided_and_held(given)


async def test_the_last_failure_still_holds_the_origin():
    """The hold of an exhausted delivery applies to the other deliveries of the origin."""
    expected = Dead(DeadReason.EXHAUSTED), START + 60 * SECOND

    assert expected == await decided_and_held(answer(503, retry_after="60"), failure_count=3)


# The rule without an answer


@pytest.mark.parametrize(
    ("expected", "meaning"),
    [
        (Delivered(), Meaning.DELIVERED),
        (Dead(DeadReason.GONE), Meaning.DEAD),
        (Retry(5 * SECOND), Meaning.RETRY),
        (Retry(5 * SECOND), Meaning.HOLD),
    ],
)
def test_each_meaning_has_its_decision(expected, meaning):
    """The meaning of an answer gives the decision, and a failure is retried by the schedule."""
    assert expected == decided_by(meaning)


@pytest.mark.parametrize("meaning", [Meaning.RETRY, Meaning.HOLD])
@pytest.mark.parametrize(("delay", "hold"), [(5 * SECOND, SECOND), (60 * SECOND, 60 * SECOND)])
def test_a_hold_prolongs_the_delay(delay, hold, meaning):
    """The next attempt is due after the longer one of hold and delay."""
    assert Retry(delay) == decided_by(meaning, hold=hold)


def decided_by(meaning=Meaning.RETRY, *, failure_count=1, chance=0.5, hold=None, schedule=SCHEDULE):
    """The decision of the rule."""
    return decide(meaning, hold=hold, failure_count=failure_count, schedule=schedule, chance=chance)


@pytest.mark.parametrize(("delay", "failure_count"), [(5 * SECOND, 1), (300 * SECOND, 2)])
def test_each_failure_has_its_own_delay(delay, failure_count):
    """The delay after the nth failure is the nth delay of the schedule."""
    assert Retry(delay) == decided_by(failure_count=failure_count)


@pytest.mark.parametrize(("share", "chance"), [(0.8, 0.0), (1.0, 0.5), (1.2, 1.0)])
def test_jitter_changes_delays_by_a_fifth(share, chance):
    """The extremes of the jitter are twenty per cent less and twenty per cent more."""
    assert Retry(300 * share * SECOND) == decided_by(failure_count=2, chance=chance)


@generated(st.floats(0, 1), st.integers(1, len(SCHEDULE)))
def test_jitter_stays_within_its_limits(chance, failure_count):
    """With any random number, a delay differs by no more than a fifth from the schedule."""
    middle = SCHEDULE[failure_count - 1]
    decision = decided_by(failure_count=failure_count, chance=chance)

    assert middle * 0.8 <= decision.delay <= middle * 1.2


def test_a_delay_of_zero_stays_zero():
    """A schedule may contain a retry without a delay."""
    assert Retry(timedelta(0)) == decided_by(schedule=(timedelta(0),), chance=1.0)


# Retry-After


@pytest.mark.parametrize(
    ("wait", "header"),
    [
        (SECOND, "1"),
        (120 * SECOND, "120"),
        (120 * SECOND, "  120 "),
        (7 * SECOND, "007"),
        (DAY, "86400"),
        (DAY, "86401"),
        (DAY, "999999999"),
        (DAY, "1" + "0" * 9),
        (DAY, "9" * 5000),
    ],
)
def test_seconds_are_limited_to_a_day(wait, header):
    """A number of seconds holds for that time, and for a day at most."""
    assert wait == retry_after(header, START)


@pytest.mark.parametrize(
    ("wait", "header"),
    [
        (30 * SECOND, "Sat, 31 Jan 2026 12:00:30 GMT"),
        (30 * SECOND, "Sat, 31 Jan 2026 13:00:30 +0100"),
        (30 * SECOND, "Sat, 31 Jan 2026 12:00:30"),
        (30 * SECOND, "Saturday, 31-Jan-26 12:00:30 GMT"),
        (DAY, "Mon, 02 Feb 2026 12:00:00 GMT"),
        (DAY, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ],
)
def test_dates_are_limited_to_a_day(wait, header):
    """A date holds until that instant, and for a day at most."""
    assert wait == retry_after(header, START)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "   ",
        "0",
        "-1",
        "+5",
        "1.5",
        "1e3",
        "soon",
        "٣",
        "²",
        "5 5",
        "0x10",
        "120s",
        "Sat, 31 Jan 2026 12:00:00 GMT",
        "Sat, 31 Jan 2026 11:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Sat, 99 Jan 2026 12:00:30 GMT",
        "Sat, 31 Jan 2026 25:00:00 GMT",
        "Sat, 31 Jan 2026 12:00:30 +9999",
        "Sat, 31 Jan 0000 12:00:30 GMT",
        "2026-01-31T12:00:30Z",
    ],
)
def test_invalid_values_cause_no_hold(header):
    """A value that is neither seconds nor a date in the future causes no hold."""
    assert None is retry_after(header, START)


@generated(
    st.text() | st.from_regex(r"[A-Za-z]{0,4},? ?\d{1,4} [A-Za-z]{3} \d{1,6} [\d:+ -]{0,20}")
)
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_any_header_value_is_handled(header):
    """Any value of the header gives no hold or a hold of up to one day."""
    wait = retry_after(header, START)

    assert wait is None or timedelta(0) < wait <= DAY
