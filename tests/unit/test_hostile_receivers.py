"""A crowd of receivers that misbehave, each in its own way: what one attempt with each costs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import tracemalloc
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from service.delivery.connection import ANSWER_LIMIT, verified_tls
from service.delivery.egress import EgressPolicy
from service.delivery.sender import Answer, OutgoingRequest, Sender
from service.development import DEV_NETWORKS
from tests.hostile_receivers import FLOODING, NAME, NO_TLS, OK, TABLE, request_read

ROOT = Path(__file__).parents[2]
DEV = EgressPolicy(DEV_NETWORKS)
DEADLINE_SECONDS = 0.5
FLOOD_DEADLINE_SECONDS = 10
"""A flood is to end by its size, and long before its time: on a slow machine too."""

GRACE_SECONDS = 0.5
STALL_SECONDS = 0.5
"""What no single piece of work may take; a stall of ours was seconds before there were bounds."""

MEMORY_BYTES = 2_000_000
TICK_SECONDS = 0.001


@dataclass(frozen=True)
class Crowd:
    """The receivers of the other process."""

    ports: dict[str, int]
    details: dict[str, str | None]
    tls: object

    def request_to(self, name, port=None):
        """Make the request for one of them, or for another on *port*."""
        scheme, host = ("https", NAME) if name.startswith("TLS: ") else ("http", "127.0.0.1")
        headers = {"Content-Type": "application/json"}
        url = f"{scheme}://{host}:{port or self.ports[name]}/x"
        return OutgoingRequest(url, "POST", headers, b'{"paid": true}')

    def sender(self, timeout_seconds=DEADLINE_SECONDS):
        """Make a sender that finds them all on this machine."""
        return Sender(
            DEV, timeout_seconds=timeout_seconds, tls=self.tls, lookup=lambda _: ["127.0.0.1"]
        )


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """The receivers, in a process that is not measured."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.hostile_receivers", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        told = json.loads(process.stdout.readline())
        tls = verified_tls()
        tls.load_verify_locations(folder / "authority.pem")
        yield Crowd(told["ports"], told["details"], tls)
        process.terminate()


class Stalls:
    """The longest time that the loop was kept from everything else, in time of the processor."""

    def __init__(self):
        self.longest_seconds = 0.0

    @asynccontextmanager
    async def watched(self):
        """Look at the loop as long as the block lasts."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self):
        while True:
            # A machine that is busy with something else does not count.
            before = time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            self.longest_seconds = max(self.longest_seconds, time.thread_time() - before)


def kind_of(answer):
    """The status of an answer, or the kind of failure."""
    return answer.status_code if isinstance(answer, Answer) else str(answer.outcome)


@pytest.fixture
def run():
    """Runs a coroutine on the loop that the service runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_receiver_costs_one_attempt_and_little_of_it(run, crowd, name):
    """Whatever a receiver does, an attempt ends in time with a value, and takes next to nothing."""
    expected = TABLE[name][0]
    deadline_seconds = FLOOD_DEADLINE_SECONDS if name in FLOODING else DEADLINE_SECONDS
    stalls = Stalls()

    async def sent():
        async with crowd.sender(deadline_seconds) as sender:
            # What is made once, such as code and caches, is not what the receiver costs.
            await sender.send(crowd.request_to("TLS: good"))
            before = time.monotonic()
            async with stalls.watched():
                answer = await sender.send(crowd.request_to(name))
            seconds = time.monotonic() - before
            # Once more, since tracing makes everything several times slower; what ran into the
            # deadline had said next to nothing.
            is_silent = kind_of(answer) == "timeout"
            return answer, seconds, 0 if is_silent else await peak_of(sender, name)

    async def peak_of(sender, name):
        tracemalloc.start()
        await sender.send(crowd.request_to(name))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    answer, seconds, peak = run(sent())

    assert kind_of(answer) in (expected if isinstance(expected, tuple) else (expected,)), answer
    assert seconds < deadline_seconds + GRACE_SECONDS
    assert peak < MEMORY_BYTES
    assert stalls.longest_seconds < STALL_SECONDS
    if isinstance(answer, Answer):
        assert len(answer.body) <= ANSWER_LIMIT
    else:
        assert answer.detail.isprintable()
        assert len(answer.detail) < 300


TLS = (
    *(f"TLS: {name}" for name in NO_TLS),
    *("TLS: good", "TLS: TLS 1.2", "TLS: expired", "TLS: not yet valid", "TLS: another name"),
    *("TLS: a wildcard too wide", "TLS: an address", "TLS: an unknown authority"),
    *("TLS: TLS 1.1", "TLS: asks for a certificate"),
)


@pytest.mark.parametrize("name", TLS)
def test_bad_tls_is_unreachable_and_says_what_to_do(run, crowd, name):
    """No event goes to whom we cannot verify, and the receiver's developer reads why."""

    async def sent():
        async with crowd.sender() as sender:
            return await sender.send(crowd.request_to(name))

    answer = run(sent())

    words = crowd.details[name]
    if words is None:
        assert 200 == kind_of(answer)
    else:
        expected = "timeout" if "no complete answer" in words else "unreachable"
        assert expected == kind_of(answer)
        assert words in answer.detail


def test_every_kind_of_tls_is_tried(crowd):
    """The list of this module is that of the other."""
    assert set(crowd.details) == set(TLS)


HOSTILE = (
    *list(FLOODING)[:10],
    *("nothing at all", "gzip bomb", "drip of a body", "byte by byte", "reset without a word"),
    *("nothing is read", "thousand headers", "half a chunk", "TLS: plain HTTP", "TLS: silence"),
)


@asynccontextmanager
async def receiving_well():
    """A receiver in this process that answers at once; its port."""
    ended = asyncio.Event()

    async def answer(reader, writer):
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await request_read(reader)
                writer.write(OK)
        writer.transport.abort()
        ended.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as served:
        yield served.sockets[0].getsockname()[1]
        await ended.wait()


@asynccontextmanager
async def bothered_by(names, sender, crowd):
    """Send to each of *names* again and again, as long as the block lasts."""

    async def bother(name):
        while True:
            await sender.send(crowd.request_to(name))

    crowding = [asyncio.create_task(bother(name)) for name in names]
    try:
        yield
    finally:
        for one in crowding:
            one.cancel()
        await asyncio.wait(crowding)


def test_a_hostile_crowd_does_not_delay_a_receiver_that_is_well(run, crowd):
    """Beside twenty that flood and dawdle, a request to another receiver is answered as ever."""
    stalls = Stalls()

    async def timed(sender, request):
        before = time.monotonic()
        assert 200 == kind_of(await sender.send(request))
        return time.monotonic() - before

    async def measured():
        async with receiving_well() as port, crowd.sender(5) as sender, stalls.watched():
            well = crowd.request_to("well", port)
            async with bothered_by(HOSTILE, sender, crowd):
                return sorted([await timed(sender, well) for _ in range(100)])

    latencies = run(measured())

    assert 20 == len(HOSTILE)
    assert latencies[50] < 0.1
    # Between two ticks there may be a piece of each flood, and the floods want the cores as well.
    assert stalls.longest_seconds < 5 * STALL_SECONDS
