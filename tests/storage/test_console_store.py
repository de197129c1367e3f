"""What the console stores and counts, on every database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.domain.attempt_counts import Hour, no_counts
from service.domain.states import DeliveryStatus
from service.storage import history
from service.storage.accounts import Account, Credentials, NewKey
from service.storage.console import CHECKS_MAX, Counted
from service.storage.history import DeliveryFilter
from service.storage.observations import Observation
from service.storage.sessions import SESSIONS_MAX, Link, Session
from service.storage.tables import console_links, console_sessions
from tests.clock import START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    a_receiver,
    add_delivery,
    failed,
    lease_delivery,
    rows_of,
)

LATER = START + timedelta(hours=12)


@pytest.fixture
async def account(store):
    """The id of an account."""
    await store.accounts.add(Account("acct_1", "ann", START), Credentials(NewKey("p", b"hash")))
    return "acct_1"


def a_session(number=1, account_id="acct_1", at=START):
    """A session that begins at *at*."""
    return Session(f"hash {number}".encode(), account_id, at, at + timedelta(hours=12))


async def test_a_session_is_found_until_it_ends(store, account):
    """It is found by its hash, until its end or until it is ended."""
    await store.console.add_session(a_session())

    assert a_session() == await store.console.find_session(b"hash 1", LATER - SECOND)
    assert None is await store.console.find_session(b"hash 1", LATER)
    assert None is await store.console.find_session(b"hash 2", START)
    await store.console.end_session(b"hash 1")
    assert None is await store.console.find_session(b"hash 1", START)


async def test_a_session_of_no_account_is_not_found(store):
    """A session ends with the row of its account, and the operator's needs none."""
    await store.console.add_session(a_session())
    await store.console.add_session(a_session(2, None))

    assert None is await store.console.find_session(b"hash 1", START)
    assert a_session(2, None) == await store.console.find_session(b"hash 2", START)


@pytest.mark.parametrize("account_id", ["acct_1", None])
async def test_too_many_sessions_end_the_oldest(store, database, account, account_id):
    """Each account, and the operator, has a bounded number of them."""
    others = None if account_id else "acct_1"
    await store.console.add_session(a_session("other", others))
    for number in range(SESSIONS_MAX + 2):
        await store.console.add_session(a_session(number, account_id, START + number * SECOND))

    rows = await rows_of(database, console_sessions)
    assert 1 + SESSIONS_MAX == len(rows)
    assert {b"hash 0", b"hash 1"}.isdisjoint({bytes(row["hash"]) for row in rows})


async def test_a_new_key_and_disabling_end_sessions_and_links(store, database, account):
    """Both are removed with the change that ends them; those of others stay."""
    for change in ("rotate", "disable"):
        await store.console.add_session(a_session())
        await store.console.add_session(a_session(2, None))
        await store.console.add_link(Link(b"link 1", account, LATER), START)
        await store.console.add_link(Link(b"link 2", None, LATER), START)
        if change == "rotate":
            await store.accounts.rotate(
                account, Credentials(NewKey("q", b"h")), now=START, until=LATER
            )
        else:
            await store.accounts.disable(account, START)

        for table in (console_sessions, console_links):
            assert [None] == [row["account_id"] for row in await rows_of(database, table)]
        assert await store.console.take_link(Link(b"link 2", None, LATER), a_session(3, None))
        for number in (2, 3):
            await store.console.end_session(f"hash {number}".encode())


async def test_a_link_is_taken_by_one(store, account):
    """Of two that take it, one gets a session."""
    link = Link(b"link", account, START + SECOND)
    await store.console.add_link(link, START)
    assert link == await store.console.find_link(b"link", START)
    assert None is await store.console.find_link(b"link", START + SECOND)

    taken = [await store.console.take_link(link, a_session(number)) for number in (1, 2)]

    assert [True, False] == taken
    assert None is await store.console.find_session(b"hash 2", START)


async def test_accounts_are_known_by_their_ids(store, account):
    """Whether they are disabled or not."""
    await store.accounts.disable(account, START)

    assert (True, False) == (
        await store.console.is_account(account),
        await store.console.is_account("acct_2"),
    )


async def test_the_body_of_a_delivery_is_of_its_account(store):
    """The exact bytes; another account has no such delivery."""
    await add_delivery(store, "1")

    assert b'{"description":"Invoice paid","paid":true}' == bytes(
        await store.console.body_of("dev", "msg_1")
    )
    assert None is await store.console.body_of("other", "msg_1")
    assert None is await store.console.body_of("dev", "msg_2")


