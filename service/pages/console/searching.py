"""The search: "Why did it not come?" leads from an id or a URL to the page that explains it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from service.errors import NotFound
from service.pages.console.deliveries import shown
from service.pages.console.filters import searched
from service.pages.console.screens import Found, Screen
from service.pages.console.verdicts import why_delivery
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console
from service.storage.history import DeliveryFilter

SECTION = "search"

URL_BEGINNINGS = ("http://", "https://")


PAGE = 200
PAGES_MAX = 3
"""Pages of deliveries to an origin that are looked through for a URL."""

EXPLAINED_MAX = 5
"""Deliveries to a URL that are explained, the newest."""


class Searching:
    """The screen of the search."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, _: web.Request) -> Screen:
        """
        The form, and below it the newest deliveries to a URL, or that nothing was found.

        Raises:
            Found: if what was searched for has a page of its own.
        """
        text = searched(visit.query)
        is_url = text.lower().startswith(URL_BEGINNINGS)
        origin, explained = "", list[dict[str, Any]]()
        if is_url:
            origin, explained = await self._deliveries_to(text, visit)
        elif text:
            await self._find(text, visit)
        return Screen(
            template="search.html",
            title="Why did it not come?",
            section=SECTION,
            values={
                "searched": text,
                "is_url": is_url,
                "explained": explained,
                "origin_url": visit.url("deliveries", origin=origin) if origin else None,
            },
            status=404 if text and not explained else 200,
        )

    async def _find(self, text: str, visit: Visit) -> None:
        store, account_id = self._console.store, visit.account_id
        # An invoice may have an id that looks like that of a delivery, but rarely has.
        kinds: dict[str, Callable[[str, str], Awaitable[Mapping[str, Any]]]] = {
            "deliveries": store.find_delivery,
            "invoices": store.find_invoice,
        }
        for kind, find in kinds.items():
            try:
                found = await find(account_id, text)
            except NotFound:
                continue
            raise Found(visit.url(kind, found["id"]))

    async def _deliveries_to(self, url: str, visit: Visit) -> tuple[str, list[dict[str, Any]]]:
        """The origin of *url*, and the newest deliveries to it with the reason of each."""
        try:
            origin = self._console.origin_of(url)
        except ValueError:
            return "", []
        wanted, path, after = DeliveryFilter(origin=origin), _path_of(url), None
        found = list[dict[str, Any]]()
        for _ in range(PAGES_MAX):
            rows, after = await self._console.store.list_deliveries(
                visit.account_id, wanted, after=after, limit=PAGE
            )
            found += [row for row in rows if _is_at(row["url"], path)]
            if after is None or len(found) >= EXPLAINED_MAX:
                break
        return origin, [
            {**shown(row, visit), "why": await why_delivery(self._console, visit, row["id"])}
            for row in found[:EXPLAINED_MAX]
        ]


def _path_of(url: str) -> str:
    """What a URL has behind its origin, without a slash at the end."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path.removesuffix("/")


def _is_at(called: str, path: str) -> bool:
    """Whether the URL *called* is at *path* of its origin, or below it."""
    own = _path_of(called)
    return own == path or own.startswith(f"{path}/")
