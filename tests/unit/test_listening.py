"""Listeners take the callbacks that are for them, and their answers are those of receivers."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager
from datetime import timedelta

import orjson
import pytest
from standardwebhooks import Webhook

from service.delivery.connection import ANSWER_LIMIT
from service.delivery.failures import NoAnswer
from service.delivery.listener_answers import FAILURES, read_answer
from service.delivery.listening import ACCOUNT_STREAMS_MAX, ANSWER_BYTES_MAX, Listeners
from service.delivery.sender import Answer
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.domain.listening import (
    LISTENER_PING,
    LISTENER_SILENCE,
    AttemptKey,
    ListenerFailure,
    StreamEnd,
    listener_origin,
)
from service.domain.outcomes import AttemptOutcome
from service.errors import ListenersUnavailable, StorageUnavailable, TooManyRequests
from tests.clock import PATIENCE_SECONDS, START, ManualClock, idle
from tests.fakes import FakeReceivers, NamedIds, WatchedMemory, WatchedStore, assembled
from tests.rows import (
    LISTENER_URL,
    SECOND,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    for_listener,
    lease_invoice,
)

TIMEOUT = 15 * SECOND
OK = orjson.dumps({"status": 200, "headers": {}, "body_base64": "eyJvayI6IHRydWV9"})
WAITING = ("pending", "listener", [])


@pytest.fixture
def memory():
    """The stored rows, which several processes share."""
    return WatchedMemory()


@pytest.fixture
def clock():
    """The clock of all processes."""
    return ManualClock()


@pytest.fixture
def receivers():
    """All receivers that are called."""
    return FakeReceivers()


@pytest.fixture
def process(memory, clock, receivers):
    """Runs the dispatcher and the listeners of a process inside the block."""
    ids = NamedIds()

    @asynccontextmanager
    async def run():
        store = WatchedStore(memory)
        store.ids = ids
        service = assembled(
            store,
            receivers=receivers,
            clock=clock,
            retry_schedule=(5 * SECOND, 300 * SECOND),
            callback_timeout=TIMEOUT,
        )
        loops = service.dependencies.listeners, service.dispatcher
        running = [asyncio.create_task(loop.run()) for loop in loops]
        await idle()
        try:
            yield Process(service)
        finally:
            for loop, task in zip(loops, running, strict=True):
                loop.drain()
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await task

    return run


@pytest.fixture
async def one(process):
    """A process with its loops."""
    async with process() as running:
        yield running


class Process:
    """The service of a process, as tests use it."""

    def __init__(self, service):
        self.store = service.store
        self.dispatcher = service.dispatcher
        self.listeners = service.dependencies.listeners
        self.connected = None
        """What the newest listener was told when it connected."""

    async def connect(self, name="laptop", *, account_id="dev", acknowledges=True, **options):
        """Connect a listener; its stream, after the event `connected`."""
        stream = await self.listeners.connect(
            account_id, name, acknowledges=acknowledges, **options
        )
        self.connected = (await taken(stream, "connected")).data
        await idle()
        return stream

    async def answer(self, event, content=OK, *, account_id="dev", name="laptop"):
        """Answer the delivery of *event*; whether the answer was taken."""
        is_taken = await self.listeners.answer(
            key_of(event, account_id=account_id, name=name), content
        )
        await idle()
        return is_taken

    async def shown(self, delivery_id, now=START, account_id="dev"):
        """Status, what it waits for, and the outcomes of the attempts of a delivery."""
        row = await self.store.history.find_delivery(account_id, delivery_id)
        reason = row["waits"].reason_at(now)[0] if row["waits"] else None
        return row["status"], reason, [attempt["outcome"] for attempt in row["attempts"]]


def key_of(event, *, account_id="dev", name="laptop"):
    """The attempt that the event `delivery` is about."""
    return AttemptKey(
        account_id=account_id,
        origin=listener_origin(name),
        delivery_id=event.data["id"],
        number=event.data["attempt"],
    )


async def taken(stream, name):
    """The next event of that name; others are skipped."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            event = await stream.next(PATIENCE_SECONDS)
            assert event is not None, f"the stream has ended without {name}"
            if event.name == name:
                return event


