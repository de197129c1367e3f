"""
The loop that shows other processes that this one is alive, and finds those that are not.

Processes that share a server may be on other machines. One that is killed says nothing: it is dead
once it has been silent for `SILENCE`. Then its leases have ended, and every process may take them.

Each process counts its own beats, and measures with its own clock for how long the count of
another one has not changed; clocks of different machines are never compared. A process that could
not look for a while, because it was paused or the database was away, starts to measure anew: all
others may have been unable to beat as well. A process that is only slow loses nothing to a wrong
verdict but its leases, and their tokens prevent that two settle one delivery.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta

from service.clock import Clock
from service.errors import StorageUnavailable
from service.loops import Loop, Round, Signal
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.loops")

BEAT = timedelta(milliseconds=500)
"""The wait between two beats."""

SILENCE = timedelta(seconds=5)
"""How long a process is silent before it is dead: longer than any pause of one that works."""

GAP = timedelta(seconds=2)
"""The longest time between two looks at the others; after a longer one, all are measured anew."""


class Heartbeat(Loop):
    """Beats for this process, and ends the leases of processes that have stopped beating."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, signal=Signal())
        self._store = store
        self._metrics = metrics
        self._looked_at = clock.elapsed()
        self._silent_since: Mapping[tuple[int, int], timedelta] = {}
        """By id and beat count of another process: when this count was first seen."""

    async def run_round(self) -> Round:
        """Beat once; end the processes that have been silent for too long."""
        try:
            beat_counts = await self._store.beat(self.clock.now())
            count = await self._end_silent(beat_counts)
        except StorageUnavailable as error:
            # The next beat is due as soon as the database is back.
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
            return Round(0, BEAT)
        return Round(count, BEAT)

    async def _end_silent(self, beat_counts: Mapping[int, int]) -> int:
        now = self.clock.elapsed()
        before = {} if now - self._looked_at > GAP else self._silent_since
        self._looked_at = now
        self._silent_since = {one: before.get(one, now) for one in beat_counts.items()}
        silent = [one for one, at in self._silent_since.items() if now - at >= SILENCE]
        for process_id, beat_count in silent:
            if await self._store.end_process(process_id, beat_count, self.clock.now()):
                self._metrics.process_lost()
                log.warning("process.lost", extra={"fields": {"process": process_id}})
        return len(silent)
