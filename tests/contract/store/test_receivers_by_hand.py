"""Receivers as their account lists, pauses, resumes and tests them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain import test_events
from service.domain.attempt_counts import COUNTS, Hour, no_counts
from service.domain.delivery import OriginState, ReceiverState, receiver_of
from service.domain.outcomes import AttemptOutcome
from service.domain.receivers import ReceiverStatus, id_of
from service.domain.waiting import WaitingFor
from service.errors import NotFound, UnknownCursor
from service.storage.deliveries import LeaseRound
from service.storage.history import DeliveryFilter
from service.storage.observations import Observation
from service.storage.receiver_hours import BATCH
from service.storage.tables import receiver_hours, receivers
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    a_delivery,
    a_failing_state,
    a_receiver,
    a_step,
    add_delivery,
    an_attempt,
    an_event,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    lease_invoice,
    rows_of,
    waiting_receivers,
)

HOUR = timedelta(hours=1)
ID = id_of(a_receiver())


async def shown(store, id_=ID, *, now=START, account_id="dev"):
    """A receiver as its account is told about it."""
    return (await store.receivers.find(account_id, id_, now)).shown_at(now)


async def state_of(store, **options):
    """The state of the receiver, since when and until when."""
    row = await shown(store, **options)
    return row["state"], row["since"], row["until"]


async def pause(store, *, now=START):
    """Pause the receiver."""
    return await store.receivers.pause(await store.receivers.find("dev", ID, now), now)


async def resume(store):
    """Resume the receiver."""
    return await store.receivers.resume(await store.receivers.find("dev", ID, START))


async def lease_all(store, *, now=START):
    """What is leased if a process asks for the receiver without having looked at it."""
    limits, asked = {a_receiver(): 100}, [a_receiver()]
    due = await store.lease_deliveries(LeaseRound(now, now + LEASE, limits, asked))
    return [one.id for one in due.deliveries]


def answered(delivery, *, at=START):
    """An attempt that is delivered, by a receiver that is noted as answering."""
    state = ReceiverState(receiver=delivery.receiver, origin=delivery.origin, answered_at=at)
    return replace(delivered(delivery, at=at), receiver_state=state)


def refused(delivery, *, at=START, detail=None, **until):
    """An attempt after which the receiver counts as failing."""
    state = a_failing_state(delivery, at=at, **until)
    made = replace(failed(delivery, at=at, due_at=at), receiver_state=state)
    return replace(made, detail=detail)


# States


async def test_a_receiver_is_known_before_its_first_attempt(store):
    """A receiver with pending deliveries is found by its id, without an attempt."""
    await add_delivery(store, at=START + SECOND)

    assert {
        "id": ID,
        "url": ONE,
        "origin": ONE,
        "state": ReceiverStatus.UNKNOWN,
        "since": None,
        "reason": None,
        "until": None,
        "oldest_due_at": START + SECOND,
        "success_rate_24h": None,
        "p50_ms": None,
        "p95_ms": None,
    } == await shown(store)


async def test_an_unknown_id_is_not_found(store):
    """An id that no receiver of the account has is not found."""
    await add_delivery(store, account_id="other")

    for id_ in (ID, id_of(a_receiver(account_id="other")), "rcv_", "x"):
        with pytest.raises(NotFound, match="There is no receiver"):
            await store.receivers.find("dev", id_, START)


async def test_a_receiver_that_answers_is_healthy_since_it_began_to(store):
    """The state keeps since when it answers, also if that is noted again."""
    for number in range(2):
        at = START + number * HOUR
        await add_delivery(store, f"{number}", at=at)
        await store.settle(answered(await lease_delivery(store, now=at), at=at))

    assert (ReceiverStatus.HEALTHY, START, None) == await state_of(store, now=START + HOUR)
    assert None is (await shown(store))["oldest_due_at"]


async def test_a_receiver_that_fails_tells_since_when_and_why(store):
    """It fails since the first failure, for the reason of the last one, until its cooldown ends."""
    await add_delivery(store)
    for number in range(2):
        at = START + number * SECOND
        delivery = await lease_delivery(store, now=at)
        made = refused(delivery, at=at, detail=f"reason {number}", cooldown_until=at + SECOND)
        await store.settle(made)

    row = await shown(store, now=START + SECOND)

    assert (ReceiverStatus.FAILING, START) == (row["state"], row["since"])
    assert ("reason 1", START + 2 * SECOND) == (row["reason"], row["until"])
    assert None is (await shown(store, now=START + 2 * SECOND))["until"]


async def test_an_answer_ends_a_failure(store):
    """The first answer after failures begins a new time of health, without a reason."""
    await add_delivery(store)
    await store.settle(answered(await lease_delivery(store)))
    await add_delivery(store, "2")
    await store.settle(refused(await lease_delivery(store), detail="It failed."))
    at = START + HOUR
    await store.settle(answered(await lease_delivery(store, now=at), at=at))

    row = await shown(store, now=at)

    assert (ReceiverStatus.HEALTHY, at, None) == (row["state"], row["since"], row["reason"])


async def test_a_held_receiver_tells_until_when(store):
    """After a Retry-After it is held, since the answer that asked for it."""
    await add_delivery(store)
    at, until = START + SECOND, START + HOUR
    await store.settle(refused(await lease_delivery(store, now=at), at=at, held_until=until))

    assert (ReceiverStatus.HELD, at, until) == await state_of(store, now=at)
    assert ReceiverStatus.FAILING is (await shown(store, now=until))["state"]


async def test_the_reason_is_bounded(store):
    """However long the detail of an attempt is, 500 characters of it are kept."""
    await add_delivery(store)
    await store.settle(refused(await lease_delivery(store), detail="x" * 2_000))

    assert "x" * 500 == (await shown(store))["reason"]


# Lists


async def pages(store, *, limit, account_id="dev"):
    """The URLs of all pages."""
    found, after = [], None
    while True:
        known, after = await store.receivers.page(account_id, START, after=after, limit=limit)
        found.append([one.url for one in known])
        if after is None:
            return found


async def test_receivers_are_listed_by_their_urls(store):
    """Those that had an attempt and those that wait for one are listed together, each once."""
    for number, path in enumerate(("/b", "/a", "/c", "/a/b", "/a")):
        await add_delivery(store, f"{number}", path=path)
    for delivery in await lease_deliveries(store, limit=1):
        if not delivery.receiver.endswith("/c"):
            await store.settle(answered(delivery))
    await add_delivery(store, "x", account_id="other")
    expected = [f"{ONE}{path}" for path in ("/a", "/a/b", "/b", "/c")]

    assert [expected] == await pages(store, limit=4)
    assert [expected[:3], expected[3:]] == await pages(store, limit=3)
    assert [[one] for one in expected] == await pages(store, limit=1)
    assert [[ONE]] == await pages(store, limit=9, account_id="other")
    assert [[]] == await pages(store, limit=9, account_id="nobody")


async def test_a_page_has_the_counts_and_the_due_time_of_each(store):
    """The counts of a receiver are its own, and so is the time at which its first one is due."""
    for path in ("/a", "/b"):
        await add_delivery(store, path, path=path, at=START)
    counts = [3, 1, *[0] * 3, 4, *[0] * (len(COUNTS) - 6)]
    hours = [Hour(a_receiver(path="/b"), START, counts)]
    await store.receivers.observe(
        [Observation(receiver=a_receiver(path="/b"), origin=ONE, hours=hours)]
    )

    (a, b), _ = await store.receivers.page("dev", START, after=None, limit=9)

    assert (START, START) == (a.oldest_due_at, b.oldest_due_at)
    assert None is a.shown_at(START)["success_rate_24h"]
    assert 0.75 == b.shown_at(START)["success_rate_24h"]
    assert (8, 10) == (b.shown_at(START)["p50_ms"], b.shown_at(START)["p95_ms"])


async def test_a_cursor_of_another_account_names_no_page(store):
    """A page behind a receiver that the account does not have is refused."""
    await add_delivery(store, account_id="other")

    with pytest.raises(UnknownCursor):
        await store.receivers.page("dev", START, after=id_of(a_receiver()), limit=9)


# Pausing


async def test_nothing_is_leased_for_a_paused_receiver(store, elsewhere):
    """Neither what is due nor what was asked for by hand is leased, in no process."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    await store.redeliver("dev", "msg_2", START)

    assert await pause(store)
    (waiting,) = await waiting_receivers(elsewhere)

    assert waiting.is_closed
    assert [] == await lease_all(elsewhere)
    assert (ReceiverStatus.PAUSED, START, None) == await state_of(elsewhere)
    assert "paused by hand" in (await shown(elsewhere))["reason"]


