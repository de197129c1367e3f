import asyncio

import pytest

from service.domain.states import DeadReason, DeliveryStatus
from service.errors import NotFound
from service.storage import history, redelivery
from service.storage.history import DeliveryFilter
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    add_delivery,
    add_two_events,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
)

LATER = START + 100 * SECOND
DEAD = DeliveryFilter(status="dead")


async def kill(store, *, now=START):
    """Let everything that is due die."""
    for delivery in await lease_deliveries(store, now=now):
        dead = failed(delivery, status=DeliveryStatus.DEAD, reason=DeadReason.GONE, at=now)
        assert await store.settle(dead)


@pytest.fixture
async def dead(store):
    """Five dead deliveries, a second apart, to two origins in turn, and one of another's."""
    for number in range(5):
        at = START + number * SECOND
        await add_delivery(store, str(number), origin=(ONE, TWO)[number % 2], at=at)
    await add_delivery(store, "9", account_id="other")
    await kill(store, now=START + 9 * SECOND)
    return store


async def redeliver_all(store, account_id="dev", wanted=DEAD, now=LATER):
    """Redeliver by filter; how many those were."""
    return sum([count async for count in store.redeliver_all(account_id, wanted, now)])


async def pending(store, account_id="dev"):
    """The ids of what is pending."""
    wanted = DeliveryFilter(status="pending")
    told, _ = await store.list_deliveries(account_id, wanted, after=None, limit=200)
    return sorted(one["id"] for one in told)


# One


@pytest.mark.parametrize("end", [DeliveryStatus.DEAD, DeliveryStatus.DELIVERED])
async def test_what_has_ended_is_pending_again(store, end):
    """Due at once, with a schedule that begins anew and nothing left of how it had ended."""
    await add_delivery(store)
    first = await lease_delivery(store)
    ended = delivered(first) if end is DeliveryStatus.DELIVERED else failed(first, status=end)
    await store.settle(ended)

    told, is_redelivered = await store.redeliver("dev", "msg_1", LATER)
    again = await lease_delivery(store, now=LATER)

    assert is_redelivered
    assert ("pending", LATER, None, None) == (
        told["status"],
        told["due_at"],
        told["settled_at"],
        told["reason"],
    )
    assert (first.id, first.body, first.url, 1, 0) == (
        again.id,
        again.body,
        again.url,
        again.attempt_count,
        again.failure_count,
    )


async def test_each_attempt_tells_its_cause(store):
    """The first is for the event, then retries; after a redelivery the first says that."""
    await add_delivery(store)
    causes = []
    for now, status in ((0, "pending"), (1, "dead"), (2, "pending"), (3, "dead")):
        if now == 2:
            await store.redeliver("dev", "msg_1", START + now * SECOND)
        delivery = await lease_delivery(store, now=START + now * SECOND)
        causes.append(delivery.cause)
        due_at = START + (now + 1) * SECOND if status == "pending" else None
        await store.settle(failed(delivery, status=DeliveryStatus(status), due_at=due_at))

    assert ["event", "retry", "redelivery", "retry"] == causes


async def test_a_lost_attempt_keeps_its_cause(store):
    """It was made for a redelivery, and so is the one in its place."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))
    await store.redeliver("dev", "msg_1", START)
    lost = await lease_delivery(store)
    again = await lease_delivery(store, now=lost.leased_until)

    told = await store.find_delivery("dev", "msg_1")

    assert ["event", "redelivery"] == [attempt["cause"] for attempt in told["attempts"]]
    assert "redelivery" == again.cause


async def test_what_is_pending_stays_as_it_is(store):
    """Asked for again, nothing changes: neither when it is due, nor who has the lease."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    before = await store.find_delivery("dev", "msg_1")

    assert (before, False) == await store.redeliver("dev", "msg_1", LATER)
    assert await store.settle(delivered(leased))


async def test_what_is_not_there_is_not_redelivered(dead):
    """An unknown delivery and another's are the same: not found."""
    for id_ in ("msg_none", "msg_9"):
        with pytest.raises(NotFound):
            await dead.redeliver("dev", id_, LATER)

    assert [] == await pending(dead, "other")


