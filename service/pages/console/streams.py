"""
Live pages: a page that is seen asks for its own URL as a stream, and is sent what changes.

A live page costs one read a second at most, by the rate limit and in the turn of its account; where
there are many, they share the reads of the process, by account first. How many there may be is
bounded for each account and for the process. A stream ends after some minutes, with its session,
and when the process stops; a browser connects again by itself.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import orjson
from aiohttp import hdrs, web

from service.clock import Clock
from service.errors import RequestError, StorageUnavailable, TooManyRequests
from service.pages.console.visits import NotSignedIn

STREAMS_PER_ACCOUNT = 8
"""Live pages of one account in one process; a page that is not seen is not live."""

PAUSE = timedelta(seconds=1)
"""From one read to the next one, at least."""

READS_PER_PAUSE = 2
"""
Reads of all live pages of a process in that time.

A read of a list among 200,000 deliveries takes a hundredth of a second of one core.
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

Read = Callable[[], Awaitable[tuple[dict[str, str], str]]]
"""Reads the parts of a page by their names, and its announcement."""


class Streams:
    """The live pages of this process, *most* of them at once."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._by_account = Counter[str]()
        self._open = set[asyncio.Event]()
        self._is_stopping = False

    async def serve(self, request: web.Request, account_id: str, read: Read) -> web.StreamResponse:
        """
        Send the parts that *read* gives whenever they change.

        Raises:
            TooManyRequests: if too many pages are live.
        """
        is_full = self._by_account.total() >= self._most
        if is_full or self._by_account[account_id] >= STREAMS_PER_ACCOUNT:
            raise TooManyRequests(PAUSE.total_seconds(), TOO_MANY)
        stopped = asyncio.Event()
        if self._is_stopping:
            stopped.set()
        self._by_account[account_id] += 1
        self._open.add(stopped)
        try:
            return await self._send(request, account_id, read, stopped)
        finally:
            self._open.discard(stopped)
            self._by_account[account_id] -= 1
            if not self._by_account[account_id]:
                del self._by_account[account_id]

    def stop(self) -> None:
        """End every stream, because the process stops."""
        self._is_stopping = True
        for one in self._open:
            one.set()

    async def _send(
        self, request: web.Request, account_id: str, read: Read, stopped: asyncio.Event
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
        changes, until = _Changes(), self._clock.elapsed() + LASTS
        said_at = self._clock.elapsed()
        # What is written to nobody fails: the page is shown no longer.
        with suppress(ConnectionError):
            try:
                while self._goes_on(request, stopped, until):
                    sent = await self._read(read, changes)
                    if not sent and self._clock.elapsed() - said_at >= SILENCE:
                        sent = b":\n\n"
                    if sent:
                        said_at = self._clock.elapsed()
                        await response.write(sent)
                    await self._pause(account_id, stopped)
            except NotSignedIn:
                await response.write(b"event: ended\ndata:\n\n")
            await response.write_eof()
        return response

    def _goes_on(self, request: web.Request, stopped: asyncio.Event, until: timedelta) -> bool:
        """Whether somebody still listens: what is not written to is not found to be closed."""
        is_open = request.transport is not None and not request.transport.is_closing()
        return is_open and not stopped.is_set() and self._clock.elapsed() < until

    async def _read(self, read: Read, changes: "_Changes") -> bytes:
        """What has changed; nothing where it cannot be read now."""
        try:
            return changes.of(*await read())
        except (RequestError, StorageUnavailable):
            return b""

    async def _pause(self, account_id: str, stopped: asyncio.Event) -> None:
        turns = len(self._by_account) * self._by_account[account_id]
        pause = PAUSE * max(1, turns / READS_PER_PAUSE)
        await self._clock.wait(stopped, self._clock.now() + pause)
        if self._is_stopping:
            # The clock has cleared it.
            stopped.set()


class _Changes:
    """What was sent of a page."""

    def __init__(self) -> None:
        self._sent = dict[str, str]()

    def of(self, parts: dict[str, str], announcement: str) -> bytes:
        """The events for what differs from what was sent before."""
        changed = {name: one for name, one in parts.items() if self._sent.get(name) != one}
        events = [
            b"event: part\ndata: %b\n\n" % orjson.dumps({"name": name, "html": html})
            for name, html in changed.items()
        ]
        if announcement and announcement != self._sent.get("announcement"):
            is_first = not self._sent
            if not is_first:
                events.append(b"event: say\ndata: %b\n\n" % orjson.dumps(announcement))
            changed["announcement"] = announcement
        self._sent |= changed
        return b"".join(events)
