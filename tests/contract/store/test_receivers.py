import asyncio
from datetime import timedelta

import pytest

from service.domain.delivery import OriginState, ReceiverState
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason, DeliveryStatus
from service.domain.waiting import WaitingFor
from service.storage.deliveries import LeaseRound
from service.storage.tables import origins, receivers
from service.storage.waiting import Chain
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    TWO,
    a_failing_state,
    a_receiver,
    add_delivery,
    add_two_events,
    an_attempt,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    rows_of,
    waiting_receivers,
)

MICROSECOND = timedelta(microseconds=1)
HOLD = START + 60 * SECOND


async def leased(store, **changes):
    """The ids that a lease round leases."""
    return [delivery.id for delivery in await lease_deliveries(store, **changes)]


async def names(store, **changes):
    """The receivers that have pending deliveries, in order."""
    return [one.receiver for one in await waiting_receivers(store, **changes)]


async def wait_of(store, id_="msg_1", *, now=START):
    """What a delivery waits for, and until when."""
    return (await store.history.find_delivery("dev", id_))["waits"].reason_at(now)


def answered(delivery, *, at=START):
    """A delivered attempt whose receiver is noted as answering."""
    state = ReceiverState(receiver=delivery.receiver, origin=delivery.origin, answered_at=at)
    decision = delivered(delivery).decision
    return an_attempt(delivery, AttemptOutcome.DELIVERED, decision, receiver_state=state)


def failing(delivery, *, due_at=None, origin_state=None, **state):
    """A failed attempt with a state of its receiver, or of its origin."""
    receiver_state = None if origin_state else a_failing_state(delivery, **state)
    return an_attempt(
        delivery,
        AttemptOutcome.REFUSED,
        failed(delivery, due_at=due_at).decision,
        receiver_state=receiver_state,
        origin_state=origin_state,
    )


# Which receivers wait


async def test_receivers_with_pending_deliveries_are_found_account_by_account(store):
    """Accounts are found in order, and along each account its receivers, whatever their origin."""
    for account_id in ("b", "a"):
        for number, origin, path in ((1, TWO, "/x"), (2, ONE, "/y"), (3, ONE, "/x")):
            await add_delivery(
                store, f"{account_id}{number}", account_id=account_id, origin=origin, path=path
            )

    assert ["a", "b"] == list(await store.find_accounts(""))
    assert ["b"] == list(await store.find_accounts("a"))
    assert [
        a_receiver(origin, path, account_id=account_id)
        for account_id in ("a", "b")
        for origin, path in ((ONE, "/x"), (ONE, "/y"), (TWO, "/x"))
    ] == await names(store)


async def test_an_account_whose_name_begins_another_has_receivers_of_its_own(store):
    """The receivers of `a` and of `ab` are not mixed."""
    for account_id in ("ab", "a"):
        await add_delivery(store, account_id, account_id=account_id)

    found = await store.look_along([Chain("a", "", "", 9)], START)

    assert [a_receiver(account_id="a")] == [one.receiver for one in found]


async def test_a_chain_is_looked_at_in_parts(store):
    """A read looks at a limited number of receivers; the next one goes on behind the last."""
    paths = [f"/{number}" for number in range(5)]
    for path in paths:
        await add_delivery(store, path[1:], path=path)
    expected = [a_receiver(path=path) for path in paths]

    async def part(start, end="", look=2):
        found = await store.look_along([Chain("dev", start, end, look)], START)
        return [one.receiver for one in found]

    assert expected[:2] == await part("")
    assert expected[2:4] == await part(expected[1] + " ")
    assert expected[1:3] == await part(expected[1])
    assert expected[:1] == await part("", end=expected[1])
    assert [] == await part(expected[4] + " ")