async def test_what_waits_for_a_paused_receiver_says_so(store):
    """A delivery waits for the pause to end, which has no known end; it was not attempted."""
    await add_delivery(store)
    await pause(store)

    row = await store.history.find_delivery("dev", "msg_1")

    assert (WaitingFor.PAUSED, None) == row["waits"].reason_at(START + 100 * HOUR)
    assert ("pending", 0) == (row["status"], row["attempt_count"])


async def test_a_resumed_receiver_gets_what_waited(store, elsewhere):
    """After the pause everything is due as it was, and nothing was lost or counted."""
    await add_delivery(store, "1")
    await pause(store)
    await add_delivery(store, "2")

    assert await resume(elsewhere)

    assert ["msg_1", "msg_2"] == sorted(await lease_all(store))
    assert (ReceiverStatus.UNKNOWN, None, None) == await state_of(store)


async def test_pausing_and_resuming_may_be_repeated(store):
    """A second pause keeps the instant of the first one; a second resume changes nothing."""
    await add_delivery(store)

    assert [True, False] == [await pause(store), await pause(store, now=START + HOUR)]
    assert (ReceiverStatus.PAUSED, START, None) == await state_of(store)
    assert [True, False] == [await resume(store), await resume(store)]


async def test_a_new_delivery_for_a_paused_receiver_has_no_lease(store):
    """It is inserted without the lease that its process had reserved."""
    await add_delivery(store, "1")
    await pause(store)

    from_now = await inserted_with_a_lease(store)

    assert [None] == [one.leased_until for one in from_now]


