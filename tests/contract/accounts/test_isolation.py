"""
Two accounts: nothing of the one is there for the other.

What the other has is asked for in every way there is, and beside it something that does not exist:
the two answers are the same, byte for byte.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from urllib.parse import urlencode

import pytest

from tests.askers import PRIVATE, Asker
from tests.clock import START
from tests.rows import ONE, add_delivery

BY_ID = [path for method, path in PRIVATE if "{id}" in path and method == "GET"]
REDELIVER = "/deliveries/{id}/redeliver"
REDELIVER_ALL = "/deliveries/redeliver"
LISTS = ["/invoices/", "/deliveries"]
FILTERS = {
    "status": [None, "pending", "delivered", "dead"],
    "invoice_id": [None, "dead1", "nobod1"],
    "origin": [None, ONE],
    "since": [None, START.isoformat()],
    "until": [None, START.replace(year=2027).isoformat()],
}


def all_filters():
    """Every query that the filters of deliveries make together."""
    for values in product(*FILTERS.values()):
        yield {name: one for name, one in zip(FILTERS, values, strict=True) if one is not None}


def ids_of(path, invoice_ids):
    """The ids that *path* takes, of things that belong to these invoices."""
    return [f"msg_{id_}" if path.startswith("/deliveries") else id_ for id_ in invoice_ids]


def test_every_operation_is_looked_at():
    """A new operation is in the tables here, or this fails."""
    known = {("GET", path) for path in (*LISTS, *BY_ID)}
    known |= {("POST", path) for path in ("/invoices/", REDELIVER, REDELIVER_ALL)}

    assert known == set(PRIVATE)
    assert 3 == len(BY_ID)


@pytest.mark.parametrize("path", BY_ID)
@pytest.mark.parametrize("form", ["", "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_belongs_to_another_is_not_there(as_ann, as_ben, anns, path, form, method):
    """Another's id is answered as an id that does not exist, the id in it aside."""
    # Of the same length, and so with the same Content-Length.
    for id_ in ids_of(path, [id_ for id_ in anns if path != BY_ID[-1] or id_ != "plain1"]):
        unknown = id_[:-1] + "2"
        there = await as_ben.ask(method, path.format(id=id_) + form)
        not_there = await as_ben.ask(method, path.format(id=unknown) + form)

        assert 200 == (await as_ann.ask(method, path.format(id=id_) + form)).status
        assert 404 == there.status
        assert there.without(id_) == not_there.without(unknown)


@pytest.mark.parametrize(("path", "status"), [("/invoices/", "paid"), ("/deliveries", "dead")])
async def test_lists_of_one_who_has_nothing_are_empty(as_ann, as_ben, anns, path, status):
    """What another has is in no list, however it is narrowed and however long."""
    nothing = {"items": [], "next": None}
    queries = [{}, {"limit": 1}, {"limit": 200}, {"status": status}]

    assert (await as_ann.get(path))["items"]
    for query in queries:
        assert nothing == await as_ben.get(f"{path}?{urlencode(query)}"), query


async def test_no_filter_reaches_what_belongs_to_another(store, as_ann, as_ben, ben, anns):
    """Every filter, and all of them together, list the account's own deliveries alone."""
    await add_delivery(store, "dead1", account_id=ben.account_id, origin=ONE)
    own = {id_: f"msg_{id_}" for id_ in anns}
    seen = set()

    for query in all_filters():
        url = f"/deliveries?{urlencode(query)}"
        bens, of_ann = await as_ben.get(url), await as_ann.get(url)

        assert {"msg_dead1"} >= {one["id"] for one in bens["items"]}, query
        assert all(one["status"] == "pending" for one in bens["items"]), query
        assert set(own.values()) >= {one["id"] for one in of_ann["items"]}, query
        seen |= {one["id"] for one in of_ann["items"]}

    assert {"msg_pending1", "msg_delivered1", "msg_dead1"} == seen


async def test_a_filter_by_anothers_invoice_finds_nothing(as_ben, anns):
    """Filtering by another's invoice is answered as by one that does not exist."""
    not_there = await as_ben.ask("GET", "/deliveries?invoice_id=nobod1")

    for id_ in anns:
        assert not_there == await as_ben.ask("GET", f"/deliveries?invoice_id={id_}")


