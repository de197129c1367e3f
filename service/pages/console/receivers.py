"""The receivers of an account: how they are, and pausing, resuming and testing them."""

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.domain.receivers import KnownReceiver
from service.pages.console.charts import chart_of
from service.pages.console.filters import text_of
from service.pages.console.screens import Screen, log_fields
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console
from service.storage.console import HourCounts

log = logging.getLogger("invoices.pages")

SECTION = "receivers"
PAGE_SIZE = 20

DONE = {
    "paused": "It is paused: nothing is sent to it until it is resumed.",
    "resumed": "It is resumed: what waited is attempted at once.",
    "unchanged": "It was so already, and nothing was changed.",
}
"""What a form has done, by what stands in the URL after it."""


class Receivers:
    """The screen of receivers, and what its forms do."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, _: web.Request) -> Screen:
        """A page of the receivers in the order of their URLs."""
        store, after = self._console.store, text_of(visit.query, "after") or None
        known, next_after = await store.receivers.page(
            visit.account_id, visit.now, after=after, limit=PAGE_SIZE
        )
        hours = await store.console.hours_of([one.receiver for one in known], visit.now)
        rows = [_shown(one, hours[one.receiver], visit) for one in known]
        troubled = [row for row in rows if row["state"] not in {"healthy", "unknown"}]
        return Screen(
            template="receivers.html",
            title="Receivers",
            section=SECTION,
            values={
                "rows": rows,
                "next_url": visit.url(SECTION, after=next_after) if next_after else None,
                "first_url": visit.url(SECTION) if after else None,
                "done": DONE.get(visit.query.get("done", ""), ""),
            },
            announcement=f"{len(rows)} receivers here, {len(troubled)} of them not healthy.",
        )

    async def pause(self, visit: Visit, request: web.Request, _: Mapping[str, str]) -> str:
        """Give a receiver no attempts."""
        async with self._console.turn(visit.account_id):
            known = await self._find(visit, request)
            is_changed = await self._console.store.receivers.pause(known, visit.now)
        if is_changed:
            log.info("receiver.paused", extra={"fields": _fields(visit, request, known)})
        return visit.url(SECTION, done="paused" if is_changed else "unchanged")

    async def resume(self, visit: Visit, request: web.Request, _: Mapping[str, str]) -> str:
        """Give a paused receiver attempts again."""
        async with self._console.turn(visit.account_id):
            known = await self._find(visit, request)
            is_changed = await self._console.store.receivers.resume(known)
        if is_changed:
            log.info("receiver.resumed", extra={"fields": _fields(visit, request, known)})
        return visit.url(SECTION, done="resumed" if is_changed else "unchanged")

    async def test(self, visit: Visit, request: web.Request, _: Mapping[str, str]) -> str:
        """Send a receiver a test event, and lead to its delivery."""
        async with self._console.turn(visit.account_id):
            known = await self._find(visit, request)
        fields = _fields(visit, request, known)
        delivery_id = await self._console.send_test(visit.account_id, known, fields["request_id"])
        log.info("receiver.tested", extra={"fields": {**fields, "delivery_id": delivery_id}})
        return visit.url("deliveries", delivery_id)

    async def _find(self, visit: Visit, request: web.Request) -> KnownReceiver:
        return await self._console.store.receivers.find(
            visit.account_id, request.match_info["id"], visit.now
        )


def _fields(visit: Visit, request: web.Request, known: KnownReceiver) -> dict[str, str]:
    """What is logged: the origin alone, because the path of a URL may hold a secret."""
    return {**log_fields(request, visit), "origin": known.origin}


def _shown(known: KnownReceiver, hours: list[HourCounts], visit: Visit) -> dict[str, Any]:
    row = known.shown_at(visit.now)
    id_ = str(row["id"])
    oldest = known.oldest_due_at
    return {
        **row,
        "chart": chart_of(hours),
        "is_paused": known.paused_at is not None,
        "waits_for": visit.now - oldest if oldest and oldest <= visit.now else None,
        "pause_url": visit.url(SECTION, id_, "pause"),
        "resume_url": visit.url(SECTION, id_, "resume"),
        "test_url": visit.url(SECTION, id_, "test"),
        "deliveries_url": visit.url("deliveries", origin=known.origin),
    }
