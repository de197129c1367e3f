"""
Two accounts: neither can see that a row of the other exists.

Every operation is called with an id of the other account, and with an id that does not exist:
the two responses are the same, byte for byte.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from urllib.parse import urlencode

import pytest

from service.domain.receivers import id_of
from tests.askers import PRIVATE, Asker
from tests.clock import START
from tests.rows import ONE, a_receiver, add_delivery

RECEIVER = "/receivers/{id}"
BY_HAND = [f"{RECEIVER}/{what}" for what in ("pause", "resume", "test")]
BY_ID = [
    path for method, path in PRIVATE if "{id}" in path and method == "GET" and path != RECEIVER
]
REDELIVER = "/deliveries/{id}/redeliver"
REDELIVER_ALL = "/deliveries/redeliver"
CANCEL = "/deliveries/{id}/cancel"
VOID = "/invoices/{id}/void"
REFUND = "/invoices/{id}/refund"
LISTS = ["/invoices/", "/deliveries"]
FEED = "/events"
FILTERS = {
    "status": [None, "pending", "delivered", "dead"],
    "invoice_id": [None, "dead1", "none1"],
    "origin": [None, ONE],
    "since": [None, START.isoformat()],
    "until": [None, START.replace(year=2027).isoformat()],
}


def all_filters():
    """Every combination of the filters of deliveries."""
    for values in product(*FILTERS.values()):
        yield {name: one for name, one in zip(FILTERS, values, strict=True) if one is not None}


def ids_of(path, invoice_ids):
    """The ids for *path* that belong to these invoices."""
    return [f"msg_{id_}" if path.startswith("/deliveries") else id_ for id_ in invoice_ids]


def test_every_operation_is_covered():
    """The tables of this module contain every operation."""
    known = {("GET", path) for path in (*LISTS, *BY_ID, FEED)}
    changes = (REDELIVER, REDELIVER_ALL, CANCEL, VOID, REFUND)
    known |= {("POST", path) for path in ("/invoices/", *changes)}
    known |= {("GET", "/receivers"), ("GET", RECEIVER), *(("POST", path) for path in BY_HAND)}
    # Their tests are those of listeners.
    known |= {(method, path) for method, path in PRIVATE if path.startswith("/listen")}

    assert known == set(PRIVATE)
    assert 6 == len(BY_ID)


@pytest.mark.parametrize("path", BY_ID)
@pytest.mark.parametrize("form", ["", "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_rows_of_another_account_are_not_found(as_ann, as_ben, anns, path, form, method):
    """An id of another account gets the response of an unknown id, apart from the id itself."""
    # An id of the same length gives the same Content-Length.
    has_all = not path.startswith("/deliveries")
    for id_ in ids_of(path, [id_ for id_ in anns if has_all or id_ != "plain1"]):
        unknown = id_[:-1] + "2"
        there = await as_ben.ask(method, path.format(id=id_) + form)
        not_there = await as_ben.ask(method, path.format(id=unknown) + form)

        assert 200 == (await as_ann.ask(method, path.format(id=id_) + form)).status
        assert 404 == there.status
        assert there.without(id_) == not_there.without(unknown)


@pytest.mark.parametrize("path", [VOID, REFUND])
async def test_the_money_of_another_account_is_not_found(as_ann, as_ben, anns, path):
    """An account neither voids nor refunds the invoices of another one."""
    headers = {"Idempotency-Key": "key"}
    for id_ in anns:
        before = await as_ann.get(f"/invoices/{id_}")

        there = await as_ben.ask("POST", path.format(id=id_), headers=headers)

        assert 404 == there.status
        assert before == await as_ann.get(f"/invoices/{id_}")


@pytest.mark.parametrize(("path", "status"), [("/invoices/", "paid"), ("/deliveries", "dead")])
async def test_lists_of_an_account_without_rows_are_empty(as_ann, as_ben, anns, path, status):
    """No list contains rows of another account, whatever its filters and its limit are."""
    nothing = {"items": [], "next": None}
    queries = [{}, {"limit": 1}, {"limit": 200}, {"status": status}]

    assert (await as_ann.get(path))["items"]
    for query in queries:
        assert nothing == await as_ben.get(f"{path}?{urlencode(query)}"), query


async def test_the_feed_of_an_account_without_rows_is_empty(as_ann, as_ben, anns):
    """The feed tells no event of another account, also behind a cursor of that account."""
    anns_feed = await as_ann.get(FEED)
    assert {f"msg_{id_}" for id_ in anns} >= {one["id"] for one in anns_feed["items"]}
    assert anns_feed["items"]

    assert [] == (await as_ben.get(FEED))["items"]
    answer = await as_ben.ask("GET", f"{FEED}?{urlencode({'after': anns_feed['next']})}")
    # The cursor is ahead of everything that this account has.
    assert 422 == answer.status


async def test_no_filter_finds_rows_of_another_account(store, as_ann, as_ben, ben, anns):
    """Every combination of filters lists only the account's own deliveries."""
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


