from datetime import timedelta

import pytest

from service.accounts.rate_limit import BUCKETS_MAX, RateLimit
from service.errors import TooManyRequests
from service.web.problems import problem_of
from tests.rows import SECOND


def limit(clock, per_second=10, burst=3):
    """A limit that is easy to count."""
    return RateLimit(per_second, burst, clock)


def taken(limit, account_id="a", *, tries=100):
    """How many of that many requests at once are accepted."""
    count = 0
    for _ in range(tries):
        try:
            limit.take(account_id)
        except TooManyRequests:
            continue
        count += 1
    return count


def refusal(limit, account_id="a"):
    """The error of a request that is too many."""
    with pytest.raises(TooManyRequests) as raised:
        limit.take(account_id)
    return raised.value


def test_a_burst_passes_and_no_more(clock):
    """As many requests as the bucket holds are let through at once."""
    assert 3 == taken(limit(clock))


def test_a_bucket_fills_at_its_rate(clock):
    """Ten a second are one in a tenth of a second."""
    buckets = limit(clock)
    taken(buckets)

    clock.advance(SECOND / 10)
    assert 1 == taken(buckets)
    clock.advance(SECOND / 5)
    assert 2 == taken(buckets)


def test_parts_of_a_token_are_kept(clock):
    """An account that asks too often does not lose what was filled in meanwhile."""
    buckets = limit(clock)
    taken(buckets)
    for _ in range(9):
        clock.advance(SECOND / 100)
        assert 0 == taken(buckets, tries=1)

    clock.advance(SECOND / 100 + timedelta(microseconds=1))
    assert 1 == taken(buckets)


def test_a_bucket_holds_no_more_than_the_burst(clock):
    """After a silent day an account has one burst, and not a day's worth."""
    buckets = limit(clock)
    taken(buckets)
    clock.advance(timedelta(days=1))

    assert 3 == taken(buckets)


def test_a_steady_rate_is_never_refused(clock):
    """An account that keeps to the rate is always accepted."""
    buckets = limit(clock, burst=1)
    for _ in range(200):
        buckets.take("a")
        # A little more than a tenth: instants are whole microseconds, and parts of a token add up.
        clock.advance(SECOND / 10 + timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("expected", "per_second", "passed_seconds"),
    [(0.1, 10, 0), (0.05, 10, 0.05), (1, 1, 0), (0.25, 1, 0.75), (0.001, 1000, 0)],
)
def test_a_refusal_says_when_the_next_may_come(clock, expected, per_second, passed_seconds):
    """A client that waits so long is accepted."""
    buckets = limit(clock, per_second, burst=1)
    buckets.take("a")
    clock.advance(passed_seconds * SECOND)

    after_seconds = refusal(buckets).after_seconds

    assert expected == pytest.approx(after_seconds)
    clock.advance(timedelta(seconds=after_seconds) + timedelta(microseconds=1))
    buckets.take("a")


@pytest.mark.parametrize(
    ("expected", "per_second", "passed_seconds"),
    [("1", 1000, 0), ("1", 10, 0), ("1", 1, 0), ("1", 1, 0.999)],
)
def test_retry_after_is_whole_seconds_and_never_none(clock, expected, per_second, passed_seconds):
    """The header is rounded up: no client is sent back at once, or too early."""
    buckets = limit(clock, per_second, burst=1)
    buckets.take("a")
    clock.advance(passed_seconds * SECOND)

    assert expected == problem_of(refusal(buckets)).headers["Retry-After"]


def test_accounts_do_not_affect_each_other(clock):
    """An account that floods takes no token of another."""
    buckets = limit(clock)
    assert 3 == taken(buckets, "a", tries=1000)

    assert 3 == taken(buckets, "b")


def test_zero_is_no_limit(clock):
    """With 0 every request is accepted, and no bucket is kept."""
    buckets = limit(clock, per_second=0, burst=1)

    assert 1000 == taken(buckets, tries=1000)
    assert 0 == len(buckets._buckets)


def test_a_clock_that_is_set_back_takes_and_gives_nothing(clock):
    """A correction of the clock neither empties a bucket nor locks its account out."""
    buckets = limit(clock)
    taken(buckets, tries=2)
    clock.advance(timedelta(hours=-1))

    assert 1 == taken(buckets)
    clock.advance(SECOND / 10)
    assert 1 == taken(buckets)


def test_memory_is_bounded(clock):
    """However many accounts there are, the buckets that were used last are kept."""
    buckets = limit(clock)
    for number in range(BUCKETS_MAX + 10):
        buckets.take(str(number))
        taken(buckets, "busy")

    assert BUCKETS_MAX == len(buckets._buckets)
    assert 0 == taken(buckets, "busy")
