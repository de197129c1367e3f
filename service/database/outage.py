"""One line in the log when the database goes away, and one when it is back."""

from __future__ import annotations

import logging
import time

from service.errors import StorageUnavailable

log = logging.getLogger("invoices.storage")


class Outage:
    """
    Whether the database is away, as far as those know who asked it last.

    A database that can be read but not written to is away as well: a full disk is like that. Such
    an outage is over when something has been written, whatever was read meanwhile.

    Every request that fails meanwhile is told to whoever made it, and to no log.
    """

    def __init__(self) -> None:
        self._began_at: float | None = None
        self.is_of_writes = False
        """Whether it has failed to write, and has written nothing since."""

    def goes_on(self, error: StorageUnavailable, *, is_write: bool) -> None:
        """The database has failed us."""
        self.is_of_writes |= is_write
        if self._began_at is None:
            self._began_at = time.monotonic()
            log.error("storage.lost", extra={"fields": {"detail": str(error)}})

    def ends(self, *, has_written: bool) -> bool:
        """The database has done what it was asked; whether an outage is over with that."""
        if self._began_at is None or (self.is_of_writes and not has_written):
            return False
        seconds = round(time.monotonic() - self._began_at, 3)
        self._began_at, self.is_of_writes = None, False
        log.warning("storage.found", extra={"fields": {"away_seconds": seconds}})
        return True
