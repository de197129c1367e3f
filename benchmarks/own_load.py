"""
A load generator in a process of its own.

`own_load PORT CONNECTIONS RATE RESULT RUN COUNT PATH…`; a RATE of 0 is as fast as answers come.
At a rate, an invoice that finds no connection idle waits for one, and none is left out.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.processes import HOST

TICK_SECONDS = 0.001

HEAD = (
    "POST {} HTTP/1.1\r\nHost: " + HOST + "\r\nContent-Type: application/json\r\nContent-Length: {}"
)
BODY = (
    '{{"id": "{}", "title": "Expensive invoice", "customer": "Mr. Richie Rich", "total": "9999"}}'
)


class Generator:
    """Sends *count* invoices over its connections; remembers when each was sent and answered."""

    def __init__(self, run: str, count: int, paths: list[str], rate: float) -> None:
        self._ids = (f"{run}-{number}" for number in range(1, count + 1))
        self._paths = cycle(paths)
        self._count = count
        self.rate = rate
        self._waiting: deque[str] = deque()
        self._idle: list[Connection] = []
        self.sent: dict[str, float] = {}
        self.answered: dict[str, float] = {}
        self.refused_count = 0
        self.is_done = asyncio.Event()

    def next_request(self) -> tuple[str, bytes] | None:
        """The next invoice that may be sent now, if there is one; it counts as sent."""
        invoice_id = next(self._ids, None) if not self.rate else self._next_waiting()
        if invoice_id is None:
            return None
        self.sent[invoice_id] = time.time()
        body = BODY.format(invoice_id)
        return invoice_id, f"{HEAD.format(next(self._paths), len(body))}\r\n\r\n{body}".encode()

    def note(self, invoice_id: str, is_accepted: bool) -> None:
        """An answer came for *invoice_id*."""
        self.answered[invoice_id] = time.time()
        self.refused_count += not is_accepted
        if len(self.answered) == self._count:
            self.is_done.set()

    def rest(self, connection: Connection) -> None:
        """*connection* has nothing to do."""
        self._idle.append(connection)

    async def keep_rate(self) -> None:
        """Let invoices become due at the rate, whether earlier ones were answered or not."""
        started_at, due_count = time.monotonic(), 0
        while due_count < self._count:
            target = min(self._count, int((time.monotonic() - started_at) * self.rate))
            for _ in range(target - due_count):
                self._waiting.append(next(self._ids))
                if self._idle:
                    self._idle.pop().send_next()
            due_count = target
            await asyncio.sleep(TICK_SECONDS)

    def _next_waiting(self) -> str | None:
        return self._waiting.popleft() if self._waiting else None


class Connection(asyncio.Protocol):
    """One kept connection, one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._invoice_id = ""
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self.send_next()

    def data_received(self, data: bytes) -> None:
        """Note the answer once it is complete, and go on."""
        self._unread += data
        head, separator, body = self._unread.partition(b"\r\n\r\n")
        if separator and len(body) >= _content_length(head):
            self._unread = b""
            self._generator.note(self._invoice_id, head.startswith(b"HTTP/1.1 202"))
            self.send_next()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail loudly: a figure with requests missing would be wrong."""
        if not self._generator.is_done.is_set():
            sys.exit(f"the service closed a connection: {error}")

    def send_next(self) -> None:
        """Send the next invoice, or rest until one is due."""
        following = self._generator.next_request()
        if following is None:
            self._generator.rest(self)
        else:
            self._invoice_id, request = following
            self._transport.write(request)


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


async def generate(port: int, connection_count: int, generator: Generator) -> None:
    """Send everything that *generator* has, and return once all is answered."""
    loop = asyncio.get_running_loop()
    # An error in a protocol's method would otherwise be logged, and its invoice awaited for ever.
    loop.set_exception_handler(lambda _, context: sys.exit(str(context)))
    for _ in range(connection_count):
        await loop.create_connection(lambda: Connection(generator), HOST, port)
    if generator.rate:
        await generator.keep_rate()
    await generator.is_done.wait()


def main(arguments: Iterator[str]) -> None:
    """Send, then write what came of it."""
    port, connection_count, rate = (
        int(next(arguments)),
        int(next(arguments)),
        float(next(arguments)),
    )
    result, run, count = Path(next(arguments)), next(arguments), int(next(arguments))
    generator = Generator(run, count, list(arguments), rate)
    uvloop.run(generate(port, connection_count, generator))
    told = {
        "first_at": min(generator.answered.values()),
        "last_at": max(generator.answered.values()),
        "refused_count": generator.refused_count,
        "sent": generator.sent,
        "answered": generator.answered,
    }
    result.write_text(json.dumps(told))


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