def acknowledge(stream, event, clock):
    """The listener says that *event* has arrived."""
    stream.note_seen(event.number, clock.elapsed())


async def nothing(stream):
    """Whether no delivery is in *stream*."""
    await idle()
    return "delivery" not in [one.name for one in stream._events]


async def test_without_a_listener_a_delivery_waits(one, receivers, clock):
    """A delivery waits for its listener: nothing is sent, and no attempt is counted."""
    await add_delivery(one.store, "1", **for_listener("laptop"))
    for _ in range(5):
        clock.advance(timedelta(hours=1))
        await idle()

    assert WAITING == await one.shown("msg_1", clock.now())
    assert [] == receivers.requests.entries


async def test_a_listener_gets_what_waited(one, clock):
    """A listener that connects is told how many deliveries wait, and gets them."""
    await add_delivery(one.store, "1", **for_listener("laptop"))
    await idle()

    stream = await one.connect()
    event = await taken(stream, "delivery")

    assert LISTENER_URL + "laptop" == one.connected["callback_url"]
    assert (1, False) == (one.connected["waiting_count"], one.connected["has_displaced"])
    assert ("msg_1", 1) == (event.data["id"], event.data["attempt"])
    assert clock.now() + TIMEOUT == event.data["deadline_at"]


async def test_the_request_is_that_of_a_receiver(one, receivers):
    """Method, path, headers and body are those with which a receiver would be called."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    data = (await taken(stream, "delivery")).data

    body, headers = b64decode(data["body_base64"]), data["headers"]
    signed = Webhook(DEV_SECRET).sign("msg_1", START, body.decode())
    assert ("POST", "/invoices/1") == (data["method"], data["path"])
    assert signed == headers["webhook-signature"]
    assert "application/json" == headers["Content-Type"]
    assert [] == receivers.requests.entries


async def test_the_answer_is_the_recorded_attempt(one):
    """An answer that acknowledges delivers, and the listener is told so."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))

    assert await one.answer(await taken(stream, "delivery"))
    settled = (await taken(stream, "settled")).data

    assert ("delivered", None, ["delivered"]) == await one.shown("msg_1")
    assert ("msg_1", 1, "delivered", "delivered") == (
        settled["id"],
        settled["attempt"],
        settled["outcome"],
        settled["status"],
    )


async def test_a_refusal_is_attempted_again_by_the_schedule(one, clock):
    """After another answer the next attempt follows by the retry schedule."""
    stream = await one.connect(acknowledges=False)
    await add_delivery(one.store, "1", **for_listener("laptop"))
    refusal = orjson.dumps({"status": 500, "headers": {}, "body_base64": ""})

    await one.answer(await taken(stream, "delivery"), refusal)
    settled = (await taken(stream, "settled")).data

    assert ("refused", "pending") == (settled["outcome"], settled["status"])
    assert clock.now() + 5 * SECOND == settled["due_at"]
    assert await nothing(stream)
    clock.advance(300 * SECOND)
    assert 2 == (await taken(stream, "delivery")).data["attempt"]


async def test_a_request_that_has_not_arrived_is_no_attempt(one, clock):
    """If the link ends before the request has arrived, the next listener gets the same attempt."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    await taken(stream, "delivery")

    await one.listeners.disconnect(stream)
    await idle()

    assert WAITING == await one.shown("msg_1")
    again = await taken(await one.connect(), "delivery")
    assert ("msg_1", 1) == (again.data["id"], again.data["attempt"])


async def test_a_request_that_has_arrived_may_be_answered_after_the_link_has_ended(one, clock):
    """An answer counts until its deadline, over whichever connection it comes."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    event = await taken(stream, "delivery")
    acknowledge(stream, event, clock)
    await one.listeners.disconnect(stream)
    await one.connect()

    assert await one.answer(event)
    await one.store.settled.reaches(1)

    assert ("delivered", None, ["delivered"]) == await one.shown("msg_1")


