"""
What a screen is, and the handler that answers with it.

A screen is read on behalf of one account, after the same rate limit and in the same turn as a read
of the API; with the same functions of the store, so that it shows nothing that the API would not.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from math import ceil
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    RequestError,
    TooManyRequests,
    Unavailable,
)
from service.pages.console.origins import is_of_this_site
from service.pages.console.rendering import Pages
from service.pages.console.streams import LivePage, Streams
from service.pages.console.visits import (
    HOME,
    Elsewhere,
    NoAccountChosen,
    NotSignedIn,
    Visit,
    url_below,
    visit_of,
)
from service.pages.console.wiring import Console
from service.pages.errors import words_of
from service.web.problems import RETRY_SECONDS
from service.web.request_ids import request_id_of

log = logging.getLogger("invoices.pages")

FIELDS_MAX = 50
"""Fields of a form that are read."""

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """
    What a screen shows: a template and its values.

    *announcement* is what a screen reader is told when it changes while the page is shown.
    """

    template: str
    title: str
    section: str
    """The entry of the navigation to which it belongs."""
    values: Mapping[str, Any] = field(default_factory=dict)
    announcement: str = ""
    status: int = 200


Show = Callable[[Visit, web.Request], Awaitable[Screen]]
"""Reads a screen, inside the turn of its account."""

Act = Callable[[Visit, web.Request, Mapping[str, str]], Awaitable[str | Screen]]
"""Does what a form asks for; returns the URL of the page that follows, or a screen."""


class Forbidden(Exception):
    """The request did not come from a page of this service."""


class Found(Elsewhere):
    """What a screen was asked for has a page of its own, at *url*."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class Screens:
    """Makes handlers of screens and of what their forms do."""

    def __init__(self, console: Console, pages: Pages, streams: Streams) -> None:
        self._console = console
        self._pages = pages
        self._streams = streams

    def showing(self, show: Show, *, is_live: bool = False) -> Handler:
        """A handler that answers with a screen, and as a stream with its changes."""

        async def answer(request: web.Request) -> web.StreamResponse:
            visit = await visit_of(request, self._console)
            self._console.limit(visit.account_id)
            if is_live and EVENT_STREAM in request.headers.get(hdrs.ACCEPT, ""):
                return await self._stream(request, visit, show)
            async with self._console.turn(visit.account_id):
                screen = await show(visit, request)
            return self._shown(screen, visit, is_live=is_live)

        return self.guarded(answer)

    def doing(self, act: Act) -> Handler:
        """A handler of a form, which leads to another page."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self.check_origin(request)
            visit = await visit_of(request, self._console)
            self._console.limit(visit.account_id)
            done = await act(visit, request, await form_of(request))
            return redirect(done) if isinstance(done, str) else self._shown(done, visit)

        return self.guarded(answer)

    def check_origin(self, request: web.Request) -> None:
        """Refuse a POST that no page of this service has sent; raises Forbidden."""
        if not is_of_this_site(request, self._console.public_url):
            raise Forbidden(FORBIDDEN)

    def guarded(self, answer: Handler) -> Handler:
        """A handler that answers errors with pages in words."""

        async def guard(request: web.Request) -> web.StreamResponse:
            try:
                return await answer(request)
            except (RequestError, Forbidden, Unavailable, Elsewhere) as error:
                return self._answer_to(error, request)

        return guard

    def error_page(self, _: web.Request, status: int) -> web.Response:
        """A page in place of an error with *status* outside the handlers."""
        title, words = words_of(status)
        is_elsewhere = status == HTTPStatus.MISDIRECTED_REQUEST
        return self.message(title, words, status, home=self._public_home if is_elsewhere else None)

    def message(
        self,
        title: str,
        words: str,
        status: int,
        *,
        after_seconds: float | None = None,
        home: str | None = None,
    ) -> web.Response:
        """A page that says one thing, and leads to the console, which is at *home*."""
        headers: dict[str, str] = {}
        if after_seconds:
            headers[hdrs.RETRY_AFTER] = str(ceil(after_seconds))
        values = {"title": title, "message": words, **({"home": home} if home else {})}
        return self._pages.page("message.html", values, status=status, headers=headers)

    @property
    def _home(self) -> str:
        return self._console.public_path + HOME

    @property
    def _public_home(self) -> str:
        """Where the console is for those who have asked for it under another name."""
        return self._console.public_url.rstrip("/") + HOME

    def _answer_to(
        self, error: RequestError | Forbidden | Unavailable | Elsewhere, request: web.Request
    ) -> web.Response:
        match error:
            case Found():
                return redirect(error.url)
            case NoAccountChosen():
                return redirect(url_below(self._home, "accounts"))
            case NotSignedIn():
                return self._to_sign_in(request)
        if isinstance(error, Unavailable):
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        title, words, status, after_seconds = _refusal(error)
        return self.message(title, words, status, after_seconds=after_seconds)

    def _to_sign_in(self, request: web.Request) -> web.Response:
        if EVENT_STREAM in request.headers.get(hdrs.ACCEPT, ""):
            # What was a page of somebody who was signed in ends being live.
            return web.Response(status=401, text="The session has ended.")
        behind = request.rel_url.raw_path_qs.partition(HOME)[2].lstrip("/")
        to = behind if request.method == hdrs.METH_GET else None
        return redirect(url_below(self._home, "sign-in", to=to))

    def _shown(self, screen: Screen, visit: Visit, *, is_live: bool = False) -> web.Response:
        values = self._values(screen, visit) | {"is_live": is_live}
        return self._pages.page(screen.template, values, status=screen.status)

    def _values(self, screen: Screen, visit: Visit) -> dict[str, Any]:
        return {
            "title": screen.title,
            "section": screen.section,
            "visit": visit,
            "url": visit.url,
            "announcement": screen.announcement,
            **screen.values,
        }

    async def _stream(self, request: web.Request, visit: Visit, show: Show) -> web.StreamResponse:
        shown: Screen | None = None
        parts = dict[str, str]()

        async def read() -> tuple[dict[str, str], str]:
            nonlocal shown, parts
            now = replace(visit, now=self._console.clock.now())
            self._console.limit(now.account_id)
            async with self._console.turn(now.account_id):
                screen = await show(now, request)
            if shown is None or screen.values != shown.values:
                parts = self._pages.parts(screen.template, self._values(screen, now))
            shown = screen
            return parts, screen.announcement

        async def check() -> None:
            await visit_of(request, self._console)

        page = LivePage(
            account_id=visit.account_id,
            key=(visit.is_operator, request.rel_url.raw_path_qs),
            read=read,
            check=check,
        )
        return await self._streams.serve(request, page)


FORBIDDEN = (
    "This was not sent by a page of this console, so nothing was done. Open the console, and use "
    "its own buttons."
)
UNAVAILABLE = "The database does not answer at the moment. Please try again in a few seconds."
GONE = (
    "Deliveries that ended long ago are removed after the retention time, and another account's "
    "are not shown."
)


def _refusal(error: Exception) -> tuple[str, str, int, float | None]:
    """Title, words and status of the page that answers *error*, and when to try again."""
    match error:
        case Unavailable():
            return "One moment", UNAVAILABLE, 503, RETRY_SECONDS
        case Forbidden():
            return "Not from here", str(error), 403, None
        case NotFound():
            return "Not found", f"{error} {GONE}", 404, None
        case TooManyRequests():
            return "Too many requests", str(error), 429, error.after_seconds
        case Conflict():
            return "It cannot be done now", str(error), 409, None
    words = str(error)
    if isinstance(error, InvalidInput):
        wrong = [f"{one.pointer.lstrip('/')}: {one.message}" for one in error.field_errors]
        words = " ".join(wrong)
    return "This cannot be shown", words, 422, None


async def form_of(request: web.Request) -> dict[str, str]:
    """The fields of a form; of a name that is repeated, the last one."""
    text = (await request.read()).decode("utf-8", "replace")
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        return {}


def redirect(url: str) -> web.Response:
    """Lead to *url* with a GET."""
    return web.Response(status=303, headers={hdrs.LOCATION: url})


def log_fields(request: web.Request, visit: Visit) -> dict[str, str]:
    """What a log line of something that was done by hand has."""
    return {"request_id": request_id_of(request), "account_id": visit.account_id}
