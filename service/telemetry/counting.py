"""
Adds up what is counted, and gives the sums to prometheus_client a few times a second.

prometheus_client takes a lock and several calls for each count, and an invoice is counted ten times
on its way: with sums, a lone one takes 4 % fewer instructions.
"""

import asyncio
from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict

from prometheus_client import Counter, Gauge, Histogram

DELAY_SECONDS = 0.25
"""How long a sum waits at most."""

OUTLIVING_DELAY_SECONDS = 0.02
"""
The same where the metrics outlive their process, as those of workers do: one that is killed loses
the sums that wait, as it loses the log lines of the same time.

prometheus_client writes each count of a worker into a file: 12 % of the processor time of an
invoice, if nothing waits.
"""


class Sums:
    """
    What was counted and is not in its metric yet: for *delay_seconds* at most.

    Without a running loop nothing waits.
    """

    def __init__(self, delay_seconds: float = DELAY_SECONDS) -> None:
        self._delay_seconds = delay_seconds
        self._amounts: dict[Counter | Gauge, float] = {}
        self._observed = defaultdict[Histogram, list[float]](list)
        self._is_timed = False

    def add(self, metric: Counter | Gauge, amount: float = 1) -> None:
        """Add *amount* to *metric*, soon."""
        amounts = self._amounts
        amounts[metric] = amounts.get(metric, 0) + amount
        if not self._is_timed:
            self._flush_soon()

    def observe(self, histogram: Histogram, amount: float) -> None:
        """Have *histogram* observe *amount*, soon."""
        self._observed[histogram].append(amount)
        if not self._is_timed:
            self._flush_soon()

    def flush(self) -> None:
        """Give everything to the metrics now."""
        self._is_timed = False
        amounts, self._amounts = self._amounts, {}
        for metric, amount in amounts.items():
            metric.inc(amount)
        for histogram, observed in self._observed.items():
            _observe(histogram, observed)
        self._observed.clear()

    def _flush_soon(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self._is_timed = True
            loop.call_later(self._delay_seconds, self.flush)


def _observe(histogram: Histogram, amounts: list[float]) -> None:
    """As `Histogram.observe` with each of *amounts*, for which there is no public way."""
    bounds = histogram._upper_bounds
    for bucket, count in Counts(bisect_left(bounds, amount) for amount in amounts).items():
        histogram._buckets[bucket].inc(count)
    histogram._sum.inc(sum(amounts))