async def test_a_request_that_has_arrived_and_is_not_answered_times_out(one, clock):
    """At the deadline the attempt is recorded as a timeout, and its answer is too late."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    event = await taken(stream, "delivery")
    acknowledge(stream, event, clock)

    clock.advance(TIMEOUT)
    await one.store.settled.reaches(1)

    assert ["timeout"] == (await one.shown("msg_1"))[2]
    assert not await one.answer(event)


async def test_a_link_that_brings_nothing_for_a_deadline_is_dead(one, clock):
    """A request that has not arrived until its deadline ends the connection, and costs nothing."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    await taken(stream, "delivery")

    clock.advance(TIMEOUT)
    await idle()

    assert StreamEnd.SILENT == stream.end
    await one.listeners.disconnect(stream)
    assert WAITING == await one.shown("msg_1", clock.now())


async def test_a_listener_that_acknowledges_nothing_has_received_what_was_sent(one, clock):
    """Without acknowledgements an event counts as arrived while the connection is open."""
    stream = await one.connect(acknowledges=False)
    await add_delivery(one.store, "1", **for_listener("laptop"))
    await taken(stream, "delivery")

    clock.advance(TIMEOUT)
    await one.store.settled.reaches(1)

    assert stream.end is None
    assert ["timeout"] == (await one.shown("msg_1"))[2]


async def test_an_answer_counts_once(one):
    """A second answer to an attempt is refused."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    event = await taken(stream, "delivery")

    assert await one.answer(event)
    assert not await one.answer(event)


@pytest.mark.parametrize("place", [{"account_id": "other"}, {"name": "other"}])
async def test_an_answer_of_another_listener_is_refused(one, place):
    """Neither another account nor another name answers an attempt."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    event = await taken(stream, "delivery")

    assert not await one.answer(event, **place)
    assert await one.answer(event)


async def test_a_name_belongs_to_its_account(one, monkeypatch):
    """Two accounts use one name; each gets its own deliveries."""

    async def signer_of(_account_id):
        return Signer((DEV_SECRET,))

    monkeypatch.setattr(one.dispatcher._attempts, "signer_of", signer_of)
    own, others = await one.connect(), await one.connect(account_id="other")
    await add_delivery(one.store, "1", **for_listener("laptop"))
    await add_delivery(one.store, "2", account_id="other", **for_listener("laptop", "2"))

    assert "msg_1" == (await taken(own, "delivery")).data["id"]
    assert "msg_2" == (await taken(others, "delivery")).data["id"]
    assert await nothing(own)


async def test_the_events_of_an_invoice_arrive_in_order(one):
    """A later event is sent after the answer to the earlier one."""
    stream = await one.connect()
    await add_two_events(one.store, "2", **for_listener("laptop", "2"))
    first = await taken(stream, "delivery")

    assert "msg_2a" == first.data["id"]
    assert await nothing(stream)
    await one.answer(first)
    assert "msg_2b" == (await taken(stream, "delivery")).data["id"]


async def test_a_redelivery_waits_for_the_listener(one, clock):
    """What is asked for by hand is not leased without a listener, and comes when there is one."""
    stream = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    await one.answer(await taken(stream, "delivery"))
    await one.store.settled.reaches(1)
    await one.listeners.disconnect(stream)
    await one.store.redeliver("dev", "msg_1", clock.now())
    await idle()

    assert ("pending", "listener", ["delivered"]) == await one.shown("msg_1")
    assert 2 == (await taken(await one.connect(), "delivery")).data["attempt"]


async def test_the_newest_listener_has_the_name(one):
    """An older connection is displaced, both are told, and what it had not received moves on."""
    old = await one.connect()
    await add_delivery(one.store, "1", **for_listener("laptop"))
    await taken(old, "delivery")

    new = await one.connect()

    assert await taken(old, "displaced")
    assert StreamEnd.DISPLACED == old.end
    assert one.connected["has_displaced"]
    assert "msg_1" == (await taken(new, "delivery")).data["id"]


async def test_a_listener_that_comes_back_displaces_nobody(one):
    """A connection that replaces one of the same listener is not told of another listener."""
    old = await one.connect()

    await one.connect(replaces=old.token)

    assert not one.connected["has_displaced"]


async def test_a_listener_of_another_process_displaces(one, process, clock):
    """A connection at another process is the newest one as well."""
    old = await one.connect()
    async with process() as other:
        new = await other.connect()
        clock.advance(SECOND)
        await idle()

        assert await taken(old, "displaced")
        assert other.connected["has_displaced"]
        assert new.end is None