async def test_deliveries_are_counted_by_parts(store, monkeypatch):
    """A count looks at some deliveries, and says where it ended."""
    for number in range(5):
        origin = TWO if number % 2 else ONE
        await add_delivery(store, f"{number}", origin=origin, at=START + number * SECOND)
    count = store.console.count_deliveries

    assert Counted(5, None) == await count("dev", DeliveryFilter())
    assert Counted(2, None) == await count("dev", DeliveryFilter(origin=TWO))
    assert Counted(1, None) == await count("dev", DeliveryFilter(invoice_id="3"))
    assert Counted(0, None) == await count("dev", DeliveryFilter(invoice_id="9"))
    assert Counted(0, None) == await count("other", DeliveryFilter())
    monkeypatch.setattr(history, "SCAN_MAX", 2)
    wanted = DeliveryFilter(status="pending", origin=ONE)
    assert Counted(1, "msg_3") == await count("dev", wanted)
    assert Counted(1, "msg_1") == await count("dev", wanted, "msg_3")
    assert Counted(1, None) == await count("dev", wanted, "msg_1")


async def test_deliveries_are_found_by_their_url(store):
    """At a URL or below it, the newest first; what only begins alike is another URL."""
    for number, path in enumerate(("/a", "/a_b", "/ab", "/a")):
        await add_delivery(store, f"{number}", path=path, at=START + number * SECOND)

    async def find(*urls, limit=9):
        return await store.console.find_called("dev", ONE, urls, limit)

    assert ["msg_3", "msg_0"] == await find(f"{ONE}/a")
    assert ["msg_3"] == await find(f"{ONE}/a", limit=1)
    assert ["msg_1"] == await find(f"{ONE}/a_b", "https://nowhere")
    assert ["msg_2"] == await find(f"{ONE}/ab/invoices/2")
    assert [] == await find(f"{TWO}/a")
    assert [] == await store.console.find_called("other", ONE, [f"{ONE}/a"], 9)


async def test_what_died_of_late_is_counted(store):
    """By when it died, and not by when it was created."""
    for number in range(3):
        at = START + number * SECOND
        await add_delivery(store, f"{number}", at=at)
        leased = await lease_delivery(store, now=at)
        await store.settle(failed(leased, status=DeliveryStatus.DEAD, at=at))

    assert Counted(2, None) == await store.console.count_dead_since("dev", START + SECOND)
    assert Counted(0, None) == await store.console.count_dead_since("other", START)


async def test_the_newest_checks_are_kept(store):
    """Of each URL the last one, and of an account a bounded number."""
    for number in range(CHECKS_MAX + 2):
        for conforms in (False, True):
            row = {"account_id": "dev", "url": f"https://{number}", "checks": "[]"}
            at = START + number * SECOND
            await store.console.keep_check({**row, "conforms": conforms, "checked_at": at})

    kept = await store.console.checks_of("dev")
    assert [f"https://{number}" for number in range(CHECKS_MAX + 1, 1, -1)] == [
        one["url"] for one in kept
    ]
    assert {True} == {one["conforms"] for one in kept}
    assert [] == await store.console.checks_of("other")


async def test_checks_of_one_instant_are_listed_by_their_urls(store):
    """The list of an account is the same each time."""
    row = {"account_id": "dev", "checks": "[]", "conforms": True, "checked_at": START}
    for url in ("https://b", "https://c", "https://a"):
        await store.console.keep_check({**row, "url": url})

    kept = await store.console.checks_of("dev")

    assert ["https://a", "https://b", "https://c"] == [one["url"] for one in kept]


async def test_the_hours_of_an_account_are_those_of_its_receivers(store):
    """The counts of an hour add up, of several writes as well; other accounts are left out."""
    for path, delivered_count in (("/a", 1), ("/b", 2), ("/c", 4), ("/a", 8)):
        name = a_receiver(path=path)
        await store.receivers.observe([an_observation(name, delivered_count, START)])
    other = a_receiver(account_id="other")
    await store.receivers.observe([an_observation(other, 8, START - timedelta(hours=23))])

    hours = await store.console.hours_of_account("dev", START)

    sum_before = sum(one.delivered for one in hours[:-1])
    assert (24, 15, 0) == (len(hours), hours[-1].delivered, sum_before)
    assert 8 == (await store.console.hours_of_account("other", START))[0].delivered
    assert 8 == (await store.console.hours_of([other], START))[other][0].delivered
    assert 24 == len(await store.console.hours_of_account("nobody", START))


async def test_the_hours_of_any_number_of_receivers_are_counted(store):
    """The attempts of 10,000 receivers are those of their account, and no receiver of its own."""
    names = [a_receiver(path=f"/{number}") for number in range(10_000)]
    for start in range(0, len(names), 1_000):
        await store.receivers.observe(
            [an_observation(one, 1, START) for one in names[start : start + 1_000]]
        )

    assert 10_000 == (await store.console.hours_of_account("dev", START))[-1].delivered
    assert ([], None) == await store.receivers.page("dev", START, after=None, limit=10)


def an_observation(name, delivered_count, at):
    """What a process has counted of a receiver."""
    counts = [delivered_count, *no_counts()[1:]]
    return Observation(receiver=name, origin=ONE, answered_at=at, hours=[Hour(name, at, counts)])


async def receiver_at(store, path):
    """The receiver at *path*, which has a delivery."""
    await add_delivery(store, path.strip("/"), path=path)
    known, _ = await store.receivers.page("dev", START, after=None, limit=9)
    return next(one for one in known if one.url.endswith(path))