async def inserted_with_a_lease(store):
    """The deliveries of an event as they are inserted, planned with a lease."""
    await store.accept(an_invoice("2"))
    step = a_step(await lease_invoice(store), event=an_event(delivery_id="msg_2"))
    return await store.take_step(step, [a_delivery(step, leased_until=START + LEASE)])


async def test_an_attempt_in_flight_ends_as_usual(store):
    """A lease that was taken before the pause settles; the pause stays."""
    await add_delivery(store)
    delivery = await lease_delivery(store)
    await pause(store)

    assert await store.settle(answered(delivery))

    assert "delivered" == (await store.history.find_delivery("dev", "msg_1"))["status"]
    assert (ReceiverStatus.PAUSED, START, None) == await state_of(store)


async def test_a_pause_concerns_its_receiver_alone(store):
    """Neighbours on its host and other accounts with its URL get their attempts."""
    await add_delivery(store, "1")
    await add_delivery(store, "2", path="/b")
    await add_delivery(store, "3", account_id="other")
    await pause(store)

    looked = await waiting_receivers(store)

    assert [a_receiver()] == [one.receiver for one in looked if one.is_closed]
    limits = {one.receiver: 9 for one in looked}
    due = await store.lease_deliveries(LeaseRound(START, START + LEASE, limits))
    assert {"msg_2", "msg_3"} == {one.id for one in due.deliveries}


async def test_a_pause_and_its_end_are_told_to_every_loop(store):
    """Both name the receiver, so that loops look at it at once."""
    await add_delivery(store)
    store.deliveries_asked.take()

    for change in (pause, resume):
        store.deliveries_due.clear()
        await change(store)

        assert store.deliveries_due.is_set()
        assert [a_receiver()] == list(store.deliveries_asked.take())


async def test_nothing_is_due_for_a_paused_receiver(store):
    """The backlog counts its deliveries as waiting: nobody has to look after them."""
    await add_delivery(store)
    await pause(store)

    backlog = await store.backlog(START + HOUR)

    assert (0, 1, 0) == (
        backlog.deliveries_due,
        backlog.deliveries_waiting,
        backlog.oldest_due_delivery_age_seconds,
    )


