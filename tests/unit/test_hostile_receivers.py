"""One attempt with each hostile receiver ends in time and within limits of cost."""

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
"""For attempts that end at the deadline."""

PATIENCE_SECONDS = 10
"""All others must end because of what arrives, long before this deadline, on a slow machine too."""

GRACE_SECONDS = 0.5
STALL_SECONDS = 0.5
"""The longest time that one piece of work may block the loop."""

MEMORY_BYTES = 2_000_000
TICK_SECONDS = 0.001


@dataclass(frozen=True)
class HostileReceivers:
    """The hostile receivers in the other process."""

    ports: dict[str, int]
    details: dict[str, str | None]
    tls: object

    def request_to(self, name, port=None):
        """Make a request to the receiver *name*, or to another receiver on *port*."""
        scheme, host = ("https", NAME) if name.startswith("TLS: ") else ("http", "127.0.0.1")
        headers = {"Content-Type": "application/json"}
        url = f"{scheme}://{host}:{port or self.ports[name]}/x"
        return OutgoingRequest(url, "POST", headers, b'{"paid": true}')

    def sender(self, timeout_seconds):
        """Make a sender for which every name resolves to this machine."""
        return Sender(
            DEV, timeout_seconds=timeout_seconds, tls=self.tls, lookup=lambda _: ["127.0.0.1"]
        )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The hostile receivers, in a process of their own that is not measured."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.hostile_receivers", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        announced = json.loads(process.stdout.readline())
        tls = verified_tls()
        tls.load_verify_locations(folder / "authority.pem")
        yield HostileReceivers(announced["ports"], announced["details"], tls)
        process.terminate()


class Stalls:
    """Measures the longest time that the loop was blocked, in CPU time."""

    def __init__(self):
        self.longest_seconds = 0.0

    @asynccontextmanager
    async def watched(self):
        """Watch the loop during the `with` block."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self):
        while True:
            # CPU time does not count the time in which other programs run.
            before = time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            self.longest_seconds = max(self.longest_seconds, time.thread_time() - before)


def kind_of(answer):
    """The status of an answer, or the outcome of a failure."""
    return answer.status_code if isinstance(answer, Answer) else str(answer.outcome)


@pytest.fixture
def run():
    """Runs a coroutine on the loop that the service runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


def patience(expected):
    """The deadline of an attempt: short where it is what ends the attempt."""
    return DEADLINE_SECONDS if "timeout" in expected else PATIENCE_SECONDS


WITHOUT_END = "refusal without an end"
"""Its status counts at the deadline."""


async def peak_of(hostile, name, deadline_seconds):
    """The memory that one more attempt takes, in bytes."""
    # On a connection of its own: most of these receivers answer one request of a connection.
    async with hostile.sender(deadline_seconds) as sender:
        tracemalloc.start()
        await sender.send(hostile.request_to(name))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak


@pytest.mark.parametrize("name", TABLE)
def test_an_attempt_with_a_hostile_receiver_is_bounded(run, hostile, name):
    """An attempt ends in time with a result, and its memory and CPU time are bounded."""
    expected = TABLE[name][0]
    expected = expected if isinstance(expected, tuple) else (expected,)
    deadline_seconds = DEADLINE_SECONDS if name == WITHOUT_END else patience(expected)
    stalls = Stalls()

    async def sent():
        async with hostile.sender(deadline_seconds) as sender:
            # Code and caches are loaded before the measurement.
            await sender.send(hostile.request_to("TLS: good"))
            before = time.monotonic()
            async with stalls.watched():
                answer = await sender.send(hostile.request_to(name))
            seconds = time.monotonic() - before
            # A second request, since tracing makes everything several times slower; an attempt that
            # ended at the deadline received almost nothing.
            is_silent = kind_of(answer) == "timeout"
        peaks = [] if is_silent else [await peak_of(hostile, name, deadline_seconds)]
        if max(peaks, default=0) >= MEMORY_BYTES:
            # Threads of the test runner are traced too: what is ours is used every time.
            peaks.append(await peak_of(hostile, name, deadline_seconds))
        return answer, seconds, min(peaks, default=0)

    answer, seconds, peak = run(sent())

    assert kind_of(answer) in expected, answer
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
def test_a_tls_failure_has_a_helpful_detail(run, hostile, name):
    """No event is sent to a receiver that cannot be verified, and the detail names the reason."""
    words = hostile.details[name]
    expected = "unreachable"
    if words is None:
        expected = 200
    elif "no complete answer" in words:
        expected = "timeout"

    async def sent():
        async with hostile.sender(patience((expected,))) as sender:
            return await sender.send(hostile.request_to(name))

    answer = run(sent())

    assert expected == kind_of(answer)
    if words is not None:
        assert words in answer.detail


def test_every_kind_of_tls_is_tested(hostile):
    """The list in this module is the list of the hostile receivers."""
    assert set(hostile.details) == set(TLS)


HOSTILE = (
    *list(FLOODING)[:10],
    *("no answer", "gzip bomb", "drip of a body", "byte by byte", "reset without an answer"),
    *("nothing is read", "thousand headers", "half a chunk", "TLS: plain HTTP", "TLS: silence"),
)


@asynccontextmanager
async def healthy_receiver():
    """A receiver in this process that answers at once; returns its port."""
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
async def sending_to(names, sender, hostile):
    """Send requests to each of *names* without pause during the `with` block."""

    async def send_repeatedly(name):
        while True:
            await sender.send(hostile.request_to(name))

    sending = [asyncio.create_task(send_repeatedly(name)) for name in names]
    try:
        yield
    finally:
        for one in sending:
            one.cancel()
        await asyncio.wait(sending)


def test_hostile_receivers_do_not_delay_another_receiver(run, hostile):
    """Beside twenty hostile receivers, requests to another receiver take the usual time."""
    stalls = Stalls()

    async def timed(sender, request):
        before = time.monotonic()
        assert 200 == kind_of(await sender.send(request))
        return time.monotonic() - before

    async def measured():
        async with healthy_receiver() as port, hostile.sender(5) as sender, stalls.watched():
            healthy = hostile.request_to("healthy", port)
            async with sending_to(HOSTILE, sender, hostile):
                return sorted([await timed(sender, healthy) for _ in range(100)])

    latencies = run(measured())

    assert 20 == len(HOSTILE)
    assert latencies[50] < 0.1
    # One tick may contain a part of each flood, and the floods use the cores too.
    assert stalls.longest_seconds < 5 * STALL_SECONDS
