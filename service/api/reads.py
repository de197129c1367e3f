"""
Reads of accounts: a few of one account at a time, answered within a bound of bytes.

Keeps invariant 10 for reads. A request waits for its turn before it occupies a connection of the
database; large answers are made in threads, and a page ends before it is too large.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from operator import itemgetter
from typing import Any
from weakref import WeakValueDictionary

import orjson
from aiohttp import web
from marshmallow import Schema

from service.errors import FieldError, InvalidInput, TooManyRequests, UnknownCursor
from service.web.responses import raw_json_response

READS_PER_ACCOUNT = 2
"""Reads of one account at a time: one that is made into an answer, and one in the database."""

WAITING_MAX = 100
"""Requests of one account that may wait for their turn: as many as its connections, usually."""

WAIT_SECONDS = 10
"""How long a request waits for its turn."""

PAGE_BYTES = 2**20
"""A page ends before the item with which it would be larger, unless that is its first."""

ITEMS_ON_LOOP = 5
"""Up to so many deliveries, attempts or invoices are serialised on the event loop."""

THREAD_COUNT = 2
"""More would only compete for the interpreter."""

ITEMS_BETWEEN_PAUSES = 10
PAUSE_SECONDS = 0.0005
"""
A thread that makes a page pauses for a moment after some items, which take a millisecond.

The event loop would otherwise wait for the interpreter for five milliseconds, time and again.
"""

UNKNOWN_CURSOR = FieldError("query", "/after", "This cursor names no page.")

Dump = Callable[[Any], Any]
"""Makes what is answered of one row."""


class Reads:
    """The reads of all accounts."""

    def __init__(self) -> None:
        self._slots = WeakValueDictionary[str, asyncio.Semaphore]()
        self._waiting: Counter[str] = Counter()
        self._threads = ThreadPoolExecutor(THREAD_COUNT, thread_name_prefix="answers")

    @asynccontextmanager
    async def turn(self, account_id: str) -> AsyncIterator[None]:
        """
        Wait for the turn of a read of *account_id*, which lasts as long as the block.

        Raises:
            TooManyRequests: if too many of its reads wait already, or this one for too long.
            InvalidInput: if the block asks for a page behind a cursor that is not known.
        """
        slots = self._slots.get(account_id)
        if slots is None:
            slots = self._slots[account_id] = asyncio.Semaphore(READS_PER_ACCOUNT)
        if slots.locked():
            await self._wait(account_id, slots)
        else:
            await slots.acquire()
        try:
            yield
        except UnknownCursor:
            raise InvalidInput([UNKNOWN_CURSOR]) from None
        finally:
            slots.release()

    async def answer(
        self, schema: Schema, row: Any, *, status: int = 200, weight: int = 1
    ) -> web.Response:
        """The answer with one *row*, dumped by *schema*; *weight* is how many parts it has."""
        body = await self._made(weight, _json_of_row, schema.dump, row)
        return raw_json_response(body, status=status)

    async def answer_page(
        self,
        dump: Dump,
        rows: Sequence[Any],
        after: str | None,
        cursor_of: Callable[[Any], str] = itemgetter("id"),
    ) -> web.Response:
        """
        The answer with a page of *rows*, each made by *dump*, and the cursor *after*.

        A page that would be too large ends earlier, with the cursor of its last row.
        """
        body = await self._made(len(rows), _json_of_page, dump, rows, after, cursor_of)
        return raw_json_response(body)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _wait(self, account_id: str, slots: asyncio.Semaphore) -> None:
        if self._waiting[account_id] >= WAITING_MAX:
            raise TooManyRequests(1, TOO_MANY_READS)
        self._waiting[account_id] += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await slots.acquire()
        except TimeoutError:
            raise TooManyRequests(1, TOO_MANY_READS) from None
        finally:
            self._waiting[account_id] -= 1
            if not self._waiting[account_id]:
                del self._waiting[account_id]

    async def _made(self, weight: int, make: Callable[..., bytes], *args: Any) -> bytes:
        if weight <= ITEMS_ON_LOOP:
            return make(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, make, *args)


TOO_MANY_READS = (
    f"Your account reads too much at once: {READS_PER_ACCOUNT} requests are answered at a time, "
    "and too many others wait. Send the request again later."
)


def _json_of_row(dump: Dump, row: Any) -> bytes:
    return orjson.dumps(dump(row))


def _json_of_page(
    dump: Dump, rows: Sequence[Any], after: str | None, cursor_of: Callable[[Any], str]
) -> bytes:
    items, size = list[bytes](), 0
    for number, row in enumerate(rows):
        if number and number % ITEMS_BETWEEN_PAUSES == 0:
            time.sleep(PAUSE_SECONDS)
        item = orjson.dumps(dump(row))
        size += len(item)
        if items and size > PAGE_BYTES:
            after = cursor_of(rows[number - 1])
            break
        items.append(item)
    return b'{"items":[%b],"next":%b}' % (b",".join(items), orjson.dumps(after))
