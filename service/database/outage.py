"""One log line when the database becomes unavailable, and one when it is available again."""

import logging
import time

from service.errors import StorageUnavailable

log = logging.getLogger("invoices.storage")


class Outage:
    """
    Whether the database is unavailable, according to the last requests to it.

    A database that can be read but not written to, because its disk is full for example, is
    unavailable too; that outage ends with the next write, and no read ends it. The requests that
    fail during an outage are not logged: their callers are informed.
    """

    def __init__(self) -> None:
        self._began_at: float | None = None
        self.is_of_writes = False
        """Whether a write has failed, and none has succeeded since."""

    def begin(self, error: StorageUnavailable, *, is_write: bool) -> None:
        """Record a failed request; the first one of an outage is logged."""
        self.is_of_writes |= is_write
        if self._began_at is None:
            self._began_at = time.monotonic()
            log.error("storage.lost", extra={"fields": {"detail": str(error)}})

    def end(self, *, has_written: bool) -> bool:
        """Record a request that succeeded; whether an outage ended with it."""
        if self._began_at is None or (self.is_of_writes and not has_written):
            return False
        seconds = round(time.monotonic() - self._began_at, 3)
        self._began_at, self.is_of_writes = None, False
        log.warning("storage.found", extra={"fields": {"away_seconds": seconds}})
        return True
