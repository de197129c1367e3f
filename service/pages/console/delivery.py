"""One delivery: why it came or not, its attempts with requests and answers, and its buttons."""

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.domain.states import DeadReason, DeliveryStatus
from service.pages.console.curl import curl_of
from service.pages.console.deliveries import SECTION, record_redelivered, shown
from service.pages.console.screens import Screen, log_fields
from service.pages.console.verdicts import why_delivery
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

log = logging.getLogger("invoices.pages")

DONE = {
    "redelivered": "It is attempted now.",
    "unchanged": "An attempt was in progress, so nothing was changed.",
    "ended": "It had ended before it could be cancelled.",
    "cancelled": "It was cancelled, and is not attempted again.",
}
"""What a form has done, by what stands in the URL after it."""


class Delivery:
    """The screen of one delivery."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, request: web.Request) -> Screen:
        """The delivery and its attempts, newest first."""
        delivery_id = request.match_info["id"]
        row = shown(
            await self._console.store.history.find_delivery(visit.account_id, delivery_id), visit
        )
        why = await why_delivery(self._console, visit, delivery_id)
        body = await self._console.store.console.body_of(visit.account_id, delivery_id) or b""
        is_pending = row["status"] == DeliveryStatus.PENDING
        return Screen(
            template="delivery.html",
            title=f"Delivery {row['id']}",
            section=SECTION,
            values={
                "why": why,
                "row": row,
                "is_pending": is_pending,
                "body": body.decode("utf-8", "replace"),
                "attempts": [_attempt(one, body) for one in reversed(row["attempts"])],
                "redeliver_url": visit.url(SECTION, delivery_id, "redeliver"),
                "cancel_url": visit.url(SECTION, delivery_id, "cancel"),
                "done": DONE.get(visit.query.get("done", ""), ""),
            },
            announcement=why.sentence,
        )

    async def redeliver(self, visit: Visit, request: web.Request, _: Mapping[str, str]) -> str:
        """Attempt the delivery now, in whatever state it is."""
        delivery_id = request.match_info["id"]
        async with self._console.turn(visit.account_id):
            _row, is_changed = await self._console.store.redeliver(
                visit.account_id, delivery_id, visit.now
            )
        fields = {**log_fields(request, visit), "delivery_id": delivery_id}
        record_redelivered(self._console, fields, int(is_changed))
        done = "redelivered" if is_changed else "unchanged"
        return visit.url(SECTION, delivery_id, done=done)

    async def cancel(self, visit: Visit, request: web.Request, _: Mapping[str, str]) -> str:
        """Make a pending delivery dead; one that has ended stays as it is."""
        delivery_id = request.match_info["id"]
        async with self._console.turn(visit.account_id):
            row, is_cancelled = await self._console.store.cancel(
                visit.account_id, delivery_id, visit.now
            )
        if is_cancelled:
            self._console.metrics.settled(DeliveryStatus.DEAD, DeadReason.CANCELLED)
            fields = {**log_fields(request, visit), "delivery_id": delivery_id}
            log.info("delivery.cancelled", extra={"fields": fields})
        is_dead = row["reason"] == DeadReason.CANCELLED
        return visit.url(SECTION, delivery_id, done="cancelled" if is_dead else "ended")


PHASES = ("name", "connect", "tls", "send", "wait")
"""The phases of an attempt in their order, as the API names them."""


def _attempt(attempt: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """An attempt with its request as a command, where the request is known."""
    request = attempt["request"]
    curl = request and curl_of(request["method"], request["url"], request["headers"], body)
    return {**attempt, "curl": curl, "phases": _phases(attempt["phases_ms"])}


def _phases(milliseconds: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """The phases of an attempt, and where each stands in a bar that is 100 wide."""
    known = [(name, (milliseconds or {}).get(name) or 0) for name in PHASES]
    total = sum(ms for _, ms in known)
    shown, begin = list[dict[str, Any]](), 0.0
    for name, ms in known if total else ():
        width = 100 * ms / total
        shown.append({"name": name, "ms": ms, "begin": round(begin, 2), "width": round(width, 2)})
        begin += width
    return shown
