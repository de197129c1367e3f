import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.traffic import traffic
from tests.processes import free_port, receiving, starting

ORIGIN_CONCURRENCY = 16
"""Attempts that one process has in flight to one receiver at most."""

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
        """Begin to serve, again."""
        self._service = await self._lives.enter_async_context(self._start())

    async def kill(self):
        """End as a machine ends that loses its power."""
        self.killed_at = datetime.now(UTC)
        self._service.signal(signal.SIGKILL)
        await self._service.ended()

    def __getattr__(self, name):
        """Everything else is what the service does that runs now."""
        return getattr(self._service, name)


async def test_replicas_share_the_work_and_no_callback_comes_twice(tmp_path, postgres_url):
    """As long as nobody is killed, each event is delivered once, by one replica or the other."""
    async with receiving() as receiver, two_replicas(tmp_path, postgres_url) as replicas:
        async with traffic(replicas, receiver) as going_on:
            await going_on.accepts(400)
        await replicas[0].at_rest()
        deliveries = await replicas[0].deliveries()

    settled = [replica.lines("attempt.settled") for replica in replicas]
    assert 400 <= len(going_on.accepted)
    assert [] == going_on.refused
    assert dict.fromkeys(going_on.accepted, 1) == {
        id_: len(calls) for id_, calls in receiver.calls().items()
    }
    assert {("delivered", 1)} == {
        (delivery["status"], delivery["attempt_count"]) for delivery in deliveries.values()
    }
    assert len(going_on.accepted) == sum(map(len, settled))
    assert min(map(len, settled)) > len(going_on.accepted) // 10


async def test_what_one_replica_leaves_the_other_does(tmp_path, postgres_url):
    """A replica that stops gives back what it has not begun, and the other goes on with it."""
    async with receiving() as receiver, two_replicas(tmp_path, postgres_url) as (one, other):
        await one.send("opening", receiver.url)
        await other.send("opening too", receiver.url)
        await other.at_rest()
        receiver.may_answer.clear()
        for number in range(2 * ORIGIN_CONCURRENCY):
            await one.send(f"i{number}", receiver.url)
        await receiver.arrived.reaches(2 + ORIGIN_CONCURRENCY)

        one.signal(signal.SIGTERM)
        # What waits behind its attempts is given back, and the other has slots for it.
        await receiver.arrived.reaches(2 + 2 * ORIGIN_CONCURRENCY)
        receiver.may_answer.set()
        assert 0 == await one.ended()
        await other.at_rest()

    assert {1} == {len(calls) for calls in receiver.calls().values()}
    assert 2 + 2 * ORIGIN_CONCURRENCY == len(receiver.calls())


@pytest.mark.slow
async def test_every_invoice_arrives_though_each_replica_is_killed(tmp_path, postgres_url):
    """Whoever dies, what was accepted arrives; only what was in flight then arrives again."""
    async with (
        receiving() as receiver,
        Replica(tmp_path, postgres_url) as one,
        Replica(tmp_path, postgres_url) as other,
    ):
        await asyncio.gather(*(replica.logged("service.started") for replica in (one, other)))
        async with traffic((one, other), receiver) as going_on:
            for replica in (one, other):
                await going_on.accepts(100)
                # More than one of them alone could have in flight: both have some.
                receiver.may_answer.clear()
                await receiver.arrived.reaches(len(receiver.arrived) + ORIGIN_CONCURRENCY + 4)
                await replica.kill()
                receiver.may_answer.set()
                await going_on.accepts(50)
                await replica.start()
                await replica.logged("service.started")
            await going_on.accepts(50)
        await one.at_rest()
        deliveries = await one.deliveries()
        stories = {
            id_: await one.get(f"/deliveries/{delivery['id']}")
            for id_, delivery in deliveries.items()
            if delivery["attempt_count"] > 1
        }

    calls = receiver.calls()
    assert set(going_on.accepted) <= set(calls)
    # The same event is the same id and the same bytes, however often it arrived.
    assert {1} == {len(set(events)) for events in calls.values()}
    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    assert all(len(calls[id_]) <= one["attempt_count"] for id_, one in deliveries.items())
    lost_until = [
        datetime.fromisoformat(attempt["started_at"])
        for story in stories.values()
        for attempt in story["attempts"]
        if "lost" == attempt["outcome"]
    ]
    # A lease that ran out was held by whoever was killed, at that instant.
    assert 2 <= len(lost_until)
    kills = (one.killed_at, other.killed_at)
    assert all(any(at - LEASE <= kill <= at for kill in kills) for at in lost_until)
    assert {"lost", "delivered"} >= {
        attempt["outcome"] for story in stories.values() for attempt in story["attempts"]
    }
