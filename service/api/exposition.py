"""
The text of `GET /metrics`, cached.

Anyone may request it at any rate, without a key. So the database is read for its backlog at most
every few seconds, the text is generated at most once a second, and a database that is unavailable
or slow does not delay the other metrics.
"""

import asyncio
import logging
from dataclasses import asdict
from datetime import timedelta

from service.clock import Clock
from service.errors import StorageUnavailable
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.api")

BACKLOG_KEPT = timedelta(seconds=10)
"""How long a backlog is reused before it is read again: less than the usual scrape interval."""

TEXT_KEPT = timedelta(seconds=1)
"""How long a text is reused: generating one takes some milliseconds."""

TEXTS_MAX = 8
"""Texts of different formats that are kept; further formats get the default one."""

BACKLOG_TIMEOUT_SECONDS = 2
"""How long a scrape waits for the database; Prometheus gives up after ten by default."""


class Exposition:
    """The exposition of *metrics* and of the backlog of *store*, for any number of scrapers."""

    def __init__(self, store: Store, metrics: Metrics, clock: Clock) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._reading: asyncio.Task[None] | None = None
        self._read_at: timedelta | None = None
        self._texts: dict[str, tuple[bytes, str]] = {}
        self._texts_made_at: timedelta | None = None

    async def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that *accept* prefers, and the content type of that format."""
        if self._is_over(self._texts_made_at, TEXT_KEPT):
            await self._update_backlog()
            # Checked again: of all requests that waited for one backlog, the first makes the text.
            if self._is_over(self._texts_made_at, TEXT_KEPT):
                self._texts, self._texts_made_at = {}, self._clock.elapsed()
        if accept not in self._texts and len(self._texts) >= TEXTS_MAX:
            accept = ""
        if accept not in self._texts:
            self._texts[accept] = self._metrics.exposition(accept)
        return self._texts[accept]

    async def close(self) -> None:
        """Cancel reading the backlog: the database is about to be closed."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _is_over(self, at: timedelta | None, kept: timedelta) -> bool:
        # By elapsed time: texts are renewed also after the clock was set back.
        return at is None or self._clock.elapsed() - at >= kept

    async def _update_backlog(self) -> None:
        """Read the backlog unless it was read recently; one reading at a time."""
        if self._reading is None and self._is_over(self._read_at, BACKLOG_KEPT):
            self._read_at = self._clock.elapsed()
            self._reading = asyncio.create_task(self._read_backlog())
        if self._reading is not None:
            _, unfinished = await asyncio.wait([self._reading], timeout=BACKLOG_TIMEOUT_SECONDS)
            if unfinished:
                self._metrics.storage_unavailable()

    async def _read_backlog(self) -> None:
        try:
            # A database that can be read and not written to is unavailable as well.
            await self._store.ping()
            backlog = await self._store.backlog(self._clock.now())
            self._metrics.storage_answered(asdict(backlog))
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
            self._metrics.storage_unavailable()
        except Exception:  # without a backlog, the other metrics are answered all the same
            log.exception("backlog.failed")
            self._metrics.storage_unavailable()
        finally:
            self._reading = None
