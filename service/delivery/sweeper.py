"""
The loop that applies retention: it removes deliveries that were settled long ago, in batches.

Pending deliveries are never removed. Any number of processes may each run one.
"""

import logging
from datetime import datetime, timedelta

from service.clock import Clock
from service.loops import AT_ONCE, POLL, Loop, Round, Signal
from service.storage.retention import SweepPosition
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.delivery")

SWEEP_INTERVAL = timedelta(hours=1)
"""The longest wait between two sweeps: short compared with the retention."""


class Sweeper(Loop):
    """
    Removes the deliveries that were settled more than *retention* ago, with their attempts.

    After them, it removes states of receivers and counts of hours that mean nothing any more.
    """

    def __init__(self, store: Store, retention: timedelta, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, signal=Signal())
        self._store = store
        self._retention = retention
        self._metrics = metrics
        self._position = SweepPosition()
        self._count = 0

    async def run_round(self) -> Round:
        """Remove one batch; after the last one, wait until the next sweep."""
        settled_before = self.clock.now() - self._retention
        swept = await self._store.sweep(self._position, settled_before)
        self._metrics.swept(swept.count)
        self._position, self._count = swept.next or SweepPosition(), self._count + swept.count
        if swept.next:
            return Round(swept.count, AT_ONCE)
        for kind in ("receivers", "origins"):
            await self._remove_states(kind, settled_before)
        while not self.is_draining and await self._store.receivers.remove_old_hours(
            self.clock.now()
        ):
            pass
        if self._count:
            log.info("deliveries.swept", extra={"fields": {"count": self._count}})
        self._count = 0
        return Round(swept.count, max(POLL, min(SWEEP_INTERVAL, self._retention)))

    async def _remove_states(self, kind: str, over_before: datetime) -> None:
        after: str | None = ""
        while after is not None and not self.is_draining:
            after = await self._store.remove_states(kind, after, over_before)
