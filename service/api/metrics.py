"""
The figures of the service over HTTP, for whoever watches over it.

Anybody may ask, however often. So the database is asked for its backlog at most every few
seconds, the text is made at most once a second, and neither a database that is away nor one that
is slow keeps the other figures from being told.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from datetime import timedelta

from aiohttp import hdrs, web
from aiohttp_apispec import docs

from service.api.dependencies import METRICS, OPERATION_IDS
from service.clock import Clock
from service.errors import StorageUnavailable
from service.storage.store import Store
from service.telemetry.metrics import OTHER, Metrics
from service.web.responses import answers_text, refuses

log = logging.getLogger("invoices.api")

BACKLOG_KEPT = timedelta(seconds=10)
"""For how long a backlog is told before it is looked up again: less than usual between scrapes."""

TEXT_KEPT = timedelta(seconds=1)
"""For how long a text is told again before it is made anew: making it takes some milliseconds."""

TEXTS_MAX = 8
"""Texts that are made in that time; who asks for yet another format gets the plainest."""

PATIENCE_SECONDS = 2
"""How long a scrape waits for the database; whoever scrapes gives up after ten by default."""

EXAMPLE = """\
# HELP invoices_deliveries_due Deliveries that are due and not leased.
# TYPE invoices_deliveries_due gauge
invoices_deliveries_due 0.0
"""


class Scrapes:
    """Tells what *metrics* count and what waits in the *store*, to any number of scrapers."""

    def __init__(self, store: Store, metrics: Metrics, clock: Clock) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._look: asyncio.Task[None] | None = None
        self._looked_at: timedelta | None = None
        self._texts: dict[str, tuple[bytes, str]] = {}
        self._texts_made_at: timedelta | None = None

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Every figure in the format that *accept* prefers, and that format's content type."""
        if self._is_over(self._texts_made_at, TEXT_KEPT):
            await self._look_up()
            # Asked again: of all that have waited for one look, the first makes the text.
            if self._is_over(self._texts_made_at, TEXT_KEPT):
                self._texts, self._texts_made_at = {}, self._clock.elapsed()
        if accept not in self._texts and len(self._texts) >= TEXTS_MAX:
            accept = ""
        if accept not in self._texts:
            self._texts[accept] = self._metrics.exposition(accept)
        return self._texts[accept]

    async def close(self) -> None:
        """Give up a look that is being taken: its database is about to be closed."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])

    def _is_over(self, at: timedelta | None, kept: timedelta) -> bool:
        # By the time that has passed: texts go on being made when somebody sets the clock back.
        return at is None or self._clock.elapsed() - at >= kept

    async def _look_up(self) -> None:
        """Ask the database, unless that was done a moment ago; one look at a time."""
        if self._look is None and self._is_over(self._looked_at, BACKLOG_KEPT):
            self._looked_at = self._clock.elapsed()
            self._look = asyncio.create_task(self._measure())
        if self._look is not None:
            _, unfinished = await asyncio.wait([self._look], timeout=PATIENCE_SECONDS)
            if unfinished:
                self._metrics.storage_is_away()

    async def _measure(self) -> None:
        try:
            # One that can be read and not be written to is away as well.
            await self._store.ping()
            backlog = await self._store.backlog(self._clock.now())
            self._metrics.storage_answered(asdict(backlog))
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
            self._metrics.storage_is_away()
        except Exception:  # without a backlog, the other figures are told all the same
            log.exception("backlog.failed")
            self._metrics.storage_is_away()
        finally:
            self._look = None


SCRAPES = web.AppKey("scrapes", Scrapes)


async def end_look(app: web.Application) -> None:
    """Leave nothing behind that asks the database once *app* has stopped."""
    await app[SCRAPES].close()


@docs(
    tags=["operations"],
    operationId="get_metrics",
    summary="What Prometheus reads",
    description="Counters, gauges and histograms in the text format of Prometheus, or in "
    "OpenMetrics for whoever prefers that. Answers while the database is away, too.",
    security=[],
)
@answers_text("Every figure of now.", EXAMPLE)
@refuses(400)
async def get_metrics(request: web.Request) -> web.Response:
    """Tell every figure."""
    accept = request.headers.get(hdrs.ACCEPT, "")
    text, content_type = await request.app[SCRAPES].exposition(accept)
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})


async def count_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Count every *response* that leaves the application, whoever made it."""
    operation = request.app[OPERATION_IDS].get(request.match_info.handler, OTHER)
    request.app[METRICS].answered(operation, response.status)
