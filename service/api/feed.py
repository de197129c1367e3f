"""
The feed of events, and the requests that wait for something new in it.

A request that waits occupies its connection and nothing else: no connection of the database, and no
turn among the reads of its account. It is woken by events that this process records, and by a look
once a second at the newest position of every account that waits, for those that other processes
record. Keeps invariant 10 for these requests: their number is bounded, by account and in all.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import orjson
from aiohttp import web

from schemas.feed import FeedItemSchema
from service.api.reads import Reads
from service.callbacks.declaration import Callback
from service.callbacks.invoices import invoice_content
from service.clock import Clock
from service.errors import StorageUnavailable, TooManyRequests
from service.loops import Signal
from service.storage.feed import BEGINNING, FeedItem
from service.storage.store import Store
from service.values import value

WAITING_PER_ACCOUNT = 10
"""Requests of one account that may wait in one process."""

WAITING_MAX = 256
"""Requests of all accounts that may wait: half of the connections of a process, usually."""

LOOK = timedelta(seconds=1)
"""How often the positions of accounts are looked at, for the events of other processes."""

GATHER = timedelta(milliseconds=200)
"""
From one answer with a few items to the next one for the same reader, at least.

A reader that asks again at once would otherwise get each event alone while much happens.
"""

FIRST_PAUSE = timedelta(milliseconds=20)
"""
When a request that was woken in vain looks again; the pauses after that are doubled, up to `LOOK`.

