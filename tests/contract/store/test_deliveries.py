import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import chain

import pytest

from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason, DeliveryStatus
from service.storage.deliveries import LeaseRound
from service.storage.tables import attempts, deliveries, receivers
from service.storage.transmissions import UNKNOWN
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    TWO,
    a_receiver,
    add_delivery,
    add_two_events,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    rows_of,
)

DEAD = DeliveryStatus.DEAD
MICROSECOND = timedelta(microseconds=1)


async def leased(store, **changes):
    """The ids that a lease round leases."""
    return [delivery.id for delivery in await lease_deliveries(store, **changes)]


async def everything(database):
    """Every row that a settlement may write."""
    return [await rows_of(database, table) for table in (deliveries, attempts, receivers)]


# Leasing


async def test_a_leased_delivery_has_all_that_an_attempt_needs(store):
    """A leased delivery has every field of an attempt; no other query is needed."""
    await add_delivery(store)

    delivery = await lease_delivery(store, until=START + LEASE)

    assert ("msg_1", "dev", "1") == (delivery.id, delivery.account_id, delivery.invoice_id)
    assert ("invoice_notification", "sandbox") == (delivery.callback, delivery.collector)
    assert (f"{ONE}/invoices/1", ONE) == (delivery.url, delivery.origin)
    assert b'{"description":"Invoice paid","paid":true}' == delivery.body
    assert (0, 0) == (delivery.attempt_count, delivery.failure_count)
    assert (START, START + LEASE) == (delivery.created_at, delivery.leased_until)


async def test_a_leased_delivery_is_not_leased_again(store):
    """No other round leases a delivery before its lease has run out."""
    await add_delivery(store)
    first = await lease_delivery(store)

    assert [] == await leased(store)
    assert [] == await leased(store, now=START + LEASE - MICROSECOND)
    second = await lease_delivery(store, now=START + LEASE)
    assert first.lease_token + 1 == second.lease_token


async def test_the_longest_due_deliveries_are_leased_first(store):
    """Deliveries are leased in the order in which they became due."""
    for id_, seconds in (("third", 3), ("first", 1), ("second", 2)):
        await add_delivery(store, id_, at=START + seconds * SECOND)

    assert ["msg_first", "msg_second"] == await leased(store, now=START + LEASE, limit=2)


async def test_a_delivery_is_not_leased_before_it_is_due(store):
    """No attempt is made before the delivery is due."""
    await add_delivery(store, at=START + SECOND)

    assert [] == await leased(store, now=START + SECOND - MICROSECOND)
    assert ["msg_1"] == await leased(store, now=START + SECOND)


async def test_a_receiver_gets_no_more_than_its_limit(store):
    """Each receiver has a limit of its own; the remaining deliveries stay free."""
    for path in ("/a", "/b"):
        for number in range(3):
            await add_delivery(store, f"{path[1]}{number}", path=path, at=START + number * SECOND)
    now = START + 3 * SECOND

    assert ["msg_a0", "msg_a1", "msg_b0", "msg_b1"] == await leased(store, now=now, limit=2)
    assert ["msg_a2", "msg_b2"] == await leased(store, now=now, limit=2)


async def test_only_the_named_receivers_get_leases(store):
    """A round leases for the receivers that it names, whatever is due for others."""
    for path in ("/a", "/b"):
        await add_delivery(store, path[1], path=path)

    due = await store.lease_deliveries(
        LeaseRound(START, START + LEASE, {a_receiver(path="/b"): 9, a_receiver(path="/c"): 9})
    )

    assert ["msg_b"] == [one.id for one in due.deliveries]


async def test_concurrent_rounds_lease_different_deliveries(store, kind):
    """Two rounds that are committed together lease different deliveries."""
    for number in range(4):
        # The longest due first: of rows that are due at one instant, any may be.
        await add_delivery(store, str(number), at=START - (4 - number) * SECOND)

    rounds = [LeaseRound(START, START + LEASE, {a_receiver(): limit}) for limit in (2, 9)]
    given = await asyncio.gather(*map(store.lease_deliveries, rounds))

    leased = [[one.id for one in due.deliveries] for due in given]
    assert ["msg_0", "msg_1", "msg_2", "msg_3"] == sorted(chain.from_iterable(leased))
    assert len(leased[0]) <= 2
    if kind != "postgresql":
        # There, both transactions run at the same time, and either of them may be ahead.
        assert [["msg_0", "msg_1"], ["msg_2", "msg_3"]] == leased


# The order of an invoice


async def test_a_later_event_waits_for_an_earlier_one(store):
    """The second event of an invoice is not leased before the first is delivered."""
    await add_two_events(store)

    first = await lease_delivery(store)
    assert "msg_1a" == first.id
    assert [] == await leased(store)
    await store.settle(failed(first, due_at=START + LEASE))
    assert [] == await leased(store)
    first = await lease_delivery(store, now=START + LEASE)
    assert "msg_1a" == first.id

    await store.settle(delivered(first))

    assert ["msg_1b"] == await leased(store, now=START + LEASE)


