"""
Where the pending deliveries of each receiver begin, as far as this process has seen.

While somebody keeps a transaction open, PostgreSQL removes no entry of a settled delivery from its
indexes. Each look at a receiver would walk past all of them again, from the first one on. A look
tells when the first pending delivery was due, and the next one begins there: after twelve thousand
deliveries beside such a transaction, an invoice reads 86 index entries of pending deliveries, and
823 where each look begins with the first one and scans are not paced.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from service.storage.waiting import Waiting

MARGIN = timedelta(seconds=2)
"""
How much earlier a look begins: other processes may commit later, or have clocks that are behind.

What is earlier still is found by the looks along all receivers, which begin with the first one.
"""

KNOWN_MAX = 10_000
"""Receivers that are remembered; those that were looked at last."""


class Beginnings:
    """For each receiver an instant before which none of its pending deliveries was due."""

    def __init__(self) -> None:
        self._known: dict[str, datetime] = {}

    def of(self, names: Iterable[str], now: datetime) -> Mapping[str, datetime]:
        """Those of the receivers *names* that are known; what is written from *now* on is later."""
        latest, known = now - MARGIN, self._known
        return {name: min(known[name], latest) for name in names if name in known}

    def learn(self, names: Collection[str], found: Iterable[Waiting], now: datetime) -> None:
        """A look at *names*, at *now*, has *found* these; the others had nothing pending."""
        first_due_at = {one.receiver: one.first_due_at for one in found}
        for name in names:
            self._known.pop(name, None)
            self._known[name] = min(first_due_at.get(name, now), now) - MARGIN
        while len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]
