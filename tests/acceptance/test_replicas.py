import asyncio
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from service.heartbeat import BEAT, GAP, SILENCE
from tests.acceptance.traffic import traffic
from tests.processes import free_port, receiving, starting, starved, starved_since

ORIGIN_CONCURRENCY = 16
"""The limit of attempts in flight of one process to one receiver."""

CALLBACK_TIMEOUT = timedelta(seconds=2)
LEASE = CALLBACK_TIMEOUT + timedelta(seconds=10)


@asynccontextmanager
async def two_replicas(folder, url):
    """Two services on one database, each with its own port."""
    async with (
        starting(folder, database_url=url) as one,
        starting(folder, database_url=url) as other,
    ):
        await asyncio.gather(*(replica.logged("service.started") for replica in (one, other)))
        yield one, other


TAKEN_OVER_SECONDS = 8
"""The longest time from the death of a process until another one has its deliveries."""


class Replica:
    """A service that is killed and started again, at the same address."""

    def __init__(self, folder, url):
        self.port = free_port()
        self.killed_at = None
        self._lives = AsyncExitStack()
        self._start = lambda: starting(
            folder, database_url=url, port=self.port, CALLBACK_TIMEOUT="2s", RETRY_SCHEDULE="50ms"
        )

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self._lives.aclose()

    async def start(self):
        """Start the service again."""
        self._service = await self._lives.enter_async_context(self._start())

    async def kill(self):
        """Kill the process as a power failure does."""
        self.killed_at = datetime.now(UTC)
        self._service.signal(signal.SIGKILL)
        await self._service.ended()

    def __getattr__(self, name):
        """Other attributes are those of the running service."""
        return getattr(self._service, name)


async def test_replicas_share_deliveries_without_repetition(tmp_path, postgres_url):
    """Without kills, each event is delivered once, by either replica."""
    async with receiving() as receiver, two_replicas(tmp_path, postgres_url) as replicas:
        async with traffic(replicas, receiver) as clients:
            await clients.accepts(400)
        await replicas[0].at_rest()
        deliveries = await replicas[0].deliveries()

    settled = [replica.lines("attempt.settled") for replica in replicas]
    assert 400 <= len(clients.accepted)
    assert [] == clients.refused
    assert dict.fromkeys(clients.accepted, 1) == {
        id_: len(calls) for id_, calls in receiver.calls().items()
    }
    assert {("delivered", 1)} == {
        (delivery["status"], delivery["attempt_count"]) for delivery in deliveries.values()
    }
    assert len(clients.accepted) == sum(map(len, settled))
    assert min(map(len, settled)) > len(clients.accepted) // 10


async def test_a_replica_continues_the_work_of_another(tmp_path, postgres_url):
    """A replica that stops releases its waiting leases, and the other replica attempts them."""
    async with receiving() as receiver, two_replicas(tmp_path, postgres_url) as (one, other):
        await one.send("opening", receiver.url)
        await other.send("opening too", receiver.url)
        await other.at_rest()
        receiver.may_answer.clear()
        for number in range(2 * ORIGIN_CONCURRENCY):
            await one.send(f"i{number}", receiver.url)
        await receiver.arrived.reaches(2 + ORIGIN_CONCURRENCY)

        one.signal(signal.SIGTERM)
        # The stopped replica releases the waiting deliveries, and the other has slots for them.
        await receiver.arrived.reaches(2 + 2 * ORIGIN_CONCURRENCY)
        receiver.may_answer.set()
        assert 0 == await one.ended()
        await other.at_rest()

    assert {1} == {len(calls) for calls in receiver.calls().values()}
    assert 2 + 2 * ORIGIN_CONCURRENCY == len(receiver.calls())


