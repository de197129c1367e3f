"""The feed of an account: every event once, in the order of the commits, whatever commits when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest
from sqlalchemy import update

from service.domain.states import InvoiceStatus
from service.errors import UnknownCursor
from service.storage import feed as feed_module
from service.storage.feed import BEGINNING, FeedCursor
from service.storage.retention import SweepPosition
from service.storage.tables import events
from tests.clock import START
from tests.rows import (
    ONE,
    a_callback,
    a_delivery,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    delivered,
    lease_deliveries,
    lease_invoice,
    read_all,
    take_step,
)

DAY = timedelta(days=1)


async def ids(store, **options):
    """The ids of all items."""
    return [one.id for one in (await read_all(store, **options))[0]]


async def add_silent(store, id_, *, description="Invoice paid"):
    """Add a paid invoice without a callback URL, whose event names the callback."""
    await store.accept(an_invoice(id_, origin=None))
    event = replace(an_event(description), callbacks=("invoice_notification",), content=None)
    assert await take_step(store, a_step(await lease_invoice(store), event=event))


# What is told


async def test_an_event_is_told_with_the_id_of_its_callback(store):
    """An item has all that the callback has, and its webhook-id."""
    await add_delivery(store, "1")

    (item,), _ = await read_all(store)

    assert ("msg_1", "1", "invoice_notification") == (item.id, item.invoice_id, item.callback)
    assert ("Invoice paid", True, START) == (item.description, item.paid, item.at)
    assert item.own_body is None


async def test_an_event_without_a_callback_url_is_told_too(store):
    """Where nobody is called, the item has an id of its own, which is always the same."""
    await add_silent(store, "1")
    await add_silent(store, "2")

    first, second = await ids(store)

    assert first.startswith("evt_")
    assert first != second
    assert [first, second] == await ids(store)


async def test_an_id_outlives_its_delivery(store):
    """Retention removes deliveries, and items keep their ids."""
    await add_delivery(store, "1", delivery_id=f"msg_{0:032x}")
    (delivery,) = await lease_deliveries(store)
    await store.settle(delivered(delivery))
    before = await ids(store)

    swept = await store.sweep(SweepPosition("dev"), START + DAY)

    assert (1, [f"msg_{0:032x}"], before) == (swept.count, before, await ids(store))


async def test_each_callback_of_an_event_is_told_with_its_own_body(store):
    """An event with several callbacks has an item for each, whether or not it has a URL."""
    await store.accept(an_invoice(callbacks=(a_callback(ONE),)))
    names = ("invoice_notification", "other")
    bodies = {name: b'{"callback":"%s"}' % name.encode() for name in names}
    event = replace(an_event(), callbacks=names, bodies=bodies)
    step = a_step(await lease_invoice(store), event=event)
    await store.take_step(step, [a_delivery(step)])

    (first, second), _ = await read_all(store, limit=1)

    assert ("msg_1", "invoice_notification") == (first.id, first.callback)
    assert (bodies[first.callback], bodies[second.callback]) == (first.own_body, second.own_body)
    assert second.id.startswith("evt_")
    assert second.callback == "other"


async def test_an_event_of_no_callback_is_not_told(store):
    """An event that names no callback has no item, and does not hide those behind it."""
    for id_ in ("1", "2"):
        await store.accept(an_invoice(id_))
        event = an_event(delivery_id=None)
        assert await take_step(store, a_step(await lease_invoice(store), event=event))
    await add_delivery(store, "3")

    first = await store.history.feed("dev", after=None, limit=1)
    assert [] == first.items

    assert ["msg_3"] == await ids(store, after=str(first.next))


async def test_long_bodies_end_a_page_early(store, monkeypatch):
    """A page has no more text than its bound, but one item at least; the next one goes on."""
    monkeypatch.setattr(feed_module, "PAGE_CHARACTERS", 7_000)
    long = orjson.dumps({"text": "x" * 3_000})
    for number in range(5):
        await store.accept(an_invoice(str(number)))
        event = an_event(delivery_id=f"msg_{number}")
        event = replace(event, bodies={"invoice_notification": long})
        step = a_step(await lease_invoice(store), event=event)
        await store.take_step(step, [a_delivery(step)])

    page = await store.history.feed("dev", after=None, limit=200)
    items, _ = await read_all(store)

    assert (2, 5) == (len(page.items), len(items))
    assert {long} == {item.own_body for item in items}


async def test_accounts_have_feeds_of_their_own(store):
    """An account is told of its own invoices alone."""
    await add_delivery(store, "1")
    await add_delivery(store, "2", account_id="other")

    assert ["msg_1"] == await ids(store)
    assert ["msg_2"] == await ids(store, account_id="other")
    assert [] == await ids(store, account_id="none")


# Cursors


@pytest.mark.parametrize("limit", [1, 2, 200])
async def test_pages_tell_every_event_once_and_in_order(store, limit):
    """Whatever the limit, each event comes once, those of an invoice in their order."""
    for number in range(3):
        await add_two_events(store, str(number))

    assert [f"msg_{n}{part}" for n in range(3) for part in "ab"] == await ids(store, limit=limit)


async def test_a_cursor_leads_to_what_comes_later(store):
    """Without anything new, a page is empty and repeats its cursor; later it goes on from there."""
    empty = await store.history.feed("dev", after=None, limit=9)
    assert [] == empty.items
    await add_delivery(store, "1")
    _, after = await read_all(store, after=str(empty.next))

    assert after == str((await store.history.feed("dev", after=after, limit=9)).next)
    await add_delivery(store, "2")
    assert ["msg_2"] == await ids(store, after=after)
    assert ["msg_1", "msg_2"] == await ids(store, after=str(empty.next))


@pytest.mark.parametrize(
    "after",
    [
        "",
        "x",
        "msg_1",
        "é",
        "AAAA",
        str(BEGINNING) + "=",
        str(FeedCursor(2**63, "k", 1, 1)),
        str(FeedCursor(1, "k", 10**9, 1)),
        str(FeedCursor(1, "k" * 65, 1, 1)),
        str(FeedCursor(1, "a b", 1, 1)),
        str(FeedCursor(-1, "k", 1, 1)),
    ],
)
async def test_what_is_no_cursor_is_refused(store, after):
    """Only a text that was given out is a cursor."""
    with pytest.raises(UnknownCursor):
        await store.history.feed("dev", after=after, limit=9)


async def test_a_cursor_from_the_future_is_refused(store):
    """A cursor that is ahead of everything comes from a state of the database that was lost."""
    await add_delivery(store, "1")
    (item,), _ = await read_all(store)
    ahead = replace(item.cursor, position=item.cursor.position + 10**6)

    with pytest.raises(UnknownCursor):
        await store.history.feed("dev", after=str(ahead), limit=9)


async def test_the_heads_of_accounts_show_that_there_is_something_new(store):
    """The head of an account changes with every event, and with nothing else."""
    assert {} == await store.history.feed_heads(["dev", "other"])
    await add_delivery(store, "1")
    before = await store.history.feed_heads(["dev", "other"])
    await add_delivery(store, "2", account_id="other")
    between = await store.history.feed_heads(["dev", "other"])
    await add_delivery(store, "3")

    assert {"dev"} == set(before)
    assert before["dev"] == between["dev"]
    assert between["dev"] < (await store.history.feed_heads(["dev"]))["dev"]


async def test_old_events_are_told_first(store, database):
    """Events that a version before 0011 stored have the position 0, and perhaps no callbacks."""
    await add_two_events(store, "1")
    old = update(events).values(position=0, callbacks=None)
    await database.write(lambda tx: tx.execute(old).close())
    await add_delivery(store, "2")

    first, second, last = (await read_all(store))[0]

    assert ["Invoice sent", "Invoice paid"] == [first.description, second.description]
    assert {"invoice_notification"} == {first.callback, second.callback}
    assert first.id != second.id
    assert "msg_2" == last.id


async def test_steps_of_one_transaction_are_told_in_the_order_of_their_invoices(store):
    """Events of one commit have one place in the order of commits."""
    made = [an_invoice(str(number), origin=None) for number in range(5)]
    for one in made:
        await store.accept(one)
    event = replace(an_event(), callbacks=("invoice_notification",))
    leased = [replace(one, status=InvoiceStatus.RECEIVED) for one in made]
    await asyncio.gather(
        *(store.report(a_step(one, status=None, event=event), []) for one in leased)
    )

    assert sorted(map(str, range(5))) == sorted(
        one.invoice_id for one in (await read_all(store, limit=2))[0]
    )
