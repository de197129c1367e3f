"""The list of deliveries with its filters, and redelivering all that match them."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from aiohttp import web

from service.domain.states import DeliveryStatus
from service.domain.test_events import ID_PREFIX as TEST_PREFIX
from service.pages.console.filters import PAGE_SIZE, STATUSES, Wanted, text_of, wanted_deliveries
from service.pages.console.screens import Screen, log_fields
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console
from service.storage.history import DeliveryFilter

log = logging.getLogger("invoices.pages")

SECTION = "deliveries"

COUNTING = timedelta(milliseconds=150)
"""How long deliveries are counted, 20,000 at a time; after that there are so many at least."""

FILTERS = ("origin", "since", "until")
"""The filters that a redelivery has beside the status, which is always `dead`."""


class Deliveries:
    """The screens of many deliveries."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, _: web.Request) -> Screen:
        """A page of the deliveries that match the filters."""
        wanted = wanted_deliveries(visit.query, self._console.origin_of)
        rows, after = await self._console.store.history.list_deliveries(
            visit.account_id, wanted.filter, after=wanted.after, limit=PAGE_SIZE
        )
        counted = await self._console.store.console.count_deliveries(
            visit.account_id, wanted.filter
        )
        rows = [shown(row, visit) for row in rows]
        fields = {**wanted.fields, "after": wanted.after or ""}
        dead = {**wanted.fields, "status": DeliveryStatus.DEAD.value}
        return Screen(
            template="deliveries.html",
            title="Deliveries",
            section=SECTION,
            values={
                "rows": rows,
                "fields": fields,
                "statuses": STATUSES,
                "count": counted.count,
                "is_counted": counted.after is None,
                "next_url": visit.url(SECTION, **wanted.fields, after=after) if after else None,
                "first_url": visit.url(SECTION, **wanted.fields) if wanted.after else None,
                "all_url": visit.url(SECTION),
                "redeliver_url": _redeliver_url(visit, dead) if _is_redeliverable(wanted) else None,
                "done": _done(visit.query),
            },
            announcement=_told(rows),
        )

    async def confirm(self, visit: Visit, _: web.Request) -> Screen:
        """How many deliveries would be redelivered, and the button that does it."""
        wanted = _to_redeliver(wanted_deliveries(visit.query, self._console.origin_of))
        count, is_counted = await self._count(visit.account_id, wanted.filter)
        return Screen(
            template="redeliver.html",
            title="Redeliver dead deliveries",
            section=SECTION,
            values={
                "count": count,
                "is_counted": is_counted,
                "fields": wanted.fields,
                "action": _redeliver_url(visit, wanted.fields),
                "back_url": visit.url(SECTION, **wanted.fields),
            },
        )

    async def redeliver(self, visit: Visit, request: web.Request, _: Mapping[str, str]) -> str:
        """Make every dead delivery that matches pending again; the filter is in the URL."""
        wanted = _to_redeliver(wanted_deliveries(visit.query, self._console.origin_of))
        count = 0
        try:
            async for redelivered in self._console.store.redeliver_all(
                visit.account_id, wanted.filter, visit.now
            ):
                count += redelivered
        finally:
            # These are pending, even if an error or the browser has ended the request.
            record_redelivered(self._console, log_fields(request, visit), count)
        given = {name: wanted.fields[name] for name in FILTERS}
        return visit.url(SECTION, **given, done="redelivered", count=str(count))

    async def _count(self, account_id: str, wanted: DeliveryFilter) -> tuple[int, bool]:
        """How many deliveries match, and whether all were counted."""
        count, after, clock = 0, None, self._console.clock
        until = clock.elapsed() + COUNTING
        while clock.elapsed() <= until:
            counted = await self._console.store.console.count_redeliverable(
                account_id, wanted, after
            )
            count, after = count + counted.count, counted.after
            if after is None:
                return count, True
        return count, False


def record_redelivered(console: Console, fields: Mapping[str, str], count: int) -> None:
    """Count and log a redelivery of *count* deliveries."""
    console.metrics.redelivered(count)
    log.info("deliveries.redelivered", extra={"fields": {**fields, "count": count}})


def shown(row: Mapping[str, Any], visit: Visit) -> dict[str, Any]:
    """A delivery as it is stored, with what it waits for and where its pages are."""
    reason = until = None
    if row["waits"]:
        reason, until = row["waits"].reason_at(visit.now)
    return {
        **row,
        "waiting_for": reason,
        "waiting_until": until,
        "page_url": visit.url(SECTION, row["id"]),
        # The delivery of a test event has no invoice.
        "invoice_url": ""
        if row["invoice_key"].startswith(TEST_PREFIX)
        else visit.url("invoices", row["invoice_id"]),
        "newest": row["attempts"][-1] if row["attempts"] else None,
    }


def _is_redeliverable(wanted: Wanted) -> bool:
    """Whether the dead ones among the deliveries of a page can be redelivered by its filter."""
    is_dead = wanted.filter.status in {None, DeliveryStatus.DEAD}
    return is_dead and wanted.filter.invoice_id is None


def _to_redeliver(wanted: Wanted) -> Wanted:
    dead = replace(wanted.filter, status=DeliveryStatus.DEAD.value, invoice_id=None)
    fields = {name: wanted.fields[name] for name in FILTERS}
    return Wanted(dead, {"status": DeliveryStatus.DEAD.value, **fields}, None)


def _redeliver_url(visit: Visit, fields: Mapping[str, str]) -> str:
    return visit.url(SECTION, "redeliver", **{name: fields[name] for name in FILTERS})


def _done(query: Mapping[str, str]) -> str:
    """What a form has done, in words; empty where the page was opened without one."""
    count = text_of(query, "count")
    if query.get("done") != "redelivered" or not count.isascii() or not count.isdigit():
        return ""
    number = int(count[:9])
    are = "delivery is" if number == 1 else "deliveries are"
    return f"{number:,} {are} pending again, to be attempted now."


def _told(rows: list[dict[str, Any]]) -> str:
    """The list in one sentence, for a screen reader."""
    counts = [
        f"{number} {status}"
        for status in STATUSES
        if (number := sum(row["status"] == status for row in rows))
    ]
    return f"Deliveries on this page: {', '.join(counts) or 'none'}."