async def test_only_the_process_with_the_connection_leases(one, process, receivers):
    """A delivery that is recorded in one process goes to the listener of another one."""
    async with process() as other:
        stream = await other.connect()
        await add_delivery(one.store, "1", **for_listener("laptop"))
        other.store.deliveries_due.set()

        assert "msg_1" == (await taken(stream, "delivery")).data["id"]
    assert [] == receivers.requests.entries


async def test_an_answer_may_reach_another_process(one, process, clock):
    """The process that holds the lease reads an answer that another one took."""
    async with process() as other:
        stream = await one.connect()
        await add_delivery(one.store, "1", **for_listener("laptop"))
        event = await taken(stream, "delivery")

        assert await other.answer(event)
        assert not await other.answer(event)
        clock.advance(SECOND)
        await one.store.settled.reaches(1)

        assert ("delivered", None, ["delivered"]) == await one.shown("msg_1")


async def test_an_answer_that_another_process_took_in_time_counts(one, process, clock):
    """An answer that was taken is read before the attempt is given up at its deadline."""
    async with process() as other:
        stream = await one.connect()
        await add_delivery(one.store, "1", **for_listener("laptop"))
        event = await taken(stream, "delivery")
        clock.advance(TIMEOUT - SECOND / 1000)
        await idle()
        await other.listeners._store.answer(key_of(event), OK, clock.now())
        clock.advance(SECOND)
        await one.store.settled.reaches(1)

        assert ("delivered", None, ["delivered"]) == await one.shown("msg_1")
        assert not await other.answer(event)


async def test_an_acknowledgement_may_reach_another_process(one, process, clock):
    """What another process was told keeps the connection."""
    async with process() as other:
        stream = await one.connect()
        for _ in range(4):
            clock.advance(LISTENER_PING)
            await idle()
            ping = await taken(stream, "ping")
            assert await other.listeners.note_seen("dev", "laptop", stream.token, ping.number)
            clock.advance(SECOND)
            await idle()

        assert stream.end is None
        assert not await other.listeners.note_seen("dev", "laptop", "another", 1)


async def test_a_silent_listener_is_disconnected(one, clock):
    """A connection whose pings are not acknowledged is dead after 22 seconds."""
    stream = await one.connect()
    clock.advance(LISTENER_SILENCE - SECOND)
    await idle()
    before = stream.end
    clock.advance(SECOND)
    await idle()

    assert (None, StreamEnd.SILENT) == (before, stream.end)


async def test_a_ping_comes_every_ten_seconds(one, clock):
    """Pings come all the time, and have the time of the service."""
    stream = await one.connect(acknowledges=False)
    await taken(stream, "ping")
    for _ in range(3):
        clock.advance(LISTENER_PING)
        await idle()

        assert clock.now() == (await taken(stream, "ping")).data["now"]


async def test_pings_go_on_while_the_database_is_away(one, memory, clock):
    """An outage of the database ends no connection."""
    stream = await one.connect(acknowledges=False)
    await taken(stream, "ping")
    memory.is_away = True
    clock.advance(LISTENER_PING)
    await idle()
    memory.is_away = False

    assert await taken(stream, "ping")
    assert stream.end is None


async def test_a_database_that_is_away_prevents_an_attempt(one, memory, clock, monkeypatch):
    """If it cannot be stored that a listener works on it, nothing is sent and nothing counts."""
    stream = await one.connect()

    async def give(_new):
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(one.listeners._store, "give", give)
        await add_delivery(one.store, "1", **for_listener("laptop"))
        await idle()

        assert await nothing(stream)
    clock.advance(10 * SECOND)
    assert 1 == (await taken(stream, "delivery")).data["attempt"]


async def test_listeners_of_an_account_are_bounded(one):
    """An account has so many connections at most; one for a name that it has is no further one."""
    for number in range(ACCOUNT_STREAMS_MAX):
        await one.connect(f"n{number}")

    with pytest.raises(TooManyRequests):
        await one.connect("further")
    assert await one.connect("n0")
    assert await one.connect("further", account_id="other")


