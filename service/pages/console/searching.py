"""The search: "Why did it not come?" leads from an id or a URL to the page that explains it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from service.errors import NotFound
from service.pages.console.filters import searched
from service.pages.console.screens import Found, Screen
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

SECTION = "search"

URL_BEGINNINGS = ("http://", "https://")


class Searching:
    """The screen of the search."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, _: web.Request) -> Screen:
        """
        The form; what was searched for and not found is answered below it.

        Raises:
            Found: if it was found.
        """
        text = searched(visit.query)
        if text:
            await self._find(text, visit)
        return Screen(
            template="search.html",
            title="Why did it not come?",
            section=SECTION,
            values={"searched": text, "is_url": text.lower().startswith(URL_BEGINNINGS)},
            status=404 if text else 200,
        )

    async def _find(self, text: str, visit: Visit) -> None:
        if text.lower().startswith(URL_BEGINNINGS):
            await self._find_url(text, visit)
            return
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

    async def _find_url(self, text: str, visit: Visit) -> None:
        try:
            origin = self._console.origin_of(text)
        except ValueError:
            return
        raise Found(visit.url("deliveries", origin=origin))
