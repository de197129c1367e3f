import pytest

from service.domain.attempt_counts import (
    BOUNDS_MS,
    COUNTS,
    FIRST_BUCKET,
    added,
    bucket_of,
    no_counts,
    percentile_ms,
    success_rate,
)


def counted(*durations_ms):
    """The counts of attempts that took so long."""
    counts = no_counts()
    for one in durations_ms:
        counts[bucket_of(one)] += 1
    return counts


def test_every_duration_has_a_bucket():
    """A bucket ends with its bound; the last one has no end."""
    assert 0 == bucket_of(0) - FIRST_BUCKET
    for number, bound in enumerate(BOUNDS_MS):
        assert (number, number + 1) == (
            bucket_of(bound) - FIRST_BUCKET,
            bucket_of(bound + 1) - FIRST_BUCKET,
        )
    assert len(COUNTS) - 1 == bucket_of(10**9)


@pytest.mark.parametrize("fraction", [0.5, 0.95])
@pytest.mark.parametrize("duration_ms", [1, 3, 77, 480, 4_321, 29_999])
def test_a_percentile_is_exact_to_its_bucket(fraction, duration_ms):
    """The estimate is in the bucket of the real duration."""
    estimate = percentile_ms(counted(*[duration_ms] * 40), fraction)

    assert bucket_of(duration_ms) == bucket_of(estimate)


def test_the_slow_part_shows_in_the_higher_percentile_alone():
    """Ten slow attempts of a hundred are the 95th percentile, and not the median."""
    counts = counted(*[15] * 90, *[4_000] * 10)

    assert 10 < percentile_ms(counts, 0.5) <= 20
    assert 2_000 < percentile_ms(counts, 0.95) <= 5_000


def test_durations_without_an_end_are_told_as_their_beginning():
    """Of attempts in the last bucket it is only known that they took longer than its beginning."""
    assert 30_000 == percentile_ms(counted(10**6), 0.5)


def test_without_attempts_there_is_no_rate_and_no_duration():
    """Nothing is told of nothing; attempts without a connection have a rate and no duration."""
    assert (None, None) == (success_rate(no_counts()), percentile_ms(no_counts(), 0.5))
    failed = [0, 3, *no_counts()[FIRST_BUCKET:]]
    assert (0.0, None) == (success_rate(failed), percentile_ms(failed, 0.5))


def test_the_rate_is_rounded():
    """Two of three are 0.6667."""
    assert 0.6667 == success_rate([2, 1, *no_counts()[FIRST_BUCKET:]])


def test_counts_are_added():
    """Each count by itself."""
    assert [2 * one for one in range(len(COUNTS))] == added([range(len(COUNTS))] * 2)
    assert no_counts() == added([])