@pytest.mark.slow
@pytest.mark.parametrize("role", ["replica", "worker"])
async def test_the_leases_of_a_killed_process_are_taken_over(tmp_path, postgres_url, role):
    """All that a process had in flight when it was killed arrives within eight seconds."""
    async with receiving() as receiver, AsyncExitStack() as stack:
        if role == "worker":
            service = await stack.enter_async_context(
                starting(tmp_path, "--workers", "2", database_url=postgres_url)
            )
            await service.logged("service.started", count=2)
            senders, kill = [service], service.workers()[0].kill
        else:
            one, other = await stack.enter_async_context(two_replicas(tmp_path, postgres_url))
            senders, kill = [one, other], one.process.kill
        for number in range(4):
            await senders[number % len(senders)].send(f"opening {number}", receiver.url)
        await senders[-1].at_rest()
        receiver.may_answer.clear()
        for number in range(4 * ORIGIN_CONCURRENCY):
            await senders[number % len(senders)].send(f"i{number}", receiver.url)
        await receiver.arrived.reaches(4 + ORIGIN_CONCURRENCY + 1)
        kill()
        killed_at, before = time.monotonic(), starved()
        receiver.may_answer.set()
        await senders[-1].at_rest()
        seconds = time.monotonic() - killed_at
        lost = starved_since(before)
        deliveries = await senders[-1].deliveries()

    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    assert 4 + 4 * ORIGIN_CONCURRENCY == len(deliveries)
    # Time without a processor is that of other programs on this machine. A process that could not
    # look at the others for so long measures their silence anew.
    if lost > (GAP - BEAT).total_seconds():
        lost += SILENCE.total_seconds()
    assert seconds - lost < TAKEN_OVER_SECONDS


@pytest.mark.slow
async def test_a_process_that_was_paused_changes_nothing(tmp_path, postgres_url):
    """The leases of a paused process are taken over; when it goes on, it settles none of them."""
    async with receiving() as receiver, two_replicas(tmp_path, postgres_url) as (one, other):
        await one.send("opening", receiver.url)
        await one.at_rest()
        receiver.may_answer.clear()
        for number in range(4):
            await one.send(f"i{number}", receiver.url)
        await receiver.arrived.reaches(5)
        one.signal(signal.SIGSTOP)
        receiver.may_answer.set()
        await other.logged("process.lost")
        await other.at_rest()
        before = await other.deliveries()

        one.signal(signal.SIGCONT)
        await one.logged("process.outlived")
        await one.logged("attempt.outlived_lease", count=4)
        await one.send("later", receiver.url)
        await other.at_rest()
        after = await other.deliveries()

    repeated = [d["status"] for d in before.values() if 2 == d["attempt_count"]]
    assert 4 * ["delivered"] == repeated
    assert {**before, "later": after["later"]} == after
    assert ("delivered", 1) == (after["later"]["status"], after["later"]["attempt_count"])


@pytest.mark.slow
async def test_every_invoice_is_delivered_although_each_replica_is_killed(tmp_path, postgres_url):
    """After kills, every accepted invoice is delivered; only deliveries in flight are repeated."""
    async with (
        receiving() as receiver,
        Replica(tmp_path, postgres_url) as one,
        Replica(tmp_path, postgres_url) as other,
    ):
        await asyncio.gather(*(replica.logged("service.started") for replica in (one, other)))
        async with traffic((one, other), receiver) as clients:
            for replica in (one, other):
                await clients.accepts(100)
                # More than one replica could have in flight alone: both have attempts in flight.
                receiver.may_answer.clear()
                await receiver.arrived.reaches(len(receiver.arrived) + ORIGIN_CONCURRENCY + 4)
                await replica.kill()
                receiver.may_answer.set()
                await clients.accepts(50)
                await replica.start()
                await replica.logged("service.started")
            await clients.accepts(50)
        await one.at_rest()
        deliveries = await one.deliveries()
        found = {
            id_: await one.get(f"/deliveries/{delivery['id']}")
            for id_, delivery in deliveries.items()
            if delivery["attempt_count"] > 1
        }

    calls = receiver.calls()
    assert set(clients.accepted) <= set(calls)
    # Each request for the same event has the same id and the same bytes.
    assert {1} == {len(set(events)) for events in calls.values()}
    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    assert all(len(calls[id_]) <= one["attempt_count"] for id_, one in deliveries.items())
    lost_until = [
        datetime.fromisoformat(attempt["started_at"])
        for delivery in found.values()
        for attempt in delivery["attempts"]
        if "lost" == attempt["outcome"]
    ]
    # An expired lease belonged to a replica that was killed at that instant.
    assert 2 <= len(lost_until)
    kills = (one.killed_at, other.killed_at)
    assert all(any(at - LEASE <= kill <= at for kill in kills) for at in lost_until)
    assert {"lost", "delivered"} >= {
        attempt["outcome"] for delivery in found.values() for attempt in delivery["attempts"]
    }