async def test_a_filter_by_an_invoice_of_another_account_finds_nothing(as_ben, anns):
    """A filter by an invoice of another account gets the response of an unknown invoice."""
    not_there = await as_ben.ask("GET", "/deliveries?invoice_id=none1")

    for id_ in anns:
        assert not_there == await as_ben.ask("GET", f"/deliveries?invoice_id={id_}")


async def test_an_invoice_of_another_account_is_not_a_cursor(store, as_ben, ben, anns):
    """The id of an invoice of another account is refused as a cursor, like an unknown id."""
    await add_delivery(store, "bens1", account_id=ben.account_id)
    not_there = await as_ben.ask("GET", "/invoices/?after=none1")

    assert 422 == not_there.status
    for id_ in anns:
        assert not_there == await as_ben.ask("GET", f"/invoices/?after={id_}")


async def test_a_delivery_of_another_account_is_not_a_cursor(store, as_ben, ben, anns):
    """The id of a delivery of another account is refused as a cursor, like an unknown id."""
    await add_delivery(store, "bens1", account_id=ben.account_id)
    not_there = await as_ben.ask("GET", "/deliveries?after=msg_none1")

    assert 422 == not_there.status
    for id_ in ids_of("/deliveries", anns):
        assert not_there == await as_ben.ask("GET", f"/deliveries?after={id_}")


async def test_pages_contain_only_rows_of_the_account(store, as_ann, ann, ben):
    """Rows of another account between one's own are neither listed nor counted."""
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


async def test_two_accounts_may_use_the_same_id(as_ann, as_ben):
    """An invoice with the id of another account's invoice is neither a replay nor a conflict."""
    first = await as_ann.send("1", customer="of Ann")
    second = await as_ben.send("1", customer="of Ben")

    assert (202, 202) == (first.status, second.status)
    assert first == second
    assert "of Ann" == (await as_ann.get("/invoices/1"))["customer"]
    assert "of Ben" == (await as_ben.get("/invoices/1"))["customer"]
    assert [200, 409] == [
        (await as_ben.send("1", customer=name)).status for name in ("of Ben", "of Ann")
    ]


async def test_requests_of_another_account_change_nothing(as_ann, as_ben, anns):
    """Invoices, errors and queries of another account change no response of this account."""
    paths = [*LISTS, *(path.format(id="1") for path in BY_ID), "/invoices/dead1"]
    before = [await as_ann.ask("GET", path) for path in paths]

    for id_ in (*anns, "1", ""):
        await as_ben.send(id_, callback_url="https://a.example")
    for path in paths:
        await as_ben.ask("GET", path)

    assert before == [await as_ann.ask("GET", path) for path in paths]


async def test_another_account_redelivers_nothing(as_ann, as_ben, anns):
    """A delivery of another account cannot be redelivered, neither by id nor by a filter."""
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


async def test_receivers_of_another_account_are_not_found(as_ann, as_ben, ann, anns):
    """Another account neither sees, pauses, resumes nor tests a receiver, and knows no URL."""
    id_ = id_of(a_receiver(account_id=ann.account_id))
    unknown = id_[:-1] + ("0" if id_[-1] != "0" else "1")
    before = await as_ann.ask("GET", RECEIVER.format(id=id_))

    for method, path in (("GET", RECEIVER), *(("POST", path) for path in BY_HAND)):
        there = await as_ben.ask(method, path.format(id=id_))
        not_there = await as_ben.ask(method, path.format(id=unknown))

        assert 404 == there.status
        assert there.without(id_) == not_there.without(unknown)
    assert 200 == before.status
    assert before == await as_ann.ask("GET", RECEIVER.format(id=id_))
    assert {"items": [], "next": None} == await as_ben.get("/receivers/")
    assert 422 == (await as_ben.ask("GET", f"/receivers/?after={id_}")).status
    assert [ONE] == [one["url"] for one in (await as_ann.get("/receivers/"))["items"]]


async def test_every_key_of_an_account_sees_the_same_rows(as_ann, client, administration, anns):
    """A new key of an account sees the same rows as its first key."""
    new = await administration.rotate_key("ann", timedelta(hours=1))
    again = Asker(client, f"Bearer {new.key}")

    assert len(anns) == len((await again.get("/invoices/"))["items"])
    assert await as_ann.get("/invoices/") == await again.get("/invoices/")
