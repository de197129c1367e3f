"""The contract: its documents, and the checks of a receiver with their last results."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from service.pages.console.filters import TEXT_MAX
from service.pages.console.screens import Screen
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

SECTION = "contract"


class Contract:
    """The screen of the contract."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, _: web.Request) -> Screen:
        """Links to the documents, and what the checks have come to."""
        return await self._screen(visit)

    async def check(self, visit: Visit, _: web.Request, form: Mapping[str, str]) -> str | Screen:
        """Run the checks against a URL of the account, and keep their result."""
        url = form.get("url", "").strip()
        try:
            if not url or len(url) > TEXT_MAX:
                raise ValueError("Give the URL that you would send as callback_url.")
            result = await self._console.check_receiver(visit.account_id, url)
        except ValueError as error:
            async with self._console.turn(visit.account_id):
                return await self._screen(visit, url=url, error=str(error), status=422)
        await self._console.store.console.keep_check(
            {
                "account_id": visit.account_id,
                "url": url,
                "conforms": result["conforms"],
                "checked_at": visit.now,
                "checks": orjson.dumps(result["checks"]).decode(),
            }
        )
        return visit.url(SECTION)

    async def _screen(
        self, visit: Visit, *, url: str = "", error: str = "", status: int = 200
    ) -> Screen:
        kept = await self._console.store.console.checks_of(visit.account_id)
        results: list[dict[str, Any]] = [
            {**one, "checks": orjson.loads(one["checks"])} for one in kept
        ]
        return Screen(
            template="contract.html",
            title="The contract",
            section=SECTION,
            values={
                "results": results,
                "check_url": visit.url(SECTION, "check"),
                "checked_url": url,
                "error": error,
                "docs": f"{self._console.public_path}/api/docs",
            },
            status=status,
        )
