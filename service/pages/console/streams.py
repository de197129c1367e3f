"""
Live pages: a page that is seen asks for its own URL as a stream, and is sent what changes.

Pages of one account with the same URL share a view, which is read once a second at most, by the
rate limit and in the turn of its account; where there are many views, they share the reads of the
process, by account first. How many pages may be live is bounded for each account and for the
process. A stream ends after some minutes, with its session, and when the process stops; a browser
connects again by itself.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from aiohttp import hdrs, web

from service.clock import Clock
from service.errors import RequestError, StorageUnavailable, TooManyRequests
from service.pages.console.live_views import LiveView, Read
from service.pages.console.visits import NotSignedIn

STREAMS_PER_ACCOUNT = 8
"""Live pages of one account in one process; a page that is not seen is not live."""

PAUSE = timedelta(seconds=1)
"""From one read to the next one, at least."""

READS_PER_PAUSE = 2
"""
Reads of all views of a process in that time.

A read of a list among 200,000 deliveries takes seven thousandths of a second of one core.
"""

SILENCE = timedelta(seconds=10)
"""After so long without a change, a comment shows that the connection is alive."""

LASTS = timedelta(minutes=10)

AGAIN_MS = 2000
"""After how long a browser connects again."""

TOO_MANY = (
    f"{STREAMS_PER_ACCOUNT} pages of this account are live already. This one shows what was true "
    "when it was loaded."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePage:
    """A page that is to be live: pages with the same *key* show the same, which *read* reads."""

    account_id: str
    key: Hashable
    read: Read
    check: Callable[[], Awaitable[None]]
    """Raises NotSignedIn once the page may be shown no longer."""


class Streams:
    """The live pages of this process, *most* of them at once."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._by_account = Counter[str]()
        self._views: dict[tuple[str, Hashable], LiveView] = {}
        self._views_by_account = Counter[str]()
        self._open = set[asyncio.Event]()
        self._is_stopping = False

    async def serve(self, request: web.Request, page: LivePage) -> web.StreamResponse:
        """
        Send the parts of *page* whenever they change.

        Raises:
            TooManyRequests: if too many pages are live.
        """
        is_full = self._by_account.total() >= self._most
        if is_full or self._by_account[page.account_id] >= STREAMS_PER_ACCOUNT:
            raise TooManyRequests(PAUSE.total_seconds(), TOO_MANY)
        stopped = asyncio.Event()
        if self._is_stopping:
            stopped.set()
        self._by_account[page.account_id] += 1
        self._open.add(stopped)
        view = self._join(page)
        try:
            return await self._send(request, page, view, stopped)
        finally:
            self._leave(page, view)
            self._open.discard(stopped)
            _count_down(self._by_account, page.account_id)

    def stop(self) -> None:
        """End every stream, because the process stops."""
        self._is_stopping = True
        for one in self._open:
            one.set()

    def _join(self, page: LivePage) -> LiveView:
        """The view of *page*, which is new if no other page shows it."""
        view = self._views.get((page.account_id, page.key))
        if view is None:
            view = self._views[page.account_id, page.key] = LiveView(page.read, self._clock)
            self._views_by_account[page.account_id] += 1
        view.page_count += 1
        return view

    def _leave(self, page: LivePage, view: LiveView) -> None:
        view.page_count -= 1
        if not view.page_count:
            del self._views[page.account_id, page.key]
            _count_down(self._views_by_account, page.account_id)

    async def _send(
        self, request: web.Request, page: LivePage, view: LiveView, stopped: asyncio.Event
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
                # A proxy must pass on what comes at once.
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        await response.write(b"retry: %d\n\n" % AGAIN_MS)
        version, until = 0, self._clock.elapsed() + LASTS
        said_at = self._clock.elapsed()
        # What is written to nobody fails: the page is shown no longer.
        with suppress(ConnectionError):
            try:
                while self._goes_on(request, stopped, until):
                    sent = b""
                    if await self._refresh(page, view):
                        sent, version = view.since(version), view.version
                    if not sent and self._clock.elapsed() - said_at >= SILENCE:
                        sent = b":\n\n"
                    if sent:
                        said_at = self._clock.elapsed()
                        await response.write(sent)
                    await self._pause(page, view, stopped)
            except NotSignedIn:
                await response.write(b"event: ended\ndata:\n\n")
            await response.write_eof()
        return response

    def _goes_on(self, request: web.Request, stopped: asyncio.Event, until: timedelta) -> bool:
        """Whether somebody still listens: what is not written to is not found to be closed."""
        is_open = request.transport is not None and not request.transport.is_closing()
        return is_open and not stopped.is_set() and self._clock.elapsed() < until

    async def _refresh(self, page: LivePage, view: LiveView) -> bool:
        """Have *view* read if it is time; False where that, or a check of *page*, fails now."""
        try:
            await page.check()
            await view.refresh(self._pause_of(page.account_id))
        except (RequestError, StorageUnavailable):
            return False
        return True

    def _pause_of(self, account_id: str) -> timedelta:
        """The time from one read of a view of an account to the next one."""
        turns = len(self._views_by_account) * self._views_by_account[account_id]
        return PAUSE * max(1, turns / READS_PER_PAUSE)

    async def _pause(self, page: LivePage, view: LiveView, stopped: asyncio.Event) -> None:
        pause, passed = self._pause_of(page.account_id), timedelta(0)
        if view.read_at is not None:
            passed = self._clock.elapsed() - view.read_at
        # All pages of a view wait for the same read.
        left = pause - passed if passed < pause else pause
        await self._clock.wait(stopped, self._clock.now() + left)
        if self._is_stopping:
            # The clock has cleared it.
            stopped.set()


def _count_down(counter: Counter[str], account_id: str) -> None:
    counter[account_id] -= 1
    if not counter[account_id]:
        del counter[account_id]
