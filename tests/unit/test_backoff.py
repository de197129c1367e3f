from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.delivery.backoff import delay_after, retry_after

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
SECOND = timedelta(seconds=1)
SCHEDULE = (5 * SECOND, 300 * SECOND, DAY)


@pytest.mark.parametrize(("delay", "failure_count"), [(5 * SECOND, 1), (300 * SECOND, 2), (DAY, 3)])
def test_each_failure_has_its_own_delay(delay, failure_count):
    """The delay after the nth failure is the nth of the schedule."""
    assert delay == delay_after(failure_count, SCHEDULE, 0.5)


@pytest.mark.parametrize(("share", "chance"), [(0.8, 0.0), (1.0, 0.5), (1.2, 1.0)])
def test_chance_spreads_delays_by_a_fifth(share, chance):
    """The ends of chance are twenty per cent less and twenty per cent more."""
    assert 300 * share * SECOND == delay_after(2, SCHEDULE, chance)


@given(st.floats(0, 1), st.integers(1, len(SCHEDULE)))
def test_no_chance_leads_outside(chance, failure_count):
    """Whatever chance says, a delay stays within a fifth of what the operator set."""
    middle = SCHEDULE[failure_count - 1]

    assert middle * 0.8 <= delay_after(failure_count, SCHEDULE, chance) <= middle * 1.2


def test_a_delay_of_nothing_stays_nothing():
    """A schedule may ask for another attempt at once."""
    assert timedelta(0) == delay_after(1, (timedelta(0),), 1.0)


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
    assert wait == retry_after(header, NOW)


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
    assert wait == retry_after(header, NOW)


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
    assert None is retry_after(header, NOW)


@given(st.text() | st.from_regex(r"[A-Za-z]{0,4},? ?\d{1,4} [A-Za-z]{3} \d{1,6} [\d:+ -]{0,20}"))
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_no_header_breaks_the_rule(header):
    """Whatever a receiver sends, it asks for nothing or for more than nothing and at most a day."""
    wait = retry_after(header, NOW)

    assert wait is None or timedelta(0) < wait <= DAY
