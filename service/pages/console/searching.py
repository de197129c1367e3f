"""The search: "Why did it not come?" leads from an id or a URL to the page that explains it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from service.domain.subjects import is_url, subjects_of
from service.errors import NotFound
from service.pages.console.deliveries import shown
from service.pages.console.filters import searched
from service.pages.console.screens import Found, Screen
from service.pages.console.verdicts import why_delivery
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

SECTION = "search"

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
        subjects = subjects_of(searched(visit.query))
        text = subjects[0] if subjects else ""
        is_of_url = is_url(text)
        origin, explained = "", list[dict[str, Any]]()
        if is_of_url:
            origin, explained = await self._deliveries_to(text, visit)
        else:
            for subject in subjects:
                await self._find(subject, visit)
        return Screen(
            template="search.html",
            title="Why did it not come?",
            section=SECTION,
            values={
                "searched": text,
                "is_url": is_of_url,
                "explained": explained,
                "origin_url": visit.url("deliveries", origin=origin) if origin else None,
            },
            status=404 if text and not explained else 200,
        )

    async def _find(self, text: str, visit: Visit) -> None:
        store, account_id = self._console.store, visit.account_id
        # An invoice may have an id that looks like that of a delivery, but rarely has.
        kinds: dict[str, Callable[[str, str], Awaitable[Mapping[str, Any]]]] = {
            "deliveries": store.history.find_delivery,
            "invoices": store.history.find_invoice,
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
        store = self._console.store
        ids = await store.console.find_called(
            visit.account_id, origin, _spellings(url, origin), EXPLAINED_MAX
        )
        return origin, [
            {
                **shown(await store.history.find_delivery(visit.account_id, id_), visit),
                "why": await why_delivery(self._console, visit, id_),
            }
            for id_ in ids
        ]


def _spellings(url: str, origin: str) -> list[str]:
    """*url* as it may be stored: as it was typed, or with or without the port of its scheme."""
    parts = urlsplit(url)
    path = (f"{parts.path}?{parts.query}" if parts.query else parts.path).removesuffix("/")
    without = origin.removesuffix(":443" if origin.startswith("https:") else ":80")
    return sorted({url.removesuffix("/"), origin + path, without + path})