async def test_a_pause_outlasts_retention(store, database):
    """A paused receiver is kept however long nothing happens; after its end it is forgotten."""
    await add_delivery(store)
    await pause(store)
    await store.settle(delivered(await lease_it(store)))

    await store.remove_states("receivers", "", START + 1000 * HOUR)
    assert 1 == len(await rows_of(database, receivers))
    await resume(store)
    await store.remove_states("receivers", "", START + 1000 * HOUR)

    assert [] == await rows_of(database, receivers)


async def lease_it(store):
    """The delivery as a process has leased it just before the pause."""
    await resume(store)
    delivery = await lease_delivery(store)
    await pause(store)
    return delivery


# What processes observe


def unreachable(*, since=START, at=START):
    """What a process observes that cannot connect."""
    return Observation(
        receiver=a_receiver(),
        origin=ONE,
        failing_since=since,
        failed_at=at,
        reason="No connection.",
    )


def seen_answering(at):
    """What a process observes that got an answer."""
    return Observation(receiver=a_receiver(), origin=ONE, answered_at=at)


async def test_a_receiver_that_cannot_be_reached_fails(store):
    """No connection concerns the origin; the receiver is told as failing all the same."""
    await store.receivers.observe([unreachable()])
    await store.receivers.observe([unreachable(since=START + SECOND, at=START + SECOND)])

    row = await shown(store, now=START + SECOND)

    assert (ReceiverStatus.FAILING, START) == (row["state"], row["since"])
    assert "No connection." == row["reason"]


async def test_a_failing_receiver_rests_as_long_as_its_origin(store):
    """It gets no attempt until the cooldown of its origin ends."""
    await add_delivery(store)
    state = OriginState(ONE, START + SECOND)
    delivery = await lease_delivery(store)
    made = an_attempt(
        delivery,
        AttemptOutcome.UNREACHABLE,
        failed(delivery).decision,
        status_code=None,
        is_connected=False,
        origin_state=state,
    )
    await store.settle(made)
    await store.receivers.observe([unreachable()])

    assert (ReceiverStatus.FAILING, START, START + SECOND) == await state_of(store)


async def test_an_answer_to_another_process_ends_a_failure(store, elsewhere):
    """Whoever got the last answer decides, also if it knew of no failure."""
    await store.receivers.observe([unreachable()])

    await elsewhere.receivers.observe([seen_answering(START + SECOND)])

    expected = (ReceiverStatus.HEALTHY, START + SECOND, None)
    assert expected == await state_of(store, now=START + SECOND)


async def test_what_was_observed_before_a_failure_changes_nothing(store, elsewhere):
    """An answer that is older than the last failure does not end it, nor the other way round."""
    await store.receivers.observe([unreachable(at=START + SECOND)])
    await elsewhere.receivers.observe([seen_answering(START)])
    assert ReceiverStatus.FAILING is (await shown(store))["state"]

    await add_delivery(store)
    await store.settle(answered(await lease_delivery(store), at=START + 3 * SECOND))
    await elsewhere.receivers.observe([unreachable(at=START + 2 * SECOND)])
    assert ReceiverStatus.HEALTHY is (await shown(store))["state"]


async def test_counts_of_several_processes_add_up(store, elsewhere):
    """Each process adds what it has counted; an hour is one row."""
    one = [*range(len(COUNTS))]
    for process in (store, elsewhere):
        hours = [Hour(a_receiver(), START, one), Hour(a_receiver(), START - HOUR, one)]
        await process.receivers.observe(
            [Observation(receiver=a_receiver(), origin=ONE, hours=hours)]
        )
    await add_delivery(store)

    known, series = await store.receivers.series_of("dev", ID, START)

    assert [4 * count for count in one] == list(known.counts)
    assert 24 == len(series)
    assert [START - (23 - number) * HOUR for number in range(24)] == [one.hour for one in series]
    doubled = [2 * count for count in one]
    assert [no_counts()] * 22 + [doubled] * 2 == [list(hour.counts) for hour in series]


