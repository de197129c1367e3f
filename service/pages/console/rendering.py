"""
Templates, style and script of the console, and the policy under which a browser shows them.

The policy allows the one style sheet, the one script and the picture that this service serves, and
nothing else: no inline script or style, and nothing of another site.
"""

import asyncio
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from aiohttp import hdrs, web

from service.errors import NotFound
from service.pages.console.texts import FILTERS, FUNCTIONS, visible
from service.pages.console.visits import HOME
from service.pages.rendering import CLOSED, Renderer

POLICY = (
    f"{CLOSED}; form-action 'self'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'"
)

HEADERS: dict[str, str] = {hdrs.VARY: "Cookie, Accept"}

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
KEPT_SECONDS = 365 * 86400


class Pages:
    """The pages of the console at *public_path*, and the files that they load."""

    def __init__(self, public_path: str) -> None:
        self._home = public_path + HOME
        self._assets = _assets()
        self.is_looked_at = asyncio.Event()
        """Set as soon as somebody is shown a page."""
        self.renderer = Renderer("service.pages.console", POLICY, visible)
        self.renderer.environment.filters.update(FILTERS)
        self.renderer.environment.globals |= {**FUNCTIONS, "asset": self._asset}

    def page(
        self,
        name: str,
        values: Mapping[str, object],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        """The template *name* with *values*."""
        self.is_looked_at.set()
        return self.renderer.page(
            name, self._given(values), status=status, headers={**HEADERS, **(headers or {})}
        )

    def parts(self, name: str, values: Mapping[str, object]) -> dict[str, str]:
        """The parts of a page that a script replaces while it is shown, by their names."""
        template = self.renderer.template(name)
        context = template.new_context(self._given(values))
        return {
            block: "".join(render(context))
            for block, render in template.blocks.items()
            if block.startswith("live_")
        }

    async def warm(self) -> None:
        """Compile every template in a thread, one after the other."""
        for name in self.renderer.environment.list_templates():
            await asyncio.to_thread(self.renderer.template, name)

    def _given(self, values: Mapping[str, object]) -> dict[str, object]:
        given = {"home": self._home, **values}
        # What pages have in common; a part that is rendered alone imports nothing.
        return {**given, "parts": self.renderer.template("parts.html").make_module(given)}

    def _asset(self, name: str) -> str:
        """The URL of a file; it changes with its content, so that it can be kept."""
        digest, _ = self._assets[name]
        return f"{self._home}/assets/{digest}/{name}"

    async def send_asset(self, request: web.Request) -> web.Response:
        """A file of the pages."""
        name = request.match_info["name"]
        if name not in self._assets:
            raise NotFound("There is no such file.")
        digest, content = self._assets[name]
        is_current = request.match_info["digest"] == digest
        kept = f"public, max-age={KEPT_SECONDS}, immutable" if is_current else "no-cache"
        return web.Response(
            body=content,
            content_type=TYPES[name.rpartition(".")[2]],
            charset="utf-8",
            headers={hdrs.CACHE_CONTROL: kept},
        )


def _assets() -> dict[str, tuple[str, bytes]]:
    """The files of the pages by name: a digest of each, and its bytes."""
    palette = (files("service.pages") / "templates" / "palette.css").read_bytes()
    folder = files("service.pages.console") / "assets"
    contents = {one.name: one.read_bytes() for one in folder.iterdir()}
    contents["console.css"] = palette + contents["console.css"]
    return {name: (sha256(one).hexdigest()[:16], one) for name, one in contents.items()}