Its event is committed, but cannot be given out while an older transaction still writes.
"""

RETRY_SECONDS = 5

TOO_MANY_OF_ACCOUNT = (
    f"{WAITING_PER_ACCOUNT} requests of your account wait for events already. Let one request wait "
    "at a time, or send this one without `wait`."
)
TOO_MANY = (
    "Too many requests of all accounts wait for events. Send this one again later, or without "
    "`wait`."
)

_item = FeedItemSchema()


@value()
class Wanted:
    """What a request asks for: up to *limit* items behind *after*, within *wait*."""

    after: str | None
    limit: int
    wait: timedelta


@value()
class Client:
    """The connection of a request: whether it is lost, and how to be woken when it is."""

    is_lost: Callable[[], bool]
    when_lost: Callable[[Callable[[], None]], object]


class Feed:
    """
    Answers with pages of the feed.

    The bodies are made by *callbacks*, by their names. In all, *waiting_max* requests may wait.
    """

    def __init__(
        self,
        store: Store,
        reads: Reads,
        clock: Clock,
        callbacks: Mapping[str, Callback],
        waiting_max: int,
    ) -> None:
        self._store = store
        self._reads = reads
        self._clock = clock
        self._callbacks = callbacks
        self._waiting_max = waiting_max
        self._has_ended = False
        self._looking: asyncio.Task[None] | None = None
        self._given_at: dict[tuple[str, str], timedelta] = {}
        """When each cursor of an account was given out lately, behind a few items."""

    async def answer(self, account_id: str, wanted: Wanted, client: Client) -> web.Response:
        """
        The answer with a page; if there is nothing new, after *wanted.wait* at the latest.

        Raises:
            InvalidInput: if the cursor is not known.
            TooManyRequests: if too many requests wait already.
        """
        until = self._clock.elapsed() + wanted.wait
        await self._gather(account_id, wanted)
        # Without a place at first: where there is something new, nobody waits.
        is_last = not wanted.wait or self._has_ended
        response = await self._answer_with_news(account_id, wanted, is_last=is_last)
        if response is not None:
            return response
        with self._place(account_id) as signal:
            client.when_lost(signal.set)
            return await self._waited(account_id, wanted, client, signal, until)

    def end(self) -> None:
        """Answer all requests that wait; from now on none does."""
        self._has_ended = True
        for account_id in self._store.arrivals.account_ids:
            self._store.arrivals.set_for(account_id)
        if self._looking:
            self._looking.cancel()

    async def _gather(self, account_id: str, wanted: Wanted) -> None:
        """Let events of a moment gather for a reader that has just got a few."""
        given_at = self._given_at.get((account_id, wanted.after or ""))
        if given_at is None or not wanted.wait or self._has_ended:
            return
        left = min(GATHER - (self._clock.elapsed() - given_at), wanted.wait)
        if left > timedelta(0):
            await self._clock.wait(asyncio.Event(), self._clock.now() + left)

    def _note(self, account_id: str, cursor: str) -> None:
        """A reader has got a few items, and will ask for those behind *cursor*."""
        now, given_at = self._clock.elapsed(), self._given_at
        given_at.pop((account_id, cursor), None)
        given_at[account_id, cursor] = now
        while now - given_at[oldest := next(iter(given_at))] >= GATHER:
            del given_at[oldest]

    async def _waited(
        self,
        account_id: str,
        wanted: Wanted,
        client: Client,
        signal: Signal,
        until: timedelta,
    ) -> web.Response:
        pause: timedelta | None = None
        while True:
            left = until - self._clock.elapsed()
            is_last = left <= timedelta(0) or self._has_ended or client.is_lost()
            response = await self._answer_with_news(account_id, wanted, is_last=is_last)
            if response is not None:
                return response
            # Not until an instant: the clock may be set while the request waits.
            until_then = self._clock.now() + (min(left, pause) if pause else left)
            await self._clock.wait(signal, until_then)
            _, is_woken = signal.take()
            pause = FIRST_PAUSE if is_woken else pause and pause * 2
            if pause and pause > LOOK:
                pause = None

    async def _answer_with_news(
        self, account_id: str, wanted: Wanted, *, is_last: bool
    ) -> web.Response | None:
        """The answer with what is new; None if nothing is, unless this *is_last*."""
        async with self._reads.turn(account_id):
            page = await self._store.history.feed(
                account_id, after=wanted.after, limit=wanted.limit
            )
            cursor = str(page.next)
            if not page.items and not is_last and cursor == (wanted.after or str(BEGINNING)):
                return None
            if wanted.wait and 0 < len(page.items) < wanted.limit:
                self._note(account_id, cursor)
            return await self._reads.answer_page(self._shown, page.items, cursor, _cursor_of)

    def _shown(self, item: FeedItem) -> Any:
        body = item.own_body
        if body is None:
            content = invoice_content(item.description, item.paid, item.invoice_id)
            callback = self._callbacks.get(item.callback)
            body = callback.render(content) if callback else orjson.dumps(content)
        told = _item.dump(item)
        at = told.pop("at")
        return {**told, "body": orjson.Fragment(body), "at": at}

    @contextmanager
    def _place(self, account_id: str) -> Iterator[Signal]:
        """Inside the block, one more request of the account waits, for the signal."""
        arrivals = self._store.arrivals
        if len(arrivals.of(account_id)) >= WAITING_PER_ACCOUNT:
            raise TooManyRequests(RETRY_SECONDS, TOO_MANY_OF_ACCOUNT)
        if len(arrivals) >= self._waiting_max:
            raise TooManyRequests(RETRY_SECONDS, TOO_MANY)
        with arrivals.awaited(account_id) as signal:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            yield signal

    async def _look(self) -> None:
        """Wake those whose account has something new, until nobody waits."""
        known: Mapping[str, int] = {}
        while account_ids := [*self._store.arrivals.account_ids]:
            await self._clock.wait(asyncio.Event(), self._clock.now() + LOOK)
            try:
                found = await self._store.history.feed_heads(account_ids)
            except StorageUnavailable:
                continue
            for account_id in account_ids:
                if found.get(account_id) != known.get(account_id):
                    self._store.arrivals.set_for(account_id)
            known = found


def _cursor_of(item: FeedItem) -> str:
    return str(item.cursor)
