"""
What live pages show: read and rendered once for all pages of an account that have the same URL.

A page that follows is sent the parts that have changed, and of their rows those that differ; a page
that begins, or that has missed a change, is sent every part as it is.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta

import orjson

from service.clock import Clock

Read = Callable[[], Awaitable[tuple[dict[str, str], str]]]
"""Reads the parts of a page by their names, and its announcement."""

_ROW = re.compile(r'<tr id="(row-[^"]+)">.*?</tr>', re.DOTALL)
"""A row of a list: no row has another one in it, and what texts have of markup is escaped."""

SAME = '<tr id="{}" data-same></tr>'
"""What stands for a row that a page has already."""


class LiveView:
    """What *read* gives, as it was when it was read last."""

    def __init__(self, read: Read, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._reading = asyncio.Lock()
        self._parts = dict[str, str]()
        self._announcement = ""
        self._change = b""
        self._whole: bytes | None = None
        self.page_count = 0
        """The pages that show it."""
        self.version = 0
        """It is raised with each change."""
        self.read_at: timedelta | None = None
        """When it was read last, by the clock that never jumps; a failure counts as well."""

    async def refresh(self, pause: timedelta) -> None:
        """
        Read what is shown, unless one of its pages has done so less than *pause* ago.

        Raises:
            RequestError, StorageUnavailable: if it cannot be read now.
        """
        async with self._reading:
            if self.read_at is not None and self._clock.elapsed() - self.read_at < pause:
                return
            try:
                parts, announcement = await self._read()
            finally:
                self.read_at = self._clock.elapsed()
            self._become(parts, announcement)

    def since(self, version: int) -> bytes:
        """The events for a page that shows *version*, which is 0 where it shows nothing yet."""
        if version == self.version:
            return b""
        if version == self.version - 1 and version:
            return self._change
        if self._whole is None:
            self._whole = b"".join(_part(name, html) for name, html in self._parts.items())
        # What a page says when it is opened is on it.
        return self._whole + _say(self._announcement) if version else self._whole

    def _become(self, parts: dict[str, str], announcement: str) -> None:
        events = [
            _part(name, without_same_rows(html, self._parts.get(name, "")))
            for name, html in parts.items()
            if self._parts.get(name) != html
        ]
        if announcement != self._announcement:
            events.append(_say(announcement))
        if events:
            self.version += 1
            self._change, self._whole = b"".join(events), None
            self._parts, self._announcement = parts, announcement


def without_same_rows(html: str, before: str) -> str:
    """*html* in which each row that is in *before* as well has its id alone."""
    known = {row[1]: row[0] for row in _ROW.finditer(before)}

    def shorten(row: re.Match[str]) -> str:
        return SAME.format(row[1]) if known.get(row[1]) == row[0] else row[0]

    return _ROW.sub(shorten, html) if known else html


def _part(name: str, html: str) -> bytes:
    return b"event: part\ndata: %b\n\n" % orjson.dumps({"name": name, "html": html})


def _say(announcement: str) -> bytes:
    return b"event: say\ndata: %b\n\n" % orjson.dumps(announcement) if announcement else b""
