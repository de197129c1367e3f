"""
What the loops have in common that ask a collector about money: one round, and one look.

A row is leased by a later due time. It is looked at in a task of its own; after a failure of ours
its lease runs out, and while the collector gives no answer the waits grow.
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from service.clock import Clock
from service.errors import StorageUnavailable
from service.loops import AT_ONCE, POLL, Loop, Round, Signal

log = logging.getLogger("invoices.collection")

T = TypeVar("T")

CONCURRENCY = 32
"""Rows that are looked at at a time; Stripe allows each account 25 to 100 calls a second."""

FAILING_WAIT_MAX = timedelta(minutes=30)
"""While the collector gives no answer, the waits grow up to this."""


def next_wait(interval: timedelta, failing_for: timedelta) -> timedelta:
    """The wait after a failure: as long as it has lasted, within bounds."""
    return max(interval, min(failing_for, FAILING_WAIT_MAX))


class LookingLoop(Loop, Generic[T]):
    """Looks at each row that is due; *name* begins the names of what it logs."""

    def __init__(self, name: str, clock: Clock, due: Signal) -> None:
        super().__init__(clock, due)
        self._name = name
        self._held_count = 0

    @property
    def held_count(self) -> int:
        """Rows that are being looked at."""
        return self._held_count

    @property
    @abstractmethod
    def idle_wait(self) -> timedelta:
        """The longest wait between two rounds if nothing is signalled."""

    @abstractmethod
    async def lease(self, now: datetime, limit: int) -> Sequence[T]:
        """Lease up to *limit* rows that are due at *now*."""

    @abstractmethod
    async def look(self, due: T) -> None:
        """Look at one row that is leased, and say when to look again."""

    @abstractmethod
    def log_fields(self, due: T) -> dict[str, Any]:
        """What identifies a row in the log."""

    async def run_round(self) -> Round:
        """Lease what is due and start a task for each."""
        capacity = CONCURRENCY - self._held_count
        if capacity <= 0:
            return Round(0, POLL)
        due = await self.lease(self.clock.now(), capacity)
        self._held_count += len(due)
        for one in due:
            self.tasks.create_task(self._look(one))
        # An account with more than its share of a round is due again at once.
        return Round(len(due), AT_ONCE if due else self.idle_wait)

    def unanswered(self, due: T, failing_since: datetime | None, error: Exception) -> None:
        """Log that the collector gives no answer, once until it does."""
        if failing_since is None:
            fields = {**self.log_fields(due), "detail": str(error)}
            log.warning(f"{self._name}.unanswered", extra={"fields": fields})

    async def _look(self, due: T) -> None:
        try:
            await self.look(due)
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        except Exception:  # one bad row must not stop the others
            log.exception(f"{self._name}.failed", extra={"fields": self.log_fields(due)})
        finally:
            self._held_count -= 1
            self.signal.set()