async def test_a_settled_delivery_waits_for_nothing(store):
    """A receiver without pending deliveries is not found."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))

    assert [] == await names(store)
    assert [] == list(await store.find_accounts(""))
    assert [] == list(await store.look_at([a_receiver()], START))


async def test_a_receiver_tells_since_when_and_until_when_it_waits(store):
    """The first and the next instant are exact to the microsecond."""
    await add_delivery(store, "1", at=START + SECOND)
    await add_delivery(store, "2", at=START + SECOND + MICROSECOND)

    (one,) = await store.look_at([a_receiver(), a_receiver(TWO)], START + SECOND)

    assert (a_receiver(), ONE) == (one.receiver, one.origin)
    assert START + SECOND == one.first_due_at
    assert START + SECOND + MICROSECOND == one.next_due_at
    assert (None, False) == (one.resting_until, one.has_asked)


# Holds and cooldowns


async def test_a_hold_applies_to_its_receiver_alone(store):
    """After a Retry-After, neighbours on the host and other accounts are called as before."""
    await add_delivery(store, "1", path="/a", at=START - SECOND)
    await add_delivery(store, "2", path="/a")
    await add_delivery(store, "3", path="/b")
    await add_delivery(store, "4", path="/a", account_id="other")
    one, *others = await lease_deliveries(store, limit=1)

    await store.settle(failed(one, due_at=START, held_until=HOLD))
    for other in others:
        await store.release(other)

    assert "msg_1" == one.id
    assert ["msg_3", "msg_4"] == sorted(await leased(store, now=HOLD - MICROSECOND))
    assert ["msg_1", "msg_2"] == sorted(await leased(store, now=HOLD))


@pytest.mark.parametrize("order", [(60, 10), (10, 60)])
@pytest.mark.parametrize("is_together", [True, False])
async def test_the_later_of_two_holds_applies(store, database, order, is_together):
    """If a receiver asks for two holds, the later end applies, in either order."""
    for id_ in ("1", "2"):
        await add_delivery(store, id_)
    settlements = [
        failed(delivery, due_at=START, held_until=START + seconds * SECOND)
        for delivery, seconds in zip(await lease_deliveries(store), order, strict=True)
    ]

    if is_together:
        await asyncio.gather(*(store.settle(settlement) for settlement in settlements))
    else:
        for settlement in settlements:
            await store.settle(settlement)

    (state,) = await rows_of(database, receivers)
    assert (a_receiver(), HOLD) == (state["receiver"], state["held_until"])


async def test_a_dead_delivery_may_hold_its_receiver(store):
    """The hold applies to the other deliveries although this delivery is dead."""
    await add_delivery(store, "1", at=START - SECOND)
    await add_delivery(store, "2")
    (first,) = await lease_deliveries(store, limit=1)

    await store.settle(
        failed(first, status=DeliveryStatus.DEAD, reason=DeadReason.EXHAUSTED, held_until=HOLD)
    )

    assert [] == await leased(store)
    assert ["msg_2"] == await leased(store, now=HOLD)


async def test_a_new_delivery_waits_for_the_hold_of_its_receiver(store):
    """A delivery that becomes due during a hold waits for its end."""
    await add_delivery(store, "1")
    await store.settle(failed(await lease_delivery(store), due_at=HOLD, held_until=HOLD))
    await add_delivery(store, "2", at=START + SECOND)

    (one,) = await waiting_receivers(store, now=START + SECOND)
    assert HOLD == one.resting_until
    assert [] == await leased(store, now=HOLD - MICROSECOND)
    assert ["msg_2", "msg_1"] == await leased(store, now=HOLD)


async def test_a_cooldown_ends_with_the_next_answer(store, database):
    """A receiver that answers again has no cooldown, and keeps its hold."""
    for id_ in ("1", "2"):
        await add_delivery(store, id_)
    first, second = await lease_deliveries(store)
    await store.settle(failing(first, cooldown_until=START + 10 * SECOND, held_until=HOLD))
    (row,) = await rows_of(database, receivers)
    assert (START, START + 10 * SECOND) == (row["failing_since"], row["cooldown_until"])

    await store.settle(answered(second, at=START + SECOND))

    (row,) = await rows_of(database, receivers)
    assert (START + SECOND, HOLD) == (row["answered_at"], row["held_until"])
    assert (None, None) == (row["failing_since"], row["cooldown_until"])


async def test_the_first_failure_in_a_row_is_remembered(store, database):
    """A receiver has been failing since the first failure after its last answer."""
    for id_ in ("1", "2"):
        await add_delivery(store, id_)

    for number, one in enumerate(await lease_deliveries(store)):
        await store.settle(failing(one, at=START + number * SECOND))

    (row,) = await rows_of(database, receivers)
    assert (START, None) == (row["failing_since"], row["answered_at"])


async def test_an_origin_without_connections_concerns_all_its_receivers(store, database):
    """While no connection can be made, every receiver of the origin rests, of any account."""
    until = START + 10 * SECOND
    await add_delivery(store, "1", path="/a")
    await store.settle(failing(await lease_delivery(store), origin_state=OriginState(ONE, until)))
    await add_delivery(store, "2", path="/b", account_id="other")
    await add_delivery(store, "3", origin=TWO)

    assert ["msg_3"] == await leased(store)
    first, second = await lease_deliveries(store, now=until)
    assert ["msg_1", "msg_2"] == [first.id, second.id]

    await store.settle(failing(first, origin_state=OriginState(ONE, START)))
    (row,) = await rows_of(database, origins)
    assert {"origin": ONE, "held_until": START} == row


async def test_receivers_that_have_answered_are_known_after_a_restart(store, elsewhere):
    """The next process knows who answered lately, but not who has failed since."""
    for id_, path in (("1", "/a"), ("2", "/b"), ("3", "/c"), ("4", "/c")):
        await add_delivery(store, id_, path=path)
    a, b, c, d = await lease_deliveries(store)
    await store.settle(answered(a, at=START + SECOND))
    await store.settle(answered(b, at=START - 9 * LEASE))
    await store.settle(answered(c, at=START))
    await store.settle(failing(d))

    known = await elsewhere.answered_receivers(START - LEASE)

    assert [(a_receiver(path="/a"), ONE, START + SECOND)] == [
        (one.receiver, one.origin, one.answered_at) for one in known
    ]


# Asking by hand


async def test_what_is_asked_for_overrules_hold_and_schedule(store):
    """A delivery that its account asks for is leased now; the others of the receiver wait."""
    for id_ in ("1", "2"):
        await add_delivery(store, id_)
    (first,) = await lease_deliveries(store, limit=1)
    await store.settle(failed(first, due_at=HOLD, held_until=HOLD))

    shown, is_changed = await store.redeliver("dev", "msg_1", START + SECOND)

    assert (True, START + SECOND) == (is_changed, shown["due_at"])
    (one,) = await waiting_receivers(store, now=START + SECOND)
    assert (True, HOLD) == (one.has_asked, one.resting_until)
    delivery = await lease_delivery(store, now=START + SECOND)
    assert ("msg_1", True, 0) == (delivery.id, delivery.is_asked, delivery.failure_count)


async def test_an_attempt_that_was_asked_for_is_made_once(store):
    """After that attempt the hold and the schedule apply again."""
    await add_delivery(store)
    await store.settle(failed(await lease_delivery(store), due_at=HOLD, held_until=HOLD))
    await store.redeliver("dev", "msg_1", START)
    asked = await lease_delivery(store)

    await store.settle(failed(asked, due_at=START + SECOND))

    (one,) = await waiting_receivers(store)
    assert (False, HOLD) == (one.has_asked, one.resting_until)
    assert [] == await leased(store, now=START + SECOND)


async def test_an_attempt_in_progress_is_the_one_that_is_asked_for(store):
    """A leased delivery is not changed: its attempt is made anyway."""
    await add_delivery(store)
    delivery = await lease_delivery(store)

    _, is_changed = await store.redeliver("dev", "msg_1", START)

    assert not is_changed
    assert await store.settle(delivered(delivery))
    assert [] == await leased(store)


async def test_a_later_event_that_is_asked_for_waits_for_the_earlier_one(store):
    """Asking does not change the order of the events of an invoice."""
    await add_two_events(store)

    await store.redeliver("dev", "msg_1b", START)

    assert ["msg_1a"] == await leased(store)


# What a delivery waits for


async def test_a_delivery_tells_what_it_waits_for(store):
    """A due one waits for its turn, a leased one for nothing, and so on."""
    await add_two_events(store)
    assert (WaitingFor.SLOT, None) == await wait_of(store, "msg_1a")
    assert (WaitingFor.EARLIER_EVENT, None) == await wait_of(store, "msg_1b")

    first = await lease_delivery(store)
    assert (None, None) == await wait_of(store, "msg_1a")

    later = START + 5 * SECOND
    await store.settle(failed(first, due_at=later))
    assert (WaitingFor.DUE, later) == await wait_of(store, "msg_1a")
    assert (WaitingFor.SLOT, None) == await wait_of(store, "msg_1a", now=later)

    again = await lease_delivery(store, now=later)
    await store.settle(failed(again, due_at=HOLD, held_until=HOLD))
    assert (WaitingFor.HOLD, HOLD) == await wait_of(store, "msg_1a", now=later)

    await store.redeliver("dev", "msg_1a", later)
    assert (WaitingFor.SLOT, None) == await wait_of(store, "msg_1a", now=later)


async def test_a_delivery_whose_account_exceeds_its_rate_waits_for_that(store):
    """The rate stands for the turn alone: other reasons are told as before."""
    await add_two_events(store)
    later = START + SECOND

    async def wait(id_, **known):
        waits = (await store.history.find_delivery("dev", id_))["waits"]
        return waits.reason_at(START, is_paced=True, **known)

    assert (WaitingFor.RATE, None) == await wait("msg_1a")
    assert (WaitingFor.EARLIER_EVENT, None) == await wait("msg_1b")

    first = await lease_delivery(store)
    assert (None, None) == await wait("msg_1a")
    assert (WaitingFor.RATE, None) == await wait("msg_1a", is_queued=True)

    await store.settle(failed(first, due_at=later))
    assert (WaitingFor.DUE, later) == await wait("msg_1a")

    await store.redeliver("dev", "msg_1a", START)
    assert (WaitingFor.RATE, None) == await wait("msg_1a")


async def test_a_delivery_tells_of_a_cooldown(store):
    """A delivery whose receiver or origin fails waits for the end of the cooldown."""
    await add_delivery(store, "1", at=START - SECOND)
    await add_delivery(store, "2")
    first, second = await lease_deliveries(store)
    until, later = START + 10 * SECOND, START + 20 * SECOND
    await store.settle(failing(first, due_at=later, cooldown_until=until))
    await store.release(second)
    assert (WaitingFor.COOLDOWN, until) == await wait_of(store, "msg_2")
    assert (WaitingFor.DUE, later) == await wait_of(store, "msg_1")

    second = await lease_delivery(store, now=until)
    await store.settle(failing(second, origin_state=OriginState(ONE, later)))
    assert (WaitingFor.COOLDOWN, later) == await wait_of(store, "msg_2", now=until)


async def test_a_settled_delivery_tells_no_wait(store):
    """A delivered or dead delivery waits for nothing."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))

    assert None is (await store.history.find_delivery("dev", "msg_1"))["waits"]


