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
    """The attempt that was answered *given*, for a delivery with so many failures, if it fails."""
    receivers = FakeReceivers()
    receivers.answers[ONE].append(given)
    delivery = rows.a_delivery(a_step(an_invoice(), event=an_event()), leased_until=START + DAY)
    attempts = making_attempts(receivers, retry_schedule=schedule, chance=lambda: chance, **rules)
    return await attempts.make(replace(delivery, failure_count=failure_count - 1))


async def classified(given, **rules):
    """What *given* is, measured by what the callback of invoices declares: outcome and detail."""
    attempt = await attempted(given, **rules)
    return attempt.outcome, attempt.detail


async def decided(given, **options):
    """What follows for a delivery that was answered *given*."""
    return (await attempted(given, **options)).decision


async def decided_and_held(given, **options):
    """What follows for a delivery that was answered *given*, and until when its origin is held."""
    attempt = await attempted(given, **options)
    return attempt.decision, attempt.held_until


# What an answer is


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize("status_code", [200, 201, 202, 299])
@pytest.mark.parametrize("body", [b'{"ok": true}', b'{"ok": true, "more": [1]}', b' {"ok":true} '])
async def test_what_is_declared_delivers(status_code, body, is_strict):
    """Any 2xx with the declared body is an acknowledgement, in both contracts."""
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
async def test_a_2xx_that_is_not_what_is_declared_is_invalid(body):
    """A login page, a parked domain and `{"ok": false}` are no acknowledgement."""
    outcome, detail = await classified(answer(200, body))

    assert AttemptOutcome.INVALID_ANSWER is outcome
    assert detail.isprintable()
    assert len(detail) < 300


@pytest.mark.parametrize("body", MISMATCHES)
async def test_a_lenient_contract_notes_the_mismatch(body):
    """Where any 2xx counts, what was wrong with it is still told."""
    outcome, detail = await classified(answer(204, body), is_strict=False)

    assert AttemptOutcome.DELIVERED is outcome
    assert detail.startswith("accepted although")


async def test_an_answer_that_is_cut_off_is_invalid():
    """More than is read cannot be what is declared, even if its beginning would do."""
    outcome, detail = await classified(answer(200, is_truncated=True))

    assert AttemptOutcome.INVALID_ANSWER is outcome
    assert "larger" in detail


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize(
    "status_code", [300, 301, 302, 304, 307, 400, 401, 404, 410, 429, 500, 503]
)
async def test_every_other_status_is_a_refusal(status_code, is_strict):
    """No body makes an acknowledgement of a status that is not 2xx, redirects included."""
    expected = (AttemptOutcome.REFUSED, f"the receiver answered {status_code}")

    assert expected == await classified(answer(status_code), is_strict=is_strict)


@pytest.mark.parametrize("outcome", NO_ANSWERS)
async def test_every_way_of_not_answering_has_its_outcome(outcome):
    """Why there is no answer is kept, with the words that say it."""
    expected = (outcome, "no answer within 15 s")

    assert expected == await classified(NoAnswer(outcome, "no answer within 15 s"))


# What becomes of the delivery


async def test_an_acknowledgement_ends_it():
    """The receiver has the event."""
    assert Delivered() == await decided(answer())


async def test_an_acknowledgement_ends_it_whatever_else_it_says():
    """A Retry-After on an acknowledgement holds nobody back."""
    given = answer(retry_after="60")

    assert (Delivered(), None) == await decided_and_held(given, failure_count=99)


async def test_lenient_takes_any_2xx():
    """A receiver that cannot be changed can still be delivered to."""
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
async def test_failures_come_again_after_the_schedule(given, failure_count, delay):
    """Whatever failed, the next attempt is due after the delay of that failure."""
    assert Retry(delay) == await decided(given, failure_count=failure_count)


@pytest.mark.parametrize("given", FAILURES)
async def test_failures_after_the_last_delay_are_the_end(given):
    """After as many failures as the schedule has delays, and one, it is exhausted."""
    assert Dead(DeadReason.EXHAUSTED) == await decided(given, failure_count=3)


async def test_without_a_schedule_the_first_failure_is_the_end():
    """An operator may allow a single attempt."""
    assert Dead(DeadReason.EXHAUSTED) == await decided(answer(500), schedule=())


@pytest.mark.parametrize(("delay", "chance"), [(4 * SECOND, 0.0), (6 * SECOND, 1.0)])
async def test_delays_are_spread(delay, chance):
    """Deliveries that failed together do not return together."""
    assert Retry(delay) == await decided(answer(500), chance=chance)


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize("retry_after", [None, "60"])
@pytest.mark.parametrize("failure_count", [1, 99])
async def test_gone_is_the_end_at_once(failure_count, retry_after, is_strict):
    """A receiver stops a delivery for good with 410, whatever else it says."""
    given = answer(410, retry_after=retry_after)
    options = {"is_strict": is_strict, "failure_count": failure_count}

    assert (Dead(DeadReason.GONE), None) == await decided_and_held(given, **options)


