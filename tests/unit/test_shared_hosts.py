"""
Who waits for whom, in virtual time: the real dispatcher, and receivers that share hosts.

No test here takes the time that it tells of: an event loop with virtual time jumps from one instant
to the next. What is measured is only who waits for what, not what the work costs.
"""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from service.delivery.failures import NoAnswer
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.domain.outcomes import AttemptOutcome
from tests.fakes import OK, WatchedMemory, WatchedStore, answer, assembled
from tests.rows import ONE, add_delivery
from tests.simulation.clocks import SkewedClock, true_now
from tests.simulation.loop import VirtualLoop

DEADLINE_SECONDS = 15.0
AT_ONCE_SECONDS = 0.25
NAMES = [f"/{number:03}" for number in range(1000)]


class Hosts:
    """All receivers: implements `service.delivery.attempt.Sends`; most answer at once."""

    def __init__(self):
        self.behaviour = {}
        self.arrived = {}
        self.has_got_one = asyncio.Event()

    async def send(self, request):
        """Answer as the receiver does, by the host and the first part of the path."""
        self.arrived.setdefault(request.headers["webhook-id"], asyncio.get_running_loop().time())
        self.has_got_one.set()
        base = request.url.partition("/invoices/")[0]
        match self.behaviour.get(base):
            case "hangs":
                await asyncio.sleep(DEADLINE_SECONDS)
                return NoAnswer(AttemptOutcome.TIMEOUT, "no answer")
            case "fails":
                await asyncio.sleep(0.02)
                return answer(500)
            case "holds":
                await asyncio.sleep(0.02)
                return answer(503, retry_after="86400")
            case "is away":
                await asyncio.sleep(0.02)
                return NoAnswer(AttemptOutcome.UNREACHABLE, "none", is_connected=False)
        await asyncio.sleep(0.02)
        return OK


class Bench:
    """A running dispatcher, its receivers, and the time until callbacks arrive."""

    def __init__(self, store, hosts):
        self._store = store
        self._hosts = hosts
        self._count = 0

    def let(self, behaviour, paths, origin=ONE):
        """From now on, the receivers at *paths* behave in that way."""
        for path in paths:
            self._hosts.behaviour[origin + path] = behaviour

    async def add(self, path="", **receiver):
        """Add a delivery; returns its id."""
        self._count += 1
        await add_delivery(self._store, f"{self._count}", path=path, at=true_now(), **receiver)
        return f"msg_{self._count}"

    async def seconds_until_arrival(self, path="", *, at_most=60.0, **receiver):
        """How long a lone callback takes until it arrives."""
        begun_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(at_most):
            return await self.arrival(await self.add(path, **receiver)) - begun_at

    async def arrival(self, id_):
        """Wait for the first request for a delivery; returns its instant."""
        while id_ not in self._hosts.arrived:
            self._hosts.has_got_one.clear()
            await self._hosts.has_got_one.wait()
        return self._hosts.arrived[id_]


@asynccontextmanager
async def dispatching(**settings):
    """A dispatcher that runs inside the block, with the settings of the service."""
    hosts, store = Hosts(), WatchedStore(WatchedMemory())
    service = assembled(
        store,
        receivers=hosts,
        clock=SkewedClock(timedelta(0)),
        callback_timeout=timedelta(seconds=DEADLINE_SECONDS),
        **settings,
    )
    # Accounts without secrets of their own sign with the one of development mode.
    service.dispatcher._attempts.signer_of = signer_of_development
    running = asyncio.create_task(service.dispatcher.run())
    try:
        yield Bench(store, hosts)
    finally:
        service.dispatcher.drain()
        await running


async def signer_of_development(_account_id):
    """The signer of the development account."""
    return Signer((DEV_SECRET,))


@pytest.fixture
def run():
    """Runs a coroutine in virtual time."""
    loop = VirtualLoop()
    yield loop.run_until_complete
    loop.close()


def test_those_that_fail_do_not_delay_those_that_answer(run):
    """Of a thousand receivers on one host 990 fail or hang: the others are called at once."""

    async def lone_callbacks():
        async with dispatching() as bench:
            healthy = NAMES[:10]
            for path in healthy:
                await bench.seconds_until_arrival(path)
            bench.let("fails", NAMES[10:500])
            bench.let("hangs", NAMES[500:])
            for path in NAMES[10:] * 2:
                await bench.add(path)
            seconds = []
            for number in range(100):
                seconds.append(await bench.seconds_until_arrival(healthy[number % 10]))
                await asyncio.sleep(0.3)
            return seconds

    assert max(run(lone_callbacks())) <= AT_ONCE_SECONDS


