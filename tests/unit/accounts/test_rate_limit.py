from datetime import timedelta

import pytest

from service.accounts.rate_limit import BUCKETS_MAX, RateLimit
from service.errors import TooManyRequests
from service.web.problems import problem_of
from tests.rows import SECOND


def limit(clock, per_second=10, burst=3):
    """A rate limit with simple numbers."""
    return RateLimit(per_second, burst, clock)


def taken(limit, account_id="a", *, tries=100):
    """The number of accepted requests of *tries* requests at once."""
    count = 0
    for _ in range(tries):
        try:
            limit.take(account_id)
        except TooManyRequests:
            continue
        count += 1
    return count


def refusal(limit, account_id="a"):
    """The error of a request above the limit."""
    with pytest.raises(TooManyRequests) as raised:
        limit.take(account_id)
    return raised.value


def test_a_burst_is_accepted(clock):
    """As many requests as the burst are accepted at once, and no more."""
    assert 3 == taken(limit(clock))


def test_a_bucket_is_filled_at_its_rate(clock):
    """At a rate of ten per second, one request is accepted after each tenth of a second."""
    buckets = limit(clock)
    taken(buckets)

    clock.advance(SECOND / 10)
    assert 1 == taken(buckets)
    clock.advance(SECOND / 5)
    assert 2 == taken(buckets)


def test_parts_of_a_token_are_kept(clock):
    """Refused requests do not discard a part of a token that has been filled."""
    buckets = limit(clock)
    taken(buckets)
    for _ in range(9):
        clock.advance(SECOND / 100)
        assert 0 == taken(buckets, tries=1)

    clock.advance(SECOND / 100 + timedelta(microseconds=1))
    assert 1 == taken(buckets)


def test_a_bucket_holds_no_more_than_the_burst(clock):
    """After a day without requests an account has one burst."""
    buckets = limit(clock)
    taken(buckets)
    clock.advance(timedelta(days=1))

    assert 3 == taken(buckets)


def test_a_steady_rate_is_never_refused(clock):
    """Requests at exactly the rate are always accepted."""
    buckets = limit(clock, burst=1)
    for _ in range(200):
        buckets.take("a")
        # A little more than a tenth, because instants are rounded to microseconds.
        clock.advance(SECOND / 10 + timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("expected", "per_second", "passed_seconds"),
    [(0.1, 10, 0), (0.05, 10, 0.05), (1, 1, 0), (0.25, 1, 0.75), (0.001, 1000, 0)],
)
def test_a_refusal_has_the_time_until_the_next_request(clock, expected, per_second, passed_seconds):
    """A client that waits for the time in the refusal is accepted."""
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
def test_retry_after_is_at_least_one_whole_second(clock, expected, per_second, passed_seconds):
    """Retry-After is rounded up to whole seconds, so that no client returns too early."""
    buckets = limit(clock, per_second, burst=1)
    buckets.take("a")
    clock.advance(passed_seconds * SECOND)

    assert expected == problem_of(refusal(buckets)).headers["Retry-After"]


def test_accounts_do_not_affect_each_other(clock):
    """Requests of one account take no token of another."""
    buckets = limit(clock)
    assert 3 == taken(buckets, "a", tries=1000)

    assert 3 == taken(buckets, "b")


def test_zero_is_no_limit(clock):
    """With 0 every request is accepted, and no bucket is kept."""
    buckets = limit(clock, per_second=0, burst=1)

    assert 1000 == taken(buckets, tries=1000)
    assert 0 == len(buckets._buckets)


def test_a_clock_that_is_set_back_does_not_change_a_bucket(clock):
    """A correction of the clock neither fills nor empties a bucket."""
    buckets = limit(clock)
    taken(buckets, tries=2)
    clock.advance(timedelta(hours=-1))

    assert 1 == taken(buckets)
    clock.advance(SECOND / 10)
    assert 1 == taken(buckets)


def test_memory_is_bounded(clock):
    """The number of buckets is limited; the most recently used ones are kept."""
    buckets = limit(clock)
    for number in range(BUCKETS_MAX + 10):
        buckets.take(str(number))
        taken(buckets, "busy")

    assert BUCKETS_MAX == len(buckets._buckets)
    assert 0 == taken(buckets, "busy")