async def test_a_denied_address_is_the_end_at_once():
    """What the policy denies is not attempted again."""
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
async def test_retry_after_is_never_undercut(given):
    """On any failure, the next attempt is not before the receiver said, and its origin waits."""
    assert (Retry(60 * SECOND), START + 60 * SECOND) == await decided_and_held(given, chance=0.0)


async def test_retry_after_does_not_shorten_the_backoff():
    """A receiver that fails and asks for less waits as long as the others."""
    given = answer(503, retry_after="1")

    assert (Retry(300 * SECOND), START + SECOND) == await decided_and_held(given, failure_count=2)


@pytest.mark.parametrize("retry_after", ["99999999", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_retry_after_holds_for_a_day_at_most(retry_after):
    """No single answer keeps an origin waiting for longer than a day."""
    given = answer(503, retry_after=retry_after)

    assert (Retry(DAY), START + DAY) == await decided_and_held(given)


@pytest.mark.parametrize("retry_after", ["0", "-5", "soon", "", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_retry_after_that_says_nothing_changes_nothing(retry_after):
    """Garbage, zero and the past leave the backoff as it is and hold nobody."""
    given = answer(503, retry_after=retry_after)

    assert (Retry(5 * SECOND), None) == await decided_and_held(given)


async def test_the_last_failure_still_holds_the_origin():
    """A delivery that is exhausted leaves the wish of its receiver to the others."""
    expected = Dead(DeadReason.EXHAUSTED), START + 60 * SECOND

    assert expected == await decided_and_held(answer(503, retry_after="60"), failure_count=3)


# The rule alone


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
    """The meaning of an answer decides, and a failure is followed by the schedule."""
    assert expected == decided_by(meaning)


@pytest.mark.parametrize("meaning", [Meaning.RETRY, Meaning.HOLD])
@pytest.mark.parametrize(("delay", "hold"), [(5 * SECOND, SECOND), (60 * SECOND, 60 * SECOND)])
def test_a_hold_prolongs_the_delay(delay, hold, meaning):
    """The next attempt is due after the longer one of hold and delay."""
    assert Retry(delay) == decided_by(meaning, hold=hold)


def decided_by(meaning=Meaning.RETRY, *, failure_count=1, chance=0.5, hold=None, schedule=SCHEDULE):
    """What the rule alone decides."""
    return decide(meaning, hold=hold, failure_count=failure_count, schedule=schedule, chance=chance)


@pytest.mark.parametrize(("delay", "failure_count"), [(5 * SECOND, 1), (300 * SECOND, 2)])
def test_each_failure_has_its_own_delay(delay, failure_count):
    """The delay after the nth failure is the nth of the schedule."""
    assert Retry(delay) == decided_by(failure_count=failure_count)


@pytest.mark.parametrize(("share", "chance"), [(0.8, 0.0), (1.0, 0.5), (1.2, 1.0)])
def test_chance_spreads_delays_by_a_fifth(share, chance):
    """The ends of chance are twenty per cent less and twenty per cent more."""
    assert Retry(300 * share * SECOND) == decided_by(failure_count=2, chance=chance)


@generated(st.floats(0, 1), st.integers(1, len(SCHEDULE)))
def test_no_chance_leads_outside(chance, failure_count):
    """Whatever chance says, a delay stays within a fifth of what the operator set."""
    middle = SCHEDULE[failure_count - 1]
    decision = decided_by(failure_count=failure_count, chance=chance)

    assert middle * 0.8 <= decision.delay <= middle * 1.2


def test_a_delay_of_nothing_stays_nothing():
    """A schedule may ask for another attempt at once."""
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
def test_seconds_are_waited_up_to_a_day(wait, header):
    """A number of seconds is what it says, and never more than a day."""
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
def test_dates_are_waited_for_up_to_a_day(wait, header):
    """A date asks for the time that is left until then, and never for more than a day."""
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
def test_what_says_nothing_asks_for_nothing(header):
    """What is neither seconds nor a date in the future holds nothing back."""
    assert None is retry_after(header, START)


@generated(
    st.text() | st.from_regex(r"[A-Za-z]{0,4},? ?\d{1,4} [A-Za-z]{3} \d{1,6} [\d:+ -]{0,20}")
)
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_no_header_breaks_the_rule(header):
    """Whatever a receiver sends, it asks for nothing or for more than nothing and at most a day."""
    wait = retry_after(header, START)

    assert wait is None or timedelta(0) < wait <= DAY
