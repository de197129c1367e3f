"""
The loop that applies retention: what was settled long ago is removed, a little at a time.

Never what is pending, however old. Any number of processes may sweep beside each other.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from service.clock import Clock
from service.loops import AT_ONCE, POLL, keep_rounds
from service.storage.retention import SweepPlace
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.delivery")

SWEEP_EVERY = timedelta(hours=1)
"""How long what could be removed may stay: little, beside how long it was kept."""


class Sweeper:
    """Removes the deliveries that were settled more than *retention* ago, with their attempts."""

    held_count = 0
    """It leases nothing."""

    def __init__(self, store: Store, retention: timedelta, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._retention = retention
        self._clock = clock
        self._metrics = metrics
        self._place = SweepPlace()
        self._count = 0
        self._told_to_drain = asyncio.Event()
        self.is_draining = False

    async def run(self) -> None:
        """Sweep until `drain` is called."""
        await keep_rounds(self, self._told_to_drain, self._clock)

    def drain(self) -> None:
        """Remove nothing more after this batch."""
        self.is_draining = True
        self._told_to_drain.set()

    async def run_round(self) -> timedelta:
        """
        Remove one batch.

        Returns:
            How long the next one may wait: not at all, until everything was looked at.
        """
        settled_before = self._clock.now() - self._retention
        swept = await self._store.sweep(self._place, settled_before)
        self._metrics.swept(swept.count)
        self._place, self._count = swept.next or SweepPlace(), self._count + swept.count
        if swept.next:
            return AT_ONCE
        await self._forget_holds(settled_before)
        self._tell()
        return max(POLL, min(SWEEP_EVERY, self._retention))

    async def _forget_holds(self, over_before: datetime) -> None:
        after: str | None = ""
        while after is not None and not self.is_draining:
            after = await self._store.forget_holds(after, over_before)

    def _tell(self) -> None:
        if self._count:
            log.info("deliveries.swept", extra={"fields": {"count": self._count}})
        self._count = 0