async def test_a_later_event_does_not_wait_for_a_dead_one(store):
    """A later event is sent after an earlier event is dead."""
    await add_two_events(store)

    await store.settle(failed(await lease_delivery(store), status=DEAD, reason=DeadReason.GONE))

    assert ["msg_1b"] == await leased(store)


async def test_an_earlier_event_with_an_expired_lease_stays_first(store):
    """An earlier event whose attempt was lost is still attempted first."""
    await add_two_events(store)
    await lease_delivery(store)

    assert ["msg_1a"] == await leased(store, now=START + LEASE)


async def test_invoices_do_not_wait_for_each_other(store):
    """The order of events applies within one invoice only."""
    await add_two_events(store, "1")
    await add_two_events(store, "2")

    assert ["msg_1a", "msg_2a"] == sorted(await leased(store))


# Lost attempts


async def test_an_expired_lease_is_a_lost_attempt(store):
    """The next lease records the attempt of the expired lease as lost, and the count continues."""
    await add_delivery(store)
    await lease_delivery(store)

    delivery = await lease_delivery(store, now=START + LEASE + SECOND)

    assert (1, 0) == (delivery.attempt_count, delivery.failure_count)
    shown = await store.history.find_delivery("dev", "msg_1")
    (attempt,) = shown["attempts"]
    assert (1, AttemptOutcome.LOST) == (attempt["number"], attempt["outcome"])
    assert (None, None) == (attempt["status_code"], attempt["response_body"])
    assert START + LEASE == attempt["started_at"]
    assert (1, DeliveryStatus.PENDING) == (shown["attempt_count"], shown["status"])


async def test_lost_attempts_are_recorded_one_by_one(store, database):
    """Each expired lease is one lost attempt, and none counts as a failure."""
    await add_delivery(store)
    for count in range(4):
        delivery = await lease_delivery(store, now=START + count * LEASE)

    assert (3, 0) == (delivery.attempt_count, delivery.failure_count)
    await store.settle(failed(delivery, due_at=START + 9 * LEASE))

    shown = await store.history.find_delivery("dev", "msg_1")
    assert [(1, "lost"), (2, "lost"), (3, "lost"), (4, "refused")] == [
        (attempt["number"], attempt["outcome"]) for attempt in shown["attempts"]
    ]
    (row,) = await rows_of(database, deliveries)
    assert (4, 1) == (row["attempt_count"], row["failure_count"])


async def test_a_stale_lease_settles_nothing(store, database):
    """A sender whose lease was taken over changes nothing, whatever the outcome of its attempt."""
    await add_delivery(store)
    stale = await lease_delivery(store)
    held = await lease_delivery(store, now=START + LEASE)
    before = await everything(database)

    for settlement in (
        delivered(stale),
        failed(stale, due_at=START + 9 * LEASE),
        failed(stale, status=DEAD, reason=DeadReason.GONE),
        failed(stale, due_at=START + SECOND, held_until=START + 9 * LEASE),
    ):
        assert not await store.settle(settlement)
    assert not await store.release(stale)
    assert before == await everything(database)

    assert await store.settle(delivered(held))


async def test_an_expired_lease_that_was_not_taken_over_settles(store):
    """While no other round has leased the delivery, a late settlement is recorded."""
    await add_delivery(store)
    delivery = await lease_delivery(store)

    assert await store.settle(delivered(delivery, at=START + 9 * LEASE))


@pytest.mark.parametrize(
    "first", [delivered, lambda leased: failed(leased, status=DEAD, reason=DeadReason.GONE)]
)
async def test_a_lease_settles_once(store, database, first):
    """A settlement ends the lease: a delivered or dead delivery stays so."""
    await add_delivery(store)
    delivery = await lease_delivery(store)
    await store.settle(first(delivery))
    before = await everything(database)

    again = replace(delivery, attempt_count=1)
    assert not await store.settle(delivered(again))
    assert not await store.settle(failed(again, due_at=START))

    assert before == await everything(database)


async def test_a_released_lease_settles_nothing(store, database):
    """A sender that released its lease cannot settle the delivery."""
    await add_delivery(store)
    delivery = await lease_delivery(store)
    await store.release(delivery)
    before = await everything(database)

    assert not await store.settle(delivered(delivery))

    assert before == await everything(database)


# Releasing


async def test_a_release_leaves_no_trace(store):
    """A released delivery is due at once, and no attempt is recorded."""
    await add_delivery(store)

    assert await store.release(await lease_delivery(store))

    delivery = await lease_delivery(store)
    assert (0, 0) == (delivery.attempt_count, delivery.failure_count)
    assert [] == (await store.history.find_delivery("dev", "msg_1"))["attempts"]


async def test_a_delivery_may_be_released_until_later(store):
    """A delivery that is released until an instant is leased from that instant on."""
    await add_delivery(store)
    later = START + 10 * SECOND

    assert await store.release(await lease_delivery(store), later)

    assert [] == await lease_deliveries(store, now=later - SECOND)
    assert ["msg_1"] == [one.id for one in await lease_deliveries(store, now=later)]


