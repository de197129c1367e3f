"""
What the attempts of a receiver came to in an hour: counts, and a histogram of their durations.

The histogram has few buckets, so that an hour of a receiver is one small row. A percentile is
therefore an estimate: it is exact to the bucket, and is interpolated inside it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import datetime

from service.values import value

BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
"""The longest duration of each bucket; one more bucket has those that took longer."""

COUNTS = ("delivered_count", "failed_count", *(f"within_{one}_ms" for one in BOUNDS_MS), "longer")
"""The names of the counts of an hour, in their order."""

DELIVERED, FAILED, FIRST_BUCKET = range(3)
"""Where in the counts an attempt is counted."""


def no_counts() -> list[int]:
    """The counts of an hour without attempts."""
    return [0] * len(COUNTS)


def bucket_of(duration_ms: int) -> int:
    """Where in the counts an attempt of that duration is counted."""
    return FIRST_BUCKET + bisect_left(BOUNDS_MS, duration_ms)


@value()
class Hour:
    """The *counts* of the attempts of one receiver that ended within an hour from *hour* on."""

    receiver: str
    hour: datetime
    counts: Sequence[int]

    @property
    def delivered_count(self) -> int:
        """Attempts that delivered."""
        return self.counts[DELIVERED]

    @property
    def failed_count(self) -> int:
        """Attempts that failed."""
        return self.counts[FAILED]


def added(all_counts: Iterable[Sequence[int]]) -> list[int]:
    """The sums of several counts."""
    sums = no_counts()
    for counts in all_counts:
        sums = [one + more for one, more in zip(sums, counts, strict=True)]
    return sums


def success_rate(counts: Sequence[int]) -> float | None:
    """Which part of the attempts delivered, from 0 to 1; None without attempts."""
    total = counts[DELIVERED] + counts[FAILED]
    return round(counts[DELIVERED] / total, 4) if total else None


def percentile_ms(counts: Sequence[int], fraction: float) -> int | None:
    """The duration within which that *fraction* of the attempts ended; None without attempts."""
    buckets = counts[FIRST_BUCKET:]
    wanted = fraction * sum(buckets)
    if not wanted:
        return None
    before = 0
    for number, count in enumerate(buckets):
        if count and before + count >= wanted:
            shortest = BOUNDS_MS[number - 1] if number else 0
            # The last bucket has no end: its attempts took at least this long.
            longest = BOUNDS_MS[number] if number < len(BOUNDS_MS) else shortest
            return round(shortest + (longest - shortest) * (wanted - before) / count)
        before += count
    return None