async def test_listeners_of_a_process_are_bounded(one):
    """All accounts together leave connections for other requests."""
    count = one.listeners._streams_max
    for number in range(count):
        await one.connect("laptop", account_id=f"account{number}")

    with pytest.raises(ListenersUnavailable):
        await one.connect("laptop", account_id="further")


async def test_a_process_that_does_not_deliver_takes_no_listener(memory, clock):
    """Without its loops a process refuses a connection, in words."""
    service = assembled(WatchedStore(memory), clock=clock)

    with pytest.raises(ListenersUnavailable, match="does not deliver"):
        await service.dependencies.listeners.connect("dev", "laptop", acknowledges=True)


async def test_a_drain_releases_what_is_not_answered(process, clock):
    """A stop ends the connections, and what is not answered costs no attempt."""
    async with process() as stopping:
        stream = await stopping.connect()
        await add_delivery(stopping.store, "1", **for_listener("laptop"))
        event = await taken(stream, "delivery")
        acknowledge(stream, event, clock)
    assert "stopping" == (await taken(stream, "closed")).data["reason"]
    async with process() as next_one:
        assert ("pending", []) == (await next_one.shown("msg_1", clock.now()))[::2]
        with pytest.raises(ListenersUnavailable):
            await stopping.connect()


async def test_receivers_are_called_as_before(one, receivers):
    """A listener changes nothing for receivers with a URL of their own."""
    await one.connect()
    await add_delivery(one.store, "1")
    await receivers.requests.reaches(1)
    await one.store.settled.reaches(1)

    assert ("delivered", None, ["delivered"]) == await one.shown("msg_1")


async def test_listened_invoice_is_leased_when_it_is_written(one):
    """An event for a connected listener is leased by the transaction that writes it."""
    stream = await one.connect()
    invoice = an_invoice("7", **for_listener("laptop", "7"))
    await one.store.accept(invoice)
    leased = await lease_invoice(one.store)
    step = a_step(leased, event=an_event())
    assert await one.dispatcher.record(step)

    assert "/invoices/7" == (await taken(stream, "delivery")).data["path"]


# Answers


def test_an_answer_has_what_decides():
    """Status, body and the headers that decide are read, whatever their spelling."""
    headers = {"RETRY-AFTER": "5", "Location": "/x", "content-encoding": "gzip"}
    read = read_answer(orjson.dumps({"status": 503, "headers": headers, "body_base64": "aGk="}))

    assert (503, "5", b"hi", None) == (
        read.status_code,
        read.retry_after,
        read.body,
        read.location,
    )
    assert "gzip" == read.content_encoding
    assert not read.is_truncated


def test_the_headers_of_an_answer_are_told():
    """An attempt shows them, as those of a receiver on the internet."""
    headers = {"Content-Type": "text/html", "X-Id": "7"}
    read = read_answer(orjson.dumps({"status": 500, "headers": headers, "body_base64": ""}))

    assert "Content-Type: text/html\nX-Id: 7" == read.head


@pytest.mark.parametrize("length", [0, 50_000, ANSWER_LIMIT, ANSWER_LIMIT + 1, 70_000])
def test_a_long_answer_is_that_of_a_receiver(length):
    """The same answer is the same value on both roads, from which outcome and detail follow."""
    body = b"x" * length
    cut = b64encode(body[:ANSWER_BYTES_MAX]).decode()
    content = orjson.dumps({"status": 200, "headers": {}, "body_base64": cut})

    expected = Answer(200, None, body[:ANSWER_LIMIT], length > ANSWER_LIMIT)
    assert expected == read_answer(content)
    assert Listeners.answer_request_bytes >= len(content)


@pytest.mark.parametrize("failure", ListenerFailure)
def test_every_failure_is_an_outcome(failure):
    """Why a local server gave no answer is told as that of a receiver would be."""
    read = read_answer(orjson.dumps({"failure": failure.value}))

    assert isinstance(read, NoAnswer)
    assert read.is_connected
    assert FAILURES[failure] == (read.outcome, read.detail)
    assert read.outcome in {
        AttemptOutcome.UNREACHABLE,
        AttemptOutcome.TIMEOUT,
        AttemptOutcome.MALFORMED,
    }