async def test_another_has_no_pages_of_invoices(store, as_ben, ben, anns):
    """The id of another's invoice is no cursor: it is refused as one that does not exist."""
    await add_delivery(store, "bens1", account_id=ben.account_id)
    not_there = await as_ben.ask("GET", "/invoices/?after=nobod1")

    assert 422 == not_there.status
    for id_ in anns:
        assert not_there == await as_ben.ask("GET", f"/invoices/?after={id_}")


async def test_another_has_no_pages_of_deliveries(store, as_ben, ben, anns):
    """The id of another's delivery is no cursor: it is refused as one that does not exist."""
    await add_delivery(store, "bens1", account_id=ben.account_id)
    not_there = await as_ben.ask("GET", "/deliveries?after=msg_nobod1")

    assert 422 == not_there.status
    for id_ in ids_of("/deliveries", anns):
        assert not_there == await as_ben.ask("GET", f"/deliveries?after={id_}")


async def test_a_page_is_followed_through_ones_own_alone(store, as_ann, ann, ben):
    """Rows of another that lie between one's own are neither listed nor counted."""
    for number in range(4):
        for account in (ann, ben):
            name = "ann" if account is ann else "ben"
            await add_delivery(store, f"{name}{number}", account_id=account.account_id)

    for path in LISTS:
        items, page = [], await as_ann.get(f"{path}?limit=2")
        items += page["items"]
        page = await as_ann.get(f"{path}?limit=2&after={page['next']}")
        items += page["items"]

        assert None is page["next"]
        assert 4 == len(items)
        assert all("ann" in one["id"] for one in items)


async def test_both_may_use_the_same_id(as_ann, as_ben):
    """An id is the account's own: another's invoice of that id is neither replay nor conflict."""
    first = await as_ann.send("1", customer="of Ann")
    second = await as_ben.send("1", customer="of Ben")

    assert (202, 202) == (first.status, second.status)
    assert first == second
    assert "of Ann" == (await as_ann.get("/invoices/1"))["customer"]
    assert "of Ben" == (await as_ben.get("/invoices/1"))["customer"]
    assert [200, 409] == [
        (await as_ben.send("1", customer=name)).status for name in ("of Ben", "of Ann")
    ]


async def test_what_another_does_changes_nothing_here(as_ann, as_ben, anns):
    """Invoices, errors and queries of another account change nothing of one's own."""
    paths = [*LISTS, *(path.format(id="1") for path in BY_ID), "/invoices/dead1"]
    before = [await as_ann.ask("GET", path) for path in paths]

    for id_ in (*anns, "1", ""):
        await as_ben.send(id_, callback_url="https://a.example")
    for path in paths:
        await as_ben.ask("GET", path)

    assert before == [await as_ann.ask("GET", path) for path in paths]


async def test_another_redelivers_nothing(as_ann, as_ben, anns):
    """Another's delivery is not there to be redelivered, alone or by a filter."""
    before = [await as_ann.ask("GET", path) for path in LISTS]

    for id_ in ids_of("/deliveries", anns):
        unknown = id_[:-1] + "2"
        there = await as_ben.ask("POST", REDELIVER.format(id=id_))
        not_there = await as_ben.ask("POST", REDELIVER.format(id=unknown))

        assert 404 == there.status
        assert there.without(id_) == not_there.without(unknown)
    for changes in ({}, {"origin": ONE}):
        answer = await as_ben.ask("POST", REDELIVER_ALL, json={"status": "dead", **changes})

        assert (202, b'{"count":0}') == (answer.status, answer.body)
    assert before == [await as_ann.ask("GET", path) for path in LISTS]


async def test_a_new_key_shows_the_same(as_ann, client, administration, anns):
    """What belongs to an account belongs to each of its keys."""
    new = await administration.rotate_key("ann", timedelta(hours=1))
    again = Asker(client, f"Bearer {new.key}")

    assert len(anns) == len((await again.get("/invoices/"))["items"])
    assert await as_ann.get("/invoices/") == await again.get("/invoices/")
