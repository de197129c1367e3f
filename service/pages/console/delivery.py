"""One delivery: why it came or not, its attempts with requests and answers, and its buttons."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.domain.states import DeliveryStatus
from service.pages.console.curl import curl_of
from service.pages.console.deliveries import SECTION, record_redelivered, shown
from service.pages.console.screens import Screen, log_fields
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

DONE = {
    "redelivered": "It is attempted now.",
    "unchanged": "An attempt was in progress, so nothing was changed.",
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
        row = shown(await self._console.store.find_delivery(visit.account_id, delivery_id), visit)
        body = await self._console.store.console.body_of(visit.account_id, delivery_id) or b""
        is_pending = row["status"] == DeliveryStatus.PENDING
        return Screen(
            template="delivery.html",
            title=f"Delivery {row['id']}",
            section=SECTION,
            values={
                "row": row,
                "is_pending": is_pending,
                "body": body.decode("utf-8", "replace"),
                "attempts": [_attempt(one, row, body) for one in reversed(row["attempts"])],
                "redeliver_url": visit.url(SECTION, delivery_id, "redeliver"),
                "cancel_url": visit.url(SECTION, delivery_id, "cancel"),
                "done": DONE.get(visit.query.get("done", ""), ""),
            },
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


def _attempt(attempt: Mapping[str, Any], row: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """An attempt with its request as a command, where the request is known."""
    request = attempt.get("request")
    curl = request and curl_of(request["method"], request["url"], request["headers"], body)
    return {**attempt, "curl": curl, "is_newest": attempt["number"] == row["attempt_count"]}
