"""The newest connection of a listener, its attempts, and its keys, as every store has them."""

import asyncio
from datetime import timedelta

import pytest

from service.domain.listening import LISTENER_SILENCE, AttemptKey, listener_origin
from service.domain.waiting import WaitingFor
from service.storage.accounts import NewKey
from service.storage.listen_keys import KEYS_MAX
from service.storage.listeners import GivenAttempt, ListenerRow
from service.storage.tables import listener_attempts
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import (
    LISTENER_URL,
    SECOND,
    add_delivery,
    for_listener,
    lease_delivery,
    rows_of,
)

HOUR = timedelta(hours=1)
DEADLINE = START + 15 * SECOND


def a_connection(token="t1", *, account_id="dev", name="laptop", seen_count=0):
    """A connection of a listener."""
    origin = listener_origin(name)
    return ListenerRow(account_id=account_id, origin=origin, token=token, seen_count=seen_count)


def a_key(number=1, *, name="laptop", account_id="dev"):
    """An attempt of a listener."""
    origin = listener_origin(name)
    return AttemptKey(account_id=account_id, origin=origin, delivery_id="msg_1", number=number)


def given(key, deadline_at=DEADLINE):
    """An attempt that may be answered until *deadline_at*."""
    return GivenAttempt(key=key, deadline_at=deadline_at)


async def test_the_newest_connection_is_the_one(store, elsewhere):
    """A connection replaces the one before, in every process."""
    old, new = a_connection("t1"), a_connection("t2")

    assert not await store.listening.connect(old, START, "")
    assert await elsewhere.listening.connect(new, START + SECOND, "")

    assert [new] == await store.listening.look([old])


async def test_a_listener_that_comes_back_displaces_nobody(store):
    """A connection that replaces the stored one has displaced no other listener."""
    await store.listening.connect(a_connection("t1"), START, "")

    assert not await store.listening.connect(a_connection("t2"), START, "t1")


async def test_a_connection_without_beats_is_displaced_by_nobody(store):
    """A connection whose process was killed does not count as another listener."""
    await store.listening.connect(a_connection("t1"), START, "")

    assert not await store.listening.connect(a_connection("t2"), START + LISTENER_SILENCE, "")


async def test_a_beat_keeps_a_connection(store):
    """A beat of the newest connection counts, one of an older connection does not."""
    await store.listening.connect(a_connection("t1"), START, "")
    at = START + LISTENER_SILENCE
    await store.listening.beat([a_connection("old")], at)
    await store.listening.beat([a_connection("t1")], at - SECOND)

    assert await store.listening.connect(a_connection("t2"), at, "")


async def test_an_older_connection_removes_nothing(store):
    """Only the newest connection is removed when it ends."""
    new = a_connection("t2")
    await store.listening.connect(new, START, "")
    await store.listening.disconnect("dev", new.origin, "t1")
    assert [new] == await store.listening.look([new])

    await store.listening.disconnect("dev", new.origin, "t2")
    assert [] == await store.listening.look([new])


async def test_listeners_of_accounts_and_names_are_apart(store):
    """Each name of each account has a connection of its own."""
    rows = [
        a_connection(f"{account_id} {name}", account_id=account_id, name=name)
        for account_id in ("dev", "other")
        for name in ("a", "b")
    ]
    for row in rows:
        assert not await store.listening.connect(row, START, "")

    assert rows == sorted(await store.listening.look(rows), key=lambda row: row.token)


async def test_what_has_arrived_never_becomes_less(store, elsewhere):
    """The highest count is kept, of the newest connection alone."""
    row = a_connection()
    await store.listening.connect(row, START, "")

    for count in (5, 3):
        assert await elsewhere.listening.note_seen(a_connection(seen_count=count))
    assert not await elsewhere.listening.note_seen(a_connection("other", seen_count=9))

    assert [5] == [one.seen_count for one in await store.listening.look([row])]


async def test_an_answer_is_taken_once(store, elsewhere):
    """The first answer counts, and the process that gave the attempt reads it."""
    await store.listening.give(given(a_key()))

    assert await elsewhere.listening.answer(a_key(), b"first", START)
    assert not await elsewhere.listening.answer(a_key(), b"second", START)

    assert {a_key(): b"first"} == await store.listening.answers_of([a_key(), a_key(2)])
    assert b"first" == await store.listening.finish(a_key())


async def test_an_attempt_that_has_ended_takes_no_answer(store, elsewhere):
    """After the end, and from the deadline on, an answer is too late."""
    assert not await elsewhere.listening.answer(a_key(), b"{}", START)
    await store.listening.give(given(a_key()))
    assert not await elsewhere.listening.answer(a_key(), b"{}", DEADLINE)
    assert None is await store.listening.finish(a_key())

    assert not await elsewhere.listening.answer(a_key(), b"{}", START)


async def test_either_the_answer_counts_or_it_is_refused(store, elsewhere):
    """Of an answer and the end of its attempt at one moment, one sees the other."""
    await store.listening.give(given(a_key()))

    is_taken, answer = await asyncio.gather(
        elsewhere.listening.answer(a_key(), b"{}", START), store.listening.finish(a_key())
    )

    assert (b"{}" if is_taken else None) == answer


