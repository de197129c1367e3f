"""
Counts the attempts of each receiver, and stores the counts and what they show from time to time.

To count an attempt costs no statement. What was counted and is not stored yet is lost if the
process is killed: the counts of `INTERVAL` at most. A drain stores them.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.clock import Clock
from service.domain.attempt_counts import DELIVERED, FAILED, Hour, added, bucket_of, no_counts
from service.domain.delivery import Attempt
from service.domain.outcomes import AttemptOutcome
from service.errors import StorageUnavailable
from service.loops import AT_ONCE, Loop, Round, Signal
from service.storage.observations import Observation
from service.storage.receivers import reason_of
from service.storage.store import Store

log = logging.getLogger("invoices.delivery")

INTERVAL = timedelta(seconds=5)
"""How often the counts are stored."""

RECEIVERS_MAX = 10_000
"""Receivers whose attempts are counted between two writes; those of further ones are not."""

BATCH = 500
"""Receivers in one transaction, which blocks other writers of SQLite for milliseconds."""


@dataclass(slots=True)
class Seen:
    """What the attempts of a receiver have shown since they were stored last."""

    origin: str
    hours: defaultdict[datetime, list[int]] = field(default_factory=lambda: defaultdict(no_counts))
    answered_at: datetime | None = None
    failing_since: datetime | None = None
    failed_at: datetime | None = None
    reason: str | None = None


class Observer(Loop):
    """Counts the attempts that this process has recorded, and stores the counts."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(clock, Signal())
        self._store = store
        self._seen: dict[str, Seen] = {}

    def count(self, attempt: Attempt) -> None:
        """Count a recorded *attempt*."""
        delivery, ended_at = attempt.delivery, attempt.ended_at
        seen = self._seen.get(delivery.receiver)
        if seen is None:
            if len(self._seen) >= RECEIVERS_MAX:
                return
            seen = self._seen[delivery.receiver] = Seen(delivery.origin)
        counts = seen.hours[ended_at.replace(minute=0, second=0, microsecond=0)]
        counts[DELIVERED if attempt.outcome is AttemptOutcome.DELIVERED else FAILED] += 1
        if not attempt.is_connected:
            seen.failing_since = seen.failing_since or ended_at
            seen.failed_at, seen.reason = ended_at, reason_of(attempt)
            return
        counts[bucket_of(attempt.duration_ms)] += 1
        if seen.failed_at:
            seen.failing_since = seen.failed_at = seen.reason = None
        state = attempt.receiver_state
        if state is None or state.answered_at:
            seen.answered_at = ended_at

    async def run_round(self) -> Round:
        """Store what was counted, some receivers at a time."""
        names = list(self._seen)[:BATCH]
        if not names:
            return Round(0, INTERVAL)
        taken = {name: self._seen.pop(name) for name in names}
        try:
            await self._store.receivers.observe(
                [_observation(name, one) for name, one in taken.items()]
            )
        except StorageUnavailable:
            self._put_back(taken)
            raise
        return Round(len(names), AT_ONCE if self._seen and len(names) == BATCH else INTERVAL)

    async def _run_rounds(self) -> None:
        await super()._run_rounds()
        while self._seen:
            try:
                await self.run_round()
            except StorageUnavailable as error:
                log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
                return

    def _put_back(self, taken: dict[str, Seen]) -> None:
        """Count what could not be stored together with what was counted meanwhile."""
        for name, one in taken.items():
            newer = self._seen.get(name)
            if newer is None:
                if len(self._seen) < RECEIVERS_MAX:
                    self._seen[name] = one
                continue
            for hour, counts in one.hours.items():
                newer.hours[hour] = added([newer.hours[hour], counts])
            newer.failing_since = newer.failed_at and (one.failing_since or newer.failing_since)
            newer.answered_at = newer.answered_at or one.answered_at


def _observation(name: str, seen: Seen) -> Observation:
    return Observation(
        receiver=name,
        origin=seen.origin,
        hours=[Hour(name, hour, counts) for hour, counts in seen.hours.items()],
        answered_at=seen.answered_at,
        failing_since=seen.failing_since,
        failed_at=seen.failed_at,
        reason=seen.reason,
    )
