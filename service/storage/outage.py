"""One line in the log when the database goes away, and one when it is back."""

from __future__ import annotations

import logging
import time

from service.errors import StorageUnavailable

log = logging.getLogger("invoices.storage")


class Outage:
    """
    Whether the database is away, as far as those know who asked it last.

    Every request that fails meanwhile is told to whoever made it, and to no log.
    """

    def __init__(self) -> None:
        self._began_at: float | None = None

    def goes_on(self, error: StorageUnavailable) -> None:
        """The database has failed us."""
        if self._began_at is None:
            self._began_at = time.monotonic()
            log.error("storage.lost", extra={"fields": {"detail": str(error)}})

    def is_over(self) -> None:
        """The database has done what it was asked."""
        if self._began_at is not None:
            seconds = round(time.monotonic() - self._began_at, 3)
            self._began_at = None
            log.warning("storage.found", extra={"fields": {"away_seconds": seconds}})
