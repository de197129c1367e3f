"""
Rate limit: a token bucket for each account, in the memory of this process.

A bucket fills at a constant rate up to its size, and each request takes one token. So an account
may exceed the rate for a short time.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from service.clock import Clock
from service.errors import TooManyRequests

BUCKETS_MAX = 10_000


@dataclass(slots=True)
class _Bucket:
    token_count: float
    at: datetime


class RateLimit:
    """Lets each account make *per_second* requests, *burst* of them at once; 0 is no limit."""

    def __init__(self, per_second: float, burst: int, clock: Clock) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, account_id: str) -> None:
        """
        Count one request of an account.

        Raises:
            TooManyRequests: if its bucket is empty, with the seconds after which it is not.
        """
        if not self._per_second:
            return
        bucket = self._filled(account_id)
        if bucket.token_count < 1:
            raise TooManyRequests((1 - bucket.token_count) / self._per_second)
        bucket.token_count -= 1

    def _filled(self, account_id: str) -> _Bucket:
        now = self._clock.now()
        bucket = self._buckets.get(account_id)
        if bucket is None:
            bucket = self._buckets[account_id] = _Bucket(self._burst, now)
            if len(self._buckets) > BUCKETS_MAX:
                # The bucket that was used longest ago is full by now, as a new one would be.
                self._buckets.popitem(last=False)
        passed_seconds = max(0.0, (now - bucket.at).total_seconds())
        bucket.token_count = min(
            self._burst, bucket.token_count + passed_seconds * self._per_second
        )
        bucket.at = now
        self._buckets.move_to_end(account_id)
        return bucket