@pytest.mark.parametrize("wrong", [a_key(2), a_key(name="b"), a_key(account_id="other")])
async def test_an_answer_names_its_attempt(store, wrong):
    """Another attempt, name or account answers nothing."""
    await store.listening.give(given(a_key()))

    assert not await store.listening.answer(wrong, b"{}", START)
    assert None is await store.listening.finish(wrong)
    assert await store.listening.answer(a_key(), b"{}", START)


async def test_an_attempt_may_be_given_again(store):
    """The same attempt is given anew after a process was killed, without an old answer."""
    await store.listening.give(given(a_key()))
    await store.listening.answer(a_key(), b"old", START)
    await store.listening.give(given(a_key(), DEADLINE + HOUR))

    assert {} == await store.listening.answers_of([a_key()])
    assert await store.listening.answer(a_key(), b"new", DEADLINE + SECOND)


async def test_attempts_of_killed_processes_are_removed(store, database):
    """What nobody ended is removed an hour later, when a listener connects."""
    await store.listening.give(given(a_key(1)))
    await store.listening.give(given(a_key(2), DEADLINE + HOUR))
    await store.listening.connect(a_connection(), DEADLINE + HOUR + SECOND, "")

    assert [2] == [row["number"] for row in await rows_of(database, listener_attempts)]


async def test_what_waits_is_counted_up_to_a_bound(store):
    """The pending deliveries of one receiver are counted."""
    for number in range(3):
        await add_delivery(store, f"{number}", **for_listener("laptop", f"{number}"))
    await add_delivery(store, "other", **for_listener("other", "other"))
    receiver = f"dev {LISTENER_URL}laptop"

    assert (3, 2) == (
        await store.listening.count_waiting(receiver, 9),
        await store.listening.count_waiting(receiver, 2),
    )


async def test_a_delivery_waits_for_its_listener(store, elsewhere):
    """What a delivery waits for is told by every process, and so is the backlog."""
    await add_delivery(store, "1", **for_listener("laptop"))
    await add_delivery(store, "2")

    async def told(at=START):
        delivery = await elsewhere.history.find_delivery("dev", "msg_1")
        backlog = await elsewhere.backlog(at)
        counts = backlog.deliveries_due, backlog.deliveries_waiting, backlog.due_receivers
        return delivery["waits"].reason_at(at)[0], counts

    waiting = WaitingFor.LISTENER, (1, 1, 1)
    assert waiting == await told()
    await store.listening.connect(a_connection(), START, "")
    assert (WaitingFor.SLOT, (2, 0, 2)) == await told()
    assert waiting == await told(START + LISTENER_SILENCE)
    await store.listening.connect(a_connection(account_id="other"), START, "")
    await store.listening.disconnect("dev", listener_origin("laptop"), "t1")
    assert waiting == await told()


async def test_a_leased_delivery_waits_for_nothing(store):
    """While an attempt is made, nothing is waited for."""
    await add_delivery(store, "1", **for_listener("laptop"))
    await lease_delivery(store)

    waits = (await store.history.find_delivery("dev", "msg_1"))["waits"]
    assert (None, None) == waits.reason_at(START)


async def test_a_key_to_listen_is_found_until_it_expires(store, elsewhere):
    """A key is valid in every process, until an instant."""
    await store.listening.add_key("dev", NewKey("p1", b"h"), START, START + HOUR)
    found = await elsewhere.listening.find_key("p1", START + HOUR - SECOND)

    assert ("dev", b"h", START + HOUR) == (found.account_id, found.hash, found.expires_at)
    assert None is await elsewhere.listening.find_key("p1", START + HOUR)
    assert None is await elsewhere.listening.find_key("p2", START)
    assert None is await elsewhere.accounts.find_key("p1", START)


async def test_a_new_key_above_the_bound_replaces_the_oldest(store):
    """An account has a bounded number of keys, and other accounts lose none."""
    await store.listening.add_key("other", NewKey("x", b"h"), START, START + HOUR)
    for number in range(KEYS_MAX + 1):
        new = NewKey(f"p{number}", b"h")
        expires_at = START + HOUR + number * SECOND
        await store.listening.add_key("dev", new, START, expires_at)

    async def is_known(prefix):
        return await store.listening.find_key(prefix, START) is not None

    assert [True, False, True, True] == [
        await is_known(prefix) for prefix in ("x", "p0", "p1", f"p{KEYS_MAX}")
    ]


async def test_a_change_wakes_the_other_processes(store, elsewhere, kind):
    """Where processes are notified, a connection and an answer set the signal of the others."""
    if kind != "postgresql":
        assert not store.listening.has_notifications
        return
    elsewhere.listen()
    store.listen()
    async with asyncio.timeout(PATIENCE_SECONDS):
        # It is set once when the process begins to listen.
        await elsewhere.listening.changed.wait()
        elsewhere.listening.changed.clear()
        await store.listening.connect(a_connection(), START, "")
        await elsewhere.listening.changed.wait()