async def test_a_release_wakes_the_dispatcher(store):
    """A released lease can be taken again."""
    await add_delivery(store)
    delivery = await lease_delivery(store)
    store.deliveries_due.clear()

    await store.release(delivery)

    assert store.deliveries_due.is_set()


# Settling


async def test_a_delivered_delivery_is_finished(store):
    """A delivered delivery keeps its attempt and its instant, and is never due again."""
    await add_delivery(store)

    assert await store.settle(delivered(await lease_delivery(store), at=START + SECOND))

    shown = await store.history.find_delivery("dev", "msg_1")
    assert (DeliveryStatus.DELIVERED, None, 1) == (
        shown["status"],
        shown["reason"],
        shown["attempt_count"],
    )
    assert (START + SECOND, None) == (shown["settled_at"], shown["due_at"])
    (attempt,) = shown["attempts"]
    assert {
        "account_id": "dev",
        "delivery_id": "msg_1",
        "number": 1,
        "started_at": START + SECOND,
        "duration_ms": 12,
        "status_code": 200,
        "outcome": "delivered",
        "detail": None,
        "response_body": '{"ok": true}',
        "cause": "event",
        "transmission": None,
        **UNKNOWN,
    } == dict(attempt)
    assert [] == await leased(store, now=START + 9999 * LEASE)


async def test_a_failed_delivery_is_due_again(store):
    """A retry is due at the instant of the settlement, and the failure is counted."""
    await add_delivery(store)
    due_at = START + 300 * SECOND

    assert await store.settle(failed(await lease_delivery(store), due_at=due_at))

    shown = await store.history.find_delivery("dev", "msg_1")
    assert (DeliveryStatus.PENDING, due_at, None) == (
        shown["status"],
        shown["due_at"],
        shown["settled_at"],
    )
    assert [] == await leased(store, now=due_at - MICROSECOND)
    delivery = await lease_delivery(store, now=due_at)
    assert (1, 1) == (delivery.attempt_count, delivery.failure_count)


@pytest.mark.parametrize("reason", DeadReason)
async def test_a_dead_delivery_has_a_reason(store, reason):
    """A dead delivery keeps its reason and its instant, and is never due again."""
    await add_delivery(store)

    settlement = failed(await lease_delivery(store), status=DEAD, reason=reason, at=START + SECOND)
    assert await store.settle(settlement)

    shown = await store.history.find_delivery("dev", "msg_1")
    assert (DEAD, reason, START + SECOND) == (shown["status"], shown["reason"], shown["settled_at"])
    assert None is shown["due_at"]
    assert [] == await leased(store, now=START + 9999 * LEASE)


async def test_settlements_of_one_transaction_are_independent(store):
    """Deliveries that are settled together keep their own state, instants and attempts."""
    for number in range(5):
        await add_delivery(store, str(number), origin=(ONE, TWO)[number % 2])
    found = await lease_deliveries(store)
    ends = [
        delivered(found[0], at=START + SECOND),
        delivered(found[1], at=START + 2 * SECOND),
        failed(found[2], due_at=START + 300 * SECOND),
        failed(found[3], status=DEAD, reason=DeadReason.GONE, at=START + 3 * SECOND),
        failed(replace(found[4], lease_token=99), due_at=START),
    ]

    settled = await asyncio.gather(*(store.settle(end) for end in ends))

    assert [True, True, True, True, False] == settled
    shown = [await store.history.find_delivery("dev", one.id) for one in found]
    assert [
        ("delivered", None, 1, START + SECOND),
        ("delivered", None, 1, START + 2 * SECOND),
        ("pending", None, 1, None),
        ("dead", "gone", 1, START + 3 * SECOND),
        ("pending", None, 0, None),
    ] == [(one["status"], one["reason"], len(one["attempts"]), one["settled_at"]) for one in shown]
    assert START + 300 * SECOND == shown[2]["due_at"]


async def test_accounts_may_use_the_same_delivery_id(store):
    """A settlement changes only the delivery of its own account."""
    for account_id in ("a", "b"):
        await add_delivery(store, account_id=account_id)
    found = {delivery.account_id: delivery for delivery in await lease_deliveries(store)}

    assert await store.settle(delivered(found["a"]))

    shown = [await store.history.find_delivery(account_id, "msg_1") for account_id in ("a", "b")]
    assert [("delivered", 1), ("pending", 0)] == [
        (one["status"], len(one["attempts"])) for one in shown
    ]
    assert await store.release(found["b"])
    assert "b" == (await lease_delivery(store)).account_id


# Signals


@pytest.mark.parametrize(
    "end",
    [delivered, lambda leased: failed(leased, status=DEAD, reason=DeadReason.GONE)],
    ids=["delivered", "dead"],
)
async def test_a_settled_event_wakes_the_dispatcher(store, end):
    """After an event is delivered or dead, the next event of its invoice may be due."""
    await add_two_events(store)
    delivery = await lease_delivery(store)
    store.deliveries_due.clear()

    await store.settle(end(delivery))

    assert store.deliveries_due.is_set()