async def test_a_redelivered_event_comes_before_later_ones(store):
    """A later event of the invoice that is pending waits for it, as it did the first time."""
    await add_two_events(store)
    await store.settle(delivered(await lease_delivery(store)))
    await store.redeliver("dev", "msg_1a", START)

    first = await lease_delivery(store)
    await store.settle(delivered(first))
    second = await lease_delivery(store)

    assert ["msg_1a", "msg_1b"] == [first.id, second.id]


# By filter


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["msg_0", "msg_1", "msg_2", "msg_3", "msg_4"]),
        ({"origin": ONE}, ["msg_0", "msg_2", "msg_4"]),
        ({"origin": "https://nobody.example:443"}, []),
        ({"since": START + 3 * SECOND}, ["msg_3", "msg_4"]),
        ({"until": START + 3 * SECOND}, ["msg_0", "msg_1", "msg_2"]),
        ({"origin": TWO, "since": START + SECOND, "until": START + 2 * SECOND}, ["msg_1"]),
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 5, 500])
async def test_all_that_is_dead_and_wanted_is_pending_again(
    monkeypatch, dead, batch, changes, expected
):
    """However many there are, and in whatever batches, each once; of this account alone."""
    monkeypatch.setattr(redelivery, "BATCH", batch)
    wanted = DeliveryFilter(status="dead", **changes)

    assert len(expected) == await redeliver_all(dead, wanted=wanted)
    assert expected == await pending(dead)
    assert [] == await pending(dead, "other")
    assert 0 == await redeliver_all(dead, wanted=wanted)


async def test_what_was_delivered_is_left_alone(store):
    """A filter takes what is dead, and nothing that its receiver has."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))

    assert 0 == await redeliver_all(store, wanted=DEAD)
    assert [] == await lease_deliveries(store, now=LATER)


async def test_an_interrupted_redelivery_is_finished_by_asking_again(monkeypatch, dead, elsewhere):
    """What was committed before is pending, and the others follow."""
    monkeypatch.setattr(redelivery, "BATCH", 2)
    batch = redelivery.redeliver_batch

    # The process that was asked first ended after its first batch.
    await dead._write(batch, "dev", DEAD, LATER, after="")

    assert ["msg_0", "msg_1"] == await pending(elsewhere)
    assert 3 == await redeliver_all(elsewhere, wanted=DEAD)
    assert 5 == len(await lease_deliveries(elsewhere, now=LATER))


async def test_redelivery_wakes_the_dispatcher(dead):
    """What was made due is found without waiting for the next look."""
    dead.deliveries_due.clear()
    await redeliver_all(dead, wanted=DEAD)

    assert dead.deliveries_due.is_set()


async def test_one_filter_is_worked_off_at_a_time(monkeypatch, dead):
    """Others wait for it, and find what it has left: together they take each delivery once."""
    monkeypatch.setattr(redelivery, "BATCH", 1)

    counts = await asyncio.gather(*(redeliver_all(dead) for _ in range(4)))

    assert [0, 0, 0, 5] == sorted(counts)


async def test_accounts_do_not_wait_for_each_other(monkeypatch, dead):
    """The filter of one account is applied while that of another one is still worked on."""
    monkeypatch.setattr(redelivery, "BATCH", 1)
    first = dead.redeliver_all("dev", DEAD, LATER)
    await anext(first)

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert 1 == await redeliver_all(dead, "other")
    assert 4 == sum([count async for count in first])


async def test_only_the_newest_attempts_are_told(monkeypatch, store):
    """Whoever redelivers again and again makes many: what is told of them has an end."""
    monkeypatch.setattr(history, "ATTEMPTS_MAX", 3)
    await add_delivery(store)
    for second in range(5):
        await store.redeliver("dev", "msg_1", START + second * SECOND)
        await store.settle(delivered(await lease_delivery(store, now=START + second * SECOND)))

    for told in (
        await store.find_delivery("dev", "msg_1"),
        *await store.deliveries_of("dev", "1"),
        *(await store.list_deliveries("dev", DeliveryFilter(), after=None, limit=9))[0],
    ):
        assert (5, [3, 4, 5]) == (
            told["attempt_count"],
            [attempt["number"] for attempt in told["attempts"]],
        )
