"""The list of invoices, and one invoice with its events, mails, payment and deliveries."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.localization import decimals_of
from service.pages.console.deliveries import shown
from service.pages.console.filters import INVOICE_STATUSES, PAGE_SIZE, one_of, text_of
from service.pages.console.screens import Screen
from service.pages.console.texts import words
from service.pages.console.verdicts import why_invoice
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

SECTION = "invoices"

DELIVERIES_SHOWN = 20
"""Deliveries on the page of an invoice; the list of deliveries has all of them."""


class Invoices:
    """The screens of invoices."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, _: web.Request) -> Screen:
        """A page of invoices, of a status or with an id."""
        status = one_of(text_of(visit.query, "status"), "status", INVOICE_STATUSES)
        after, id_ = text_of(visit.query, "after") or None, text_of(visit.query, "id") or None
        rows, next_after = await self._console.store.history.list_invoices(
            visit.account_id, status=status, after=after, limit=PAGE_SIZE, invoice_id=id_
        )
        return Screen(
            template="invoices.html",
            title="Invoices",
            section=SECTION,
            values={
                "rows": [_shown(row, visit) for row in rows],
                "fields": {"status": status or "", "id": id_ or "", "after": after or ""},
                "statuses": INVOICE_STATUSES,
                "next_url": visit.url(SECTION, status=status, after=next_after)
                if next_after
                else None,
                "first_url": visit.url(SECTION, status=status, id=id_) if after else None,
                "all_url": visit.url(SECTION),
            },
            announcement=f"Invoices on this page: {len(rows)}.",
        )

    async def show_one(self, visit: Visit, request: web.Request) -> Screen:
        """One invoice with everything that follows from it."""
        store, invoice_id = self._console.store, request.match_info["id"]
        row = await store.history.find_invoice(visit.account_id, invoice_id)
        mails = await store.history.mails_of(visit.account_id, invoice_id)
        deliveries, more = await store.history.deliveries_of(
            visit.account_id, invoice_id, limit=DELIVERIES_SHOWN
        )
        why = await why_invoice(self._console, visit, invoice_id)
        pay_url = await self._console.pay_url_of(visit.account_id, row["key"])
        return Screen(
            template="invoice.html",
            title=f"Invoice {row['id']}",
            section=SECTION,
            values={
                "why": why,
                "row": _shown(row, visit),
                "events": list(reversed(row["events"])),
                "mails": mails,
                "deliveries": [shown(one, visit) for one in deliveries],
                "deliveries_url": visit.url("deliveries", invoice_id=row["id"]) if more else None,
                "pay_url": pay_url,
            },
            announcement=f"The invoice is {words(row['status'])}. {why.sentence}",
        )


def _shown(row: Mapping[str, Any], visit: Visit) -> dict[str, Any]:
    """An invoice as it is stored, with its amounts as texts."""
    decimals = decimals_of(row["currency"], row["decimals"])
    return {
        **row,
        "total": amount(row["total_minor"], decimals),
        "refunded": amount(row["amount_refunded_minor"] or 0, decimals),
        "overpaid": amount(row["overpaid_minor"] or 0, decimals),
        "page_url": visit.url(SECTION, row["id"]),
    }


def amount(minor: int, decimals: int) -> str:
    """*minor* units as the API writes them: `9999.00`."""
    if not decimals:
        return str(minor)
    whole, part = divmod(minor, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"