async def test_a_look_finds_what_comes_after_the_last_one(store):
    """Looks begin where the last one has found the first delivery; new ones are found."""
    await add_delivery(store, "1")
    assert 1 == len(await store.look_at([a_receiver()], START))
    await store.settle(delivered(await lease_delivery(store)))
    later = START + 60 * SECOND
    assert [] == list(await store.look_at([a_receiver()], later))

    await add_delivery(store, "2", at=later)

    (one,) = await store.look_at([a_receiver()], later)
    assert later == one.first_due_at
    assert ["2"] == [one.invoice_id for one in await lease_due_of(store, a_receiver(), later)]


async def test_what_was_committed_late_is_found_by_the_next_scan(store):
    """A delivery that was due long before the last look is not seen by name, but by a scan."""
    later = START + 60 * SECOND
    assert [] == list(await store.look_at([a_receiver()], later))
    await add_delivery(store, "1", at=START)
    assert [] == list(await store.look_at([a_receiver()], later))

    (one,) = await store.look_along([Chain("dev", "", "", 9)], later)

    assert START == one.first_due_at
    assert [one] == list(await store.look_at([a_receiver()], later))
    assert ["1"] == [one.invoice_id for one in await lease_due_of(store, a_receiver(), later)]


async def lease_due_of(store, receiver, now):
    """The deliveries of *receiver* that a round leases, without a look before."""
    round_ = LeaseRound(now, now + LEASE, {receiver: 9})
    return (await store.lease_deliveries(round_)).deliveries