async def test_a_day_is_told_and_no_more(store, database):
    """Hours that began more than a day ago are not told; they are removed an hour later."""
    hours = [Hour(a_receiver(), START - age * HOUR, [1] * len(COUNTS)) for age in (23, 24, 25, 26)]
    await store.receivers.observe([Observation(receiver=a_receiver(), origin=ONE, hours=hours)])
    await add_delivery(store)

    assert [1] * len(COUNTS) == list((await store.receivers.find("dev", ID, START)).counts)
    assert [True, False] == [await store.receivers.remove_old_hours(START) for _ in range(2)]
    rows = await rows_of(database, receiver_hours)
    for name in ("dev", a_receiver()):
        kept = [row["hour"] for row in rows if row["receiver"] == name]
        assert [START - age * HOUR for age in (25, 24, 23)] == kept


async def test_old_hours_are_removed_in_batches(store, database):
    """A transaction removes a bounded number of them, and says whether there were any."""
    hours = [Hour(a_receiver(path=f"/{n}"), START, no_counts()) for n in range(BATCH + 1)]
    observed = [Observation(receiver=one.receiver, origin=ONE, hours=[one]) for one in hours]
    await store.receivers.observe(observed)

    later = START + 26 * HOUR
    assert [True, True, False] == [await store.receivers.remove_old_hours(later) for _ in range(3)]
    assert [] == await rows_of(database, receiver_hours)


# Test events


async def add_test_event(store, **changes):
    """Add a test event as the API makes it; returns its invoice_id."""
    await add_delivery(store, "template", account_id="template")
    (template,) = await lease_deliveries(store, limit=1)
    id_ = test_events.new_test_id()
    values = {
        **{"id": "msg_t", "account_id": "dev", "invoice_key": id_, "invoice_id": id_},
        **{"receiver": receiver_of("dev", ONE), "leased_until": None, "lease_token": 0},
        **{"collector": "test", "is_asked": True, "url": f"{ONE}/invoices/{id_}"},
    }
    await store.receivers.add_test_event(replace(template, **values, **changes))
    return id_


async def test_a_test_event_is_leased_without_an_invoice(store):
    """It is leased like any other, and its values follow from its delivery."""
    id_ = await add_test_event(store)

    due = await store.lease_deliveries(LeaseRound(START, START + LEASE, {}, [a_receiver()]))
    (delivery,) = due.deliveries

    assert ("msg_t", id_, "test") == (delivery.id, delivery.invoice_id, delivery.collector)
    assert (START, "msg_t", None) == (
        delivery.accepted_at,
        delivery.request_id,
        delivery.traceparent,
    )
    assert delivery.is_asked


async def test_a_test_event_is_told_like_any_delivery(store):
    """It is found by its id, in lists, and by its invoice_id; there is no such invoice."""
    id_ = await add_test_event(store)
    wanted = DeliveryFilter(invoice_id=id_)

    row = await store.history.find_delivery("dev", "msg_t")
    all_, _ = await store.history.list_deliveries("dev", DeliveryFilter(), after=None, limit=9)
    of_it, _ = await store.history.list_deliveries("dev", wanted, after=None, limit=9)

    assert (id_, "pending") == (row["invoice_id"], row["status"])
    assert {"description": "Test event", "paid": False} == row["event"]
    assert [["msg_t"], ["msg_t"]] == [[one["id"] for one in rows] for rows in (all_, of_it)]
    with pytest.raises(NotFound):
        await store.history.find_invoice("dev", id_)
    listed, _ = await store.history.list_invoices("dev", status=None, after=None, limit=9)
    assert [] == listed


async def test_a_test_event_ends_and_is_redelivered(store):
    """It settles, can be redelivered, and is removed by retention like any other."""
    await add_test_event(store)
    due = await store.lease_deliveries(LeaseRound(START, START + LEASE, {}, [a_receiver()]))
    await store.settle(delivered(due.deliveries[0]))

    row, is_redelivered = await store.redeliver("dev", "msg_t", START)

    assert (True, "pending", 1) == (is_redelivered, row["status"], len(row["attempts"]))


async def test_a_test_event_waits_for_the_end_of_a_pause(store):
    """Though it was asked for by hand, a paused receiver does not get it."""
    await add_test_event(store)
    await pause(store)

    assert [] == await lease_all(store)
    await resume(store)
    assert ["msg_t"] == await lease_all(store)