def test_one_that_has_never_answered_waits_for_one_deadline_at_most(run):
    """A new receiver gets its first attempt although hundreds of its neighbours hang."""

    async def lone_callback():
        async with dispatching() as bench:
            bench.let("hangs", NAMES)
            for path in NAMES[:300] * 2:
                await bench.add(path)
            await asyncio.sleep(40)
            return await bench.seconds_until_arrival("/new")

    assert run(lone_callback()) <= DEADLINE_SECONDS


def test_a_receiver_that_answers_500_does_not_delay_its_neighbour(run):
    """Three hundred deliveries that fail cost the neighbour, even a new one, no moment."""

    async def lone_callback():
        async with dispatching() as bench:
            bench.let("fails", ["/bad"])
            for _ in range(300):
                await bench.add("/bad")
            await asyncio.sleep(30)
            return await bench.seconds_until_arrival("/good")

    assert run(lone_callback()) <= AT_ONCE_SECONDS


def test_a_hold_of_one_account_is_not_that_of_another(run):
    """After Retry-After to one account, another account is called at once, on the same path too."""

    async def lone_callbacks():
        async with dispatching() as bench:
            bench.let("holds", ["/a"])
            await bench.seconds_until_arrival("/a", account_id="a")
            await asyncio.sleep(1)
            bench.let(None, ["/a"])
            return [
                await bench.seconds_until_arrival(path, account_id="c") for path in ("/a", "/c")
            ]

    assert max(run(lone_callbacks())) <= AT_ONCE_SECONDS


def test_three_that_hang_do_not_delay_another_account(run):
    """A slot is free for the next one, whatever hangs on its host."""

    async def lone_callback():
        async with dispatching() as bench:
            bench.let("hangs", ["/a"])
            for _ in range(3):
                await bench.add("/a", account_id="a")
            return await bench.seconds_until_arrival("/c", account_id="c")

    assert run(lone_callback()) <= AT_ONCE_SECONDS


def test_an_account_with_a_thousand_hanging_hosts_does_not_delay_another(run):
    """One account's receivers that hang have an eighth of the slots, on however many hosts."""

    async def lone_callbacks():
        async with dispatching() as bench:
            await bench.seconds_until_arrival("/known", account_id="other")
            for path in NAMES:
                origin = f"https://{path[1:]}.example:443"
                bench.let("hangs", [""], origin)
                await bench.add(origin=origin)
            known = [
                await bench.seconds_until_arrival("/known", account_id="other") for _ in range(50)
            ]
            new = await bench.seconds_until_arrival("/new", account_id="other")
            return [*known, new]

    assert max(run(lone_callbacks())) <= AT_ONCE_SECONDS


def test_a_large_backlog_of_one_account_does_not_delay_another(run):
    """Thousands of deliveries to receivers that answer leave slots and leases to others."""

    async def lone_callbacks():
        async with dispatching(callback_concurrency=32) as bench:
            for number in range(600):
                await bench.add(NAMES[number % 40])
            return [await bench.seconds_until_arrival("/b", account_id="b") for _ in range(5)]

    assert max(run(lone_callbacks())) <= AT_ONCE_SECONDS


def test_an_account_begins_attempts_at_its_rate(run):
    """What exceeds the rate of an account waits; another account does not."""

    async def arrivals():
        async with dispatching(account_attempt_rate=10) as bench:
            await bench.seconds_until_arrival("/a")
            ids = [await bench.add("/a") for _ in range(40)]
            other = await bench.seconds_until_arrival("/b", account_id="b")
            begun_at = min([await bench.arrival(id_) for id_ in ids])
            ended_at = max([await bench.arrival(id_) for id_ in ids])
            return other, ended_at - begun_at

    other, seconds = run(arrivals())

    assert other <= AT_ONCE_SECONDS
    assert 2.5 <= seconds <= 4


def test_a_host_that_comes_back_is_called_again_soon(run):
    """While no connection can be made, one attempt at a time is made, at most ten seconds apart."""

    async def attempts_and_return():
        async with dispatching() as bench:
            paths = NAMES[:20]
            for path in paths:
                await bench.seconds_until_arrival(path)
            await asyncio.sleep(1)
            bench.let("is away", paths)
            await bench.seconds_until_arrival(paths[0])
            await asyncio.sleep(1)
            ids = [await bench.add(path) for path in paths]
            await asyncio.sleep(60)
            attempted = sum(id_ in bench._hosts.arrived for id_ in ids)
            bench.let(None, paths)
            begun_at = asyncio.get_running_loop().time()
            for id_ in ids:
                await bench.arrival(id_)
            return attempted, asyncio.get_running_loop().time() - begun_at

    attempted, seconds = run(attempts_and_return())

    assert attempted < 20
    assert seconds <= 10.5


def test_the_host_of_a_url_is_its_origin():
    """The receivers of these tests are told apart as those of the service are."""
    assert ("https", "one.example:443") == urlsplit(f"{ONE}/a")[:2]
