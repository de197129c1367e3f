"""
A receiver in a process of its own: `own_receiver PORT FILE [SECONDS]`.

It stands in for nginx where that is not installed, and answers after SECONDS, which nginx cannot.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import TextIO, cast

import uvloop

from benchmarks.processes import HOST

ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"ok": true}'
)
FLUSH_SECONDS = 0.1

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Answers each request once its body is complete, and notes when and for which path."""

    _transport: asyncio.Transport

    def __init__(self, notes: TextIO, delay_seconds: float) -> None:
        self._notes = notes
        self._delay_seconds = delay_seconds
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer all requests that are complete."""
        self._unread += data
        while (end := self._end_of_request()) is not None:
            path = self._unread.split(b" ", 2)[1].decode()
            self._unread = self._unread[end:]
            self._answer()
            self._notes.write(f"{time.time():.6f} {path}\n")

    def _answer(self) -> None:
        if self._delay_seconds:
            loop = asyncio.get_running_loop()
            loop.call_later(self._delay_seconds, self._transport.write, ANSWER)
        else:
            self._transport.write(ANSWER)

    def _end_of_request(self) -> int | None:
        head_end = self._unread.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        length = _LENGTH.search(self._unread, 0, head_end)
        end = head_end + 4 + (int(length[1]) if length else 0)
        return end if len(self._unread) >= end else None


async def serve(port: int, notes: TextIO, delay_seconds: float) -> None:
    """Answer on *port* until the process is ended."""
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(notes, delay_seconds), HOST, port, backlog=4096)
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        notes.flush()


if __name__ == "__main__":
    with Path(sys.argv[2]).open("a") as notes:
        seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0
        uvloop.run(serve(int(sys.argv[1]), notes, seconds))
