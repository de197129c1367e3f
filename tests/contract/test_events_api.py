"""`/events`: what happened, for receivers that cannot be called and to catch up."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from service.api.application import make_application
from service.api.feed import FIRST_PAUSE, GATHER, LOOK, WAITING_PER_ACCOUNT
from service.loops import running_loops
from service.storage.feed import BEGINNING, FeedCursor
from service.storage.store import Store
from tests.clock import idle
from tests.contract.conftest import listening
from tests.rows import (
    a_delivery,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    lease_invoice,
)

PATIENCE_SECONDS = 20
WAIT = timedelta(seconds=30)


async def page(api, **params):
    """The items of one page, and its cursor."""
    answer = await api.get("/events", params=params)
    assert 200 == answer.status, await answer.text()
    told = await answer.json()
    return told["items"], told["next"]


async def ids(api, **params):
    """The ids of one page."""
    return [one["id"] for one in (await page(api, **params))[0]]


async def parked(clock, count):
    """Wait until *count* requests or looks wait for the clock."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(clock._unsignalled()) < count:
            clock._has_changed.clear()
            await clock._has_changed.wait()


class Waiting:
    """Requests that wait for something new."""

    def __init__(self, api, clock):
        self._api = api
        self._clock = clock
        self.tasks = []

    async def begin(self, count=1, **params):
        """Send requests, and return when all of them wait."""
        for _ in range(count):
            self.tasks.append(asyncio.create_task(page(self._api, wait="30", **params)))
        # One more waits to look at what other processes record.
        await parked(self._clock, len(self.tasks) + 1)

    async def results(self):
        """What all of them are answered."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.gather(*self.tasks)


@pytest.fixture
def waiting(api, clock):
    """Requests that wait."""
    return Waiting(api, clock)


# Pages


async def test_an_event_is_told_with_the_body_of_its_callback(api, store):
    """An item has the webhook-id, the name of the callback and the same object as its body."""
    await add_delivery(store)
    expected = {
        "id": "msg_1",
        "invoice_id": "1",
        "callback": "invoice_notification",
        "body": {"description": "Invoice paid", "paid": True, "invoice_id": "1"},
        "at": "2026-01-31T12:00:00.000Z",
    }

    assert [expected] == (await page(api))[0]


async def test_an_invoice_without_a_callback_url_is_followed(api, store, service, clock):
    """What nobody is called about is told as it would have been sent."""
    body = {"id": "silent", "customer": "c", "total": "1"}
    assert 202 == (await api.post("/invoices/", json=body)).status
    waiting = Waiting(api, clock)
    await waiting.begin()

    async with running_loops([service.collection], drain_seconds=PATIENCE_SECONDS):
        (((item,), _),) = await waiting.results()

    assert {"description": "Invoice paid", "paid": True, "invoice_id": "silent"} == item["body"]
    assert item["id"].startswith("evt_")


async def test_an_own_body_is_told_as_it_was_sent(api, store):
    """An event with a content of its own has the body that was rendered, byte for byte."""
    await store.accept(an_invoice())
    event = replace(an_event(), bodies={"invoice_notification": b'{"place":"Z\xc3\xbcrich"}'})
    step = a_step(await lease_invoice(store), event=event)
    await store.take_step(step, [a_delivery(step)])

    answer = await api.get("/events")

    assert '"body":{"place":"Zürich"}' in await answer.text()


async def test_pages_follow_each_other(api, store):
    """`next` leads to the next page; without anything new the page is empty and repeats it."""
    await add_two_events(store, "1")
    await add_two_events(store, "2")

    first, after = await page(api, limit=3)
    second, last = await page(api, after=after)

    assert ["msg_1a", "msg_1b", "msg_2a", "msg_2b"] == [one["id"] for one in first + second]
    assert ([], last) == await page(api, after=last)


async def test_an_empty_feed_has_a_cursor(api, store):
    """Before anything has happened, there is a cursor to begin with."""
    items, after = await page(api)
    await add_delivery(store)

    assert [] == items
    assert ["msg_1"] == await ids(api, after=after)


async def test_a_large_page_ends_early_and_goes_on(api, store, monkeypatch):
    """A page ends before it is too large, with the cursor of its last item."""
    monkeypatch.setattr("service.api.reads.PAGE_BYTES", 500)
    for number in range(5):
        await add_delivery(store, str(number))

    items, after = await page(api)

    assert 0 < len(items) < 5
    assert [f"msg_{n}" for n in range(len(items), 5)][:1] == (await ids(api, after=after))[:1]


@pytest.mark.parametrize("path", ["/events", "/events/"])
async def test_head_does_not_wait(api, path):
    """HEAD is answered like GET and without a body, at once."""
    answer = await api.head(f"{path}?wait=60")

    assert (200, b"") == (answer.status, await answer.read())


@pytest.mark.parametrize(
    ("expected", "query"),
    [
        ("/limit", "limit=0"),
        ("/limit", "limit=201"),
        ("/wait", "wait=-1"),
        ("/wait", "wait=61"),
        ("/wait", "wait=1.5"),
        ("/wait", "wait=soon"),
        ("/wait", "wait=1&wait=2"),
        ("/after", "after="),
        ("/after", "after=msg_1"),
        ("/after", f"after={FeedCursor(10**15, 'k', 1, 1)}"),
        ("/after", "after=" + "A" * 201),
        ("/since", "since=2026-01-31T12:00:00Z"),
    ],
)
async def test_invalid_parameters_are_refused(api, expected, query):
    """A bad cursor, limit or wait is a field error that names it."""
    answer = await api.get(f"/events?{query}")

    assert 422 == answer.status
    assert [("query", expected)] == [
        (one["location"], one["pointer"]) for one in (await answer.json())["errors"]
    ]


# Waiting


async def test_a_request_that_waits_is_answered_at_once(store, waiting):
    """An event that this process records ends the wait without any time passing."""
    await waiting.begin()

    await add_delivery(store)

    ((items, _),) = await waiting.results()
    assert ["msg_1"] == [one["id"] for one in items]


async def test_what_is_there_is_answered_without_waiting(api, store):
    """Where there is something new, `wait` changes nothing."""
    await add_delivery(store)

    assert ["msg_1"] == await ids(api, wait=60)


async def test_a_reader_that_follows_gets_what_has_gathered(store, api, clock):
    """Behind a few items, a request with `wait` is answered after a moment, with all since then."""
    await add_delivery(store)
    _, after = await page(api, wait=60)
    following = asyncio.create_task(page(api, after=after, wait=60))
    await parked(clock, 1)

    await add_delivery(store, "2")
    await add_delivery(store, "3")
    clock.advance(GATHER / 2)
    await idle()
    assert not following.done()
    clock.advance(GATHER / 2)

    assert ["msg_2", "msg_3"] == [one["id"] for one in (await following)[0]]


@pytest.mark.parametrize("changes", [{"wait": 0}, {}])
async def test_who_does_not_wait_is_answered_at_once(store, api, changes):
    """What is there is given out to a request without `wait`, and to another reader."""
    await add_delivery(store)
    _, after = await page(api, wait=60)
    await add_delivery(store, "2")

    assert ["msg_2"] == await ids(api, after=after, **changes)
    assert ["msg_1", "msg_2"] == await ids(api, wait=60)


async def test_a_reader_that_catches_up_does_not_wait(store, api):
    """Behind a full page there is probably more, which comes at once."""
    for number in (1, 2, 3):
        await add_delivery(store, f"{number}")
    _, after = await page(api, wait=60, limit=2)

    assert ["msg_3"] == await ids(api, after=after, wait=60, limit=2)


async def test_an_event_after_a_while_comes_at_once(store, api, clock):
    """Where little happens, nothing gathers and nothing is remembered."""
    await add_delivery(store)
    _, after = await page(api, wait=60)
    clock.advance(GATHER)
    await add_delivery(store, "2")

    assert ["msg_2"] == await ids(api, after=after, wait=60)


async def test_a_wait_ends_without_items(waiting, clock, api):
    """After so many seconds the page is empty, and repeats the cursor."""
    _, after = await page(api)
    await waiting.begin(after=after)

    clock.advance(WAIT)

    assert [([], after)] == await waiting.results()


async def test_events_of_other_accounts_wake_nobody(store, waiting, clock):
    """A request waits on when something happens to an invoice of another account."""
    await waiting.begin()

    await add_delivery(store, account_id="other")
    await idle()
    clock.advance(WAIT)

    ((items, _),) = await waiting.results()
    assert [] == items


async def test_events_of_other_processes_are_found_soon(database, waiting, clock):
    """What another process records ends the wait with the next look, after a second."""
    await waiting.begin()

    await add_delivery(Store(database))
    clock.advance(LOOK)

    ((items, _),) = await waiting.results()
    assert ["msg_1"] == [one["id"] for one in items]


async def test_what_cannot_be_given_out_yet_is_looked_for_again(store, waiting, clock, monkeypatch):
    """After it was woken in vain, a request looks again soon."""
    await waiting.begin()
    hidden = store.history.feed
    looked = asyncio.Event()

    async def nothing(account_id, **options):
        looked.set()
        return replace(await hidden(account_id, **options), items=[], next=BEGINNING)

    monkeypatch.setattr(store.history, "feed", nothing)
    await add_delivery(store)
    await looked.wait()
    monkeypatch.setattr(store.history, "feed", hidden)
    await parked(clock, 2)
    clock.advance(FIRST_PAUSE)

    ((items, _),) = await waiting.results()
    assert ["msg_1"] == [one["id"] for one in items]


async def test_a_request_that_waits_has_no_turn_of_its_account(api, store, waiting):
    """While requests wait, other reads of the account are answered."""
    await waiting.begin(3)

    assert 200 == (await api.get("/invoices/")).status
    await add_delivery(store)
    assert 3 == len(await waiting.results())


async def test_waiting_requests_of_an_account_are_bounded(api, store, waiting):
    """Above the bound a request is 429 with words, and one that need not wait is answered."""
    await waiting.begin(WAITING_PER_ACCOUNT)

    refused = await api.get("/events?wait=30")

    assert (429, "5") == (refused.status, refused.headers["Retry-After"])
    assert "wait for events already" in (await refused.json())["detail"]
    assert [] == await ids(api)
    await add_delivery(store)
    await waiting.results()
    assert ["msg_1"] == await ids(api, wait=30)


async def test_waiting_requests_of_all_accounts_are_bounded(
    aiohttp_client, dependencies, clock, store
):
    """They never occupy more than half of the connections, whoever sends them."""
    few = replace(dependencies, waiting_max=2)
    api = await aiohttp_client(make_application(few))
    waiting = Waiting(api, clock)
    await waiting.begin(2)

    refused = await api.get("/events?wait=30")

    assert 429 == refused.status
    assert "of all accounts" in (await refused.json())["detail"]
    await add_delivery(store)
    await waiting.results()


async def test_the_end_of_the_service_answers_all_that_wait(api, dependencies, waiting):
    """A drain answers requests that wait at once, and later ones do not wait."""
    await waiting.begin(2)

    dependencies.feed.end()

    assert [[], []] == [items for items, _ in await waiting.results()]
    assert [] == await ids(api, wait=60)


class Leaving:
    """Clients on real connections."""

    def __init__(self, wire, clock):
        self._wire = wire
        self._clock = clock

    async def wait(self):
        """Send a request that waits; returns what it is read from, and what closes it."""
        reader, writer = await self._wire.connect()
        writer.write(b"GET /events?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        # One waits, and one looks at what other processes record.
        await parked(self._clock, 2)
        return reader, writer


@pytest.fixture
def when_free(store, monkeypatch):
    """An event that is set when nobody waits any more."""
    event, awaited = asyncio.Event(), store.arrivals.awaited

    @contextmanager
    def watched(account_id):
        event.clear()
        with awaited(account_id) as signal:
            yield signal
        event.set()

    monkeypatch.setattr(store.arrivals, "awaited", watched)
    return event


async def test_a_client_that_leaves_frees_its_place(wire, clock, store, when_free):
    """A closed connection ends the wait of its request, without any time passing."""
    for _ in range(3):
        _, writer = await Leaving(wire, clock).wait()
        assert 1 == len(store.arrivals)

        writer.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await when_free.wait()

        assert 0 == len(store.arrivals)


async def test_the_end_of_the_server_does_not_wait(dependencies, clock):
    """A server that stops answers requests that wait, and waits for none of them."""
    async with listening(dependencies) as wire:
        reader, writer = await Leaving(wire, clock).wait()
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'{"items":[],"next":"' in answer
