import asyncio
import gzip
import inspect
import socket
import ssl
import struct
import time
import tracemalloc
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trustme
from aiohttp import client_exceptions

from service.delivery.connection import ANSWER_LIMIT, WIRE_LIMIT, verified_tls
from service.delivery.egress import EgressPolicy
from service.delivery.failures import FAILURES, NoAnswer
from service.delivery.resolver import Resolver
from service.delivery.sender import Answer, OutgoingRequest, Sender
from service.development import DEV_NETWORKS
from service.domain.outcomes import AttemptOutcome
from service.storage.transmissions import headers_in

DEADLINE_SECONDS = 0.3
"""For exchanges that end at the deadline."""

DRIP_SECONDS = 0.01
PATIENCE_SECONDS = 30
"""For all others: they end much earlier, unless the machine is busy."""

DEV = EgressPolicy(DEV_NETWORKS)
STRICT = EgressPolicy()
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"ok": true}'
OK_ANSWER = Answer(200, None, b'{"ok": true}', False)
NEUTRAL = "no connection to the receiver could be made"
NOT_CONNECTED = NoAnswer(AttemptOutcome.UNREACHABLE, NEUTRAL, is_connected=False)
BLOCKED = NoAnswer(AttemptOutcome.BLOCKED, NEUTRAL, is_connected=False)
NAME_DENIED = replace(NOT_CONNECTED, is_denied=True)
TIMEOUT = NoAnswer(AttemptOutcome.TIMEOUT, "there was no complete answer within 0.3 s")
LOST = "the connection was lost before the answer was complete"


def request_to(port, *, path="/", scheme="http", host="127.0.0.1"):
    """Make the request that most tests send."""
    headers = {"Content-Type": "application/json", "User-Agent": "invoices/1"}
    return OutgoingRequest(f"{scheme}://{host}:{port}{path}", "POST", headers, b'{"paid": true}')


@asynccontextmanager
async def receiving(behaviour, tls=None):
    """Serve *behaviour*, which gets a reader and a writer for each connection, on a port."""
    connections = set()

    async def serve(reader, writer):
        connections.add(asyncio.current_task())
        try:
            await behaviour(reader, writer)
        except OSError:
            pass  # The sender may close the connection.
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


async def request_read(reader):
    """Read one request; returns all of its bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(len(b'{"paid": true}'))


async def until_closed(reader):
    """Wait until the sender closes the connection."""
    while await reader.read(65536):
        pass


def saying(*parts, then=until_closed):
    """Make a behaviour that reads a request and sends *parts*."""

    async def behaviour(reader, writer):
        await request_read(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
        await then(reader)

    return behaviour


async def at_once(reader):
    """Close at once."""


def repeating(head, part):
    """Make a behaviour that sends *head*, and then *part* without end."""

    async def behaviour(reader, writer):
        await request_read(reader)
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()

    return behaviour


async def exchange(behaviour, *, timeout_seconds=PATIENCE_SECONDS):
    """Send one request to *behaviour*; returns the result."""
    async with (
        receiving(behaviour) as port,
        Sender(DEV, timeout_seconds=timeout_seconds) as sender,
    ):
        return await sender.send(request_to(port))


# Requests


def test_the_request_arrives_as_it_was_made(run):
    """The path is sent byte for byte, and only the headers of the request are sent."""
    arrived = []

    async def behaviour(reader, writer):
        arrived.append(await request_read(reader))
        writer.write(OK)
        await until_closed(reader)

    async def sent():
        async with receiving(behaviour) as port, Sender(DEV, timeout_seconds=5) as sender:
            return port, await sender.send(request_to(port, path="/a%2Fb/%7Ec/../d?x=%41&y=a+b"))

    port, answer = run(sent())

    assert OK_ANSWER == answer
    head, body = arrived[0].split(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert "POST /a%2Fb/%7Ec/../d?x=%41&y=a+b HTTP/1.1" == first
    assert {
        f"Host: 127.0.0.1:{port}",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Content-Type: application/json",
        "User-Agent: invoices/1",
        "Content-Length: 14",
    } == set(headers)
    assert b'{"paid": true}' == body


def test_connections_are_kept_and_cookies_are_not(run):
    """The next request uses the same connection, and sends no cookie of the last answer."""
    connections, arrived = [], []

    async def behaviour(reader, writer):
        connections.append(writer)
        while True:
            arrived.append(await request_read(reader))
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"))

    async def sent():
        async with receiving(behaviour) as port, Sender(DEV, timeout_seconds=5) as sender:
            return [await sender.send(request_to(port)) for _ in range(3)]

    assert [OK_ANSWER] * 3 == run(sent())
    assert (1, 3) == (len(connections), len(arrived))
    assert not any(b"cookie" in request.lower() for request in arrived)


def test_a_proxy_of_the_environment_is_not_used(run, monkeypatch):
    """Proxy variables of the environment are ignored."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert OK_ANSWER == run(exchange(saying(OK)))


# Answers


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(204, None, b"", False)),
        (
            b"HTTP/1.1 503 Busy\r\nRetry-After: soon\r\nContent-Length: 4\r\n\r\nwait",
            Answer(503, "soon", b"wait", False),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n",
            Answer(200, None, b"ok!", False),
        ),
        (b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", Answer(599, None, b"", False)),
        (b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" * 3 + OK, OK_ANSWER),
    ],
    ids=["empty", "retry-after", "chunked", "599", "interim"],
)
def test_answers_are_returned_unchanged(run, answer, expected):
    """Status, Retry-After and body of an answer are returned without interpretation."""
    assert expected == run(exchange(saying(answer)))


def test_a_body_may_end_with_the_connection(run):
    """Without a length, the body ends with the connection."""
    answer = b'HTTP/1.0 200 OK\r\n\r\n{"ok": true}'

    assert OK_ANSWER == run(exchange(saying(answer, then=at_once)))


def test_redirects_are_answers_and_not_followed(run):
    """A redirect is returned as an answer, and its target is not called."""
    visited = []

    async def elsewhere(reader, writer):
        visited.append(writer)

    async def redirected():
        async with receiving(elsewhere) as port:
            location = f"Location: http://127.0.0.1:{port}/\r\n".encode()
            answer = b"HTTP/1.1 307 Go\r\n" + location + b"Content-Length: 0\r\n\r\n"
            return await exchange(saying(answer))

    answer = run(redirected())

    assert (307, b"") == (answer.status_code, answer.body)
    assert answer.location.startswith("http://127.0.0.1:")
    assert [] == visited


def test_compressed_bodies_are_not_decoded(run):
    """A compressed body is returned as it was sent."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)

    assert Answer(200, None, bomb, False, content_encoding="gzip") == run(
        exchange(saying(head + bomb))
    )


@pytest.mark.parametrize(("excess", "is_truncated"), [(0, False), (1, True)])
def test_bodies_are_read_up_to_the_limit(run, excess, is_truncated):
    """A body of exactly the limit is complete; a longer one is truncated and marked."""
    size = ANSWER_LIMIT + excess
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    answer = run(exchange(saying(head + b"x" * size), timeout_seconds=5))

    assert Answer(200, None, b"x" * ANSWER_LIMIT, is_truncated) == answer


# Faulty receivers


@pytest.mark.parametrize("status", [b"000", b"099", b"101", b"600", b"999"])
def test_invalid_statuses_are_malformed(run, status):
    """A final status outside of 200 to 599 is malformed."""
    answer = run(exchange(saying(b"HTTP/1.1 " + status + b" X\r\nContent-Length: 0\r\n\r\n")))

    expected = f"the status {status.decode()} is not one of 200 to 599"
    assert NoAnswer(AttemptOutcome.MALFORMED, expected) == answer


@pytest.mark.parametrize(
    ("behaviour", "status_code"),
    [
        (saying(), None),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Le"), None),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), 200),
        (saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), 200),
        (saying(b'HTTP/1.1 200 OK\r\n\r\n{"ok": true}'), 200),
        (saying(b"HTTP/1.1 100 Continue\r\n\r\n"), None),
    ],
    ids=["silent", "half a head", "half a body", "endless chunks", "no length", "only interim"],
)
def test_incomplete_answers_time_out(run, behaviour, status_code):
    """An answer that is not complete at the deadline is a timeout."""
    answer = run(exchange(behaviour, timeout_seconds=DEADLINE_SECONDS))

    assert replace(TIMEOUT, status_code=status_code) == answer


@pytest.mark.parametrize("then", [until_closed, at_once], ids=["hangs", "closes"])
@pytest.mark.parametrize("status_code", [410, 429, 503])
def test_a_refusal_counts_without_the_end_of_its_body(run, status_code, then):
    """The status and the Retry-After of a refusal count although its body is incomplete."""
    head = f"HTTP/1.1 {status_code} X\r\nRetry-After: 8\r\nContent-Length: 100\r\n\r\nxx"

    answer = run(exchange(saying(head.encode(), then=then), timeout_seconds=DEADLINE_SECONDS))

    assert Answer(status_code, "8", b"xx", False) == answer


def test_slow_answers_do_not_move_the_deadline(run):
    """A receiver that sends single bytes slowly gets no more time than a silent one."""
    drips = []

    async def behaviour(reader, writer):
        await request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        loop = asyncio.get_running_loop()

        def drip():
            if not writer.transport.is_closing():
                writer.write(b"x")
                drips.append(b"x")
                loop.call_later(DRIP_SECONDS, drip)

        drip()
        await until_closed(reader)

    answer = run(exchange(behaviour, timeout_seconds=DEADLINE_SECONDS))

    assert replace(TIMEOUT, status_code=200) == answer
    # Counted, since this process may get no processor for any time.
    assert 1 < len(drips) < 3 * DEADLINE_SECONDS / DRIP_SECONDS


def test_a_connection_that_is_not_accepted_times_out(run):
    """If the host does not accept the connection, the attempt ends at the deadline."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        async def sent():
            async with Sender(DEV, timeout_seconds=DEADLINE_SECONDS) as sender:
                return await sender.send(request_to(full.getsockname()[1]))

        assert replace(TIMEOUT, is_connected=False) == run(sent())


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x01 what is this\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot hexadecimal\r\n",
    ],
    ids=[
        *("TLS", "SSH", "four digits", "negative length", "two lengths", "no colon"),
        *("giant header", "many headers", "chunk size"),
    ],
)
def test_garbage_is_malformed(run, answer):
    """An answer that is not HTTP is malformed, with a detail of one printable line."""
    given = run(exchange(saying(answer)))

    assert AttemptOutcome.MALFORMED == given.outcome
    assert given.detail.isprintable()
    assert "not valid HTTP" in given.detail
    assert len(given.detail) < 300


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
    ],
)
def test_an_interrupted_body_is_malformed(run, answer):
    """An answer whose connection ends in the body is malformed, even if the part is valid."""
    given = run(exchange(saying(answer, then=at_once)))

    assert AttemptOutcome.MALFORMED == given.outcome
    assert given.detail.startswith("the body of the answer is incomplete")


def test_interim_answers_without_end_are_malformed(run):
    """Too many interim answers end the attempt, and the detail names the reason."""
    answer = run(exchange(saying(b"HTTP/1.1 102 Wait\r\n\r\n" * 50)))

    assert AttemptOutcome.MALFORMED == answer.outcome
    assert "more than 64 KiB or 16 interim answers" in answer.detail


def test_closing_without_an_answer_is_unreachable(run):
    """A receiver that closes the connection without an answer is unreachable."""
    closing = saying(then=at_once)

    assert NoAnswer(AttemptOutcome.UNREACHABLE, LOST) == run(exchange(closing))


def test_a_reset_is_unreachable_and_the_request_is_not_repeated(run):
    """A reset of the connection makes the receiver unreachable, and the request is sent once."""
    arrived = []

    async def behaviour(reader, writer):
        arrived.append(await request_read(reader))
        no_lingering = struct.pack("ii", 1, 0)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)

    assert NoAnswer(AttemptOutcome.UNREACHABLE, LOST) == run(exchange(behaviour))
    assert 1 == len(arrived)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 65536),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 9999),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
    "reason": (b"HTTP/1.1 200 ", b"y" * 65536),
    "interim": (b"", b"HTTP/1.1 102 Wait\r\n\r\n" * 3000),
    "blank lines": (b"", b"\r\n" * 32768),
    "chunks": (CHUNKED, b"1\r\nx\r\n" * 9999),
    "chunk extension": (CHUNKED + b"1;", b"y" * 65536),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 9999),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_floods_are_cut_off_at_once(run, flood):
    """An endless answer ends the attempt long before the deadline."""
    answer = run(exchange(repeating(*flood), timeout_seconds=30))

    if isinstance(answer, Answer):
        assert (ANSWER_LIMIT, True) == (len(answer.body), answer.is_truncated)
    else:
        assert AttemptOutcome.MALFORMED == answer.outcome


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_floods_use_little_memory(flood):
    """An endless answer is not kept in memory."""

    def used_bytes():
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        asyncio.run(exchange(repeating(*flood), timeout_seconds=30))
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        used_bytes()
        # Threads of the test runner are traced too: what is ours is used every time.
        used = min(used_bytes() for _ in range(3))
    finally:
        tracemalloc.stop()

    # The memory of the receiver and one read of interim answers count too.
    assert used < 1_500_000


# Kept connections


def test_a_kept_connection_with_an_unexpected_answer_is_not_used_again(run):
    """A second answer to one request is not used as the answer to the next request."""
    connections = []
    is_answered, has_spoken = asyncio.Event(), asyncio.Event()

    async def behaviour(reader, writer):
        connections.append(writer)
        await request_read(reader)
        writer.write(OK)
        await is_answered.wait()
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        has_spoken.set()
        await until_closed(reader)

    async def sent():
        async with (
            receiving(saying(OK)) as another,
            receiving(behaviour) as port,
            Sender(DEV, timeout_seconds=5) as sender,
        ):
            first = await sender.send(request_to(port))
            is_answered.set()
            await has_spoken.wait()
            # A request on the same loop: after it, the earlier bytes have arrived.
            await sender.send(request_to(another))
            is_answered.clear()
            return first, await sender.send(request_to(port))

    assert (OK_ANSWER, OK_ANSWER) == run(sent())
    assert 2 == len(connections)


def test_a_flood_on_a_kept_connection_is_cut_off(run):
    """An idle connection reads a limited number of bytes, and is closed."""
    is_answered, is_cut_off = asyncio.Event(), asyncio.Event()

    async def behaviour(reader, writer):
        await request_read(reader)
        writer.write(OK)
        await is_answered.wait()
        try:
            while True:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 100)
                await writer.drain()
        except OSError:
            is_cut_off.set()

    async def sent():
        async with receiving(behaviour) as port, Sender(DEV, timeout_seconds=30) as sender:
            answer = await sender.send(request_to(port))
            is_answered.set()
            await asyncio.wait_for(is_cut_off.wait(), 10)
            return answer

    assert OK_ANSWER == run(sent())


def test_many_requests_on_one_connection_are_not_a_flood(run):
    """The limit of bytes is counted for each request, not for the connection."""
    body = b"x" * 50_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + body
    count = 2 * WIRE_LIMIT // len(body)

    async def behaviour(reader, writer):
        while True:
            await request_read(reader)
            writer.write(answer)

    async def sent():
        async with receiving(behaviour) as port, Sender(DEV, timeout_seconds=5) as sender:
            return [await sender.send(request_to(port)) for _ in range(count)]

    assert [Answer(200, None, body, False)] * count == run(sent())


# Targets of connections


def called_by_name(addresses, policy, *, port=None):
    """Call a name that resolves to each of *addresses* in turn."""
    answers = iter(addresses)

    async def sent():
        async with (
            receiving(saying(OK)) as open_port,
            Sender(policy, timeout_seconds=2, lookup=lambda host: next(answers)) as sender,
        ):
            return await sender.send(request_to(port or open_port, host="receiver.example"))

    return sent()


def test_names_are_resolved(run):
    """A name is resolved, and the request goes to its address."""
    assert OK_ANSWER == run(called_by_name([["127.0.0.1"]], DEV))


def test_a_name_that_changes_to_a_denied_address_is_not_called(run):
    """The address of a name is checked at each connection."""
    assert NAME_DENIED == run(called_by_name([["127.0.0.1"], ["93.184.215.14"]], STRICT))


def test_the_socket_factory_denies_without_the_resolver(run, monkeypatch):
    """Even if the resolver permits every address, no connection to a denied one is opened."""
    monkeypatch.setattr(Resolver, "_permitted", lambda self, host, found: found)

    assert NAME_DENIED == run(called_by_name([["127.0.0.1", "::1", "10.0.0.1"]], STRICT))


def test_a_name_is_called_at_its_permitted_address_only(run):
    """A name with a denied and a permitted address is called at the permitted one."""
    assert OK_ANSWER == run(called_by_name([["169.254.169.254", "::1", "127.0.0.1"]], DEV))


def test_a_name_with_a_denied_and_an_unreachable_address_is_unreachable(run):
    """Only a name whose addresses are all denied is blocked."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        answer = run(called_by_name([["169.254.169.254", "127.0.0.1"]], DEV, port=port))

    assert NOT_CONNECTED == answer


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1%25lo]",
        "0x7f.1",
        "10.0.0.1",
    ],
)
def test_denied_addresses_are_blocked_in_every_spelling(run, host):
    """No connection is opened to a denied address in any spelling."""
    reached = []

    async def behaviour(reader, writer):
        reached.append(writer)

    async def sent():
        async with receiving(behaviour) as port, Sender(STRICT, timeout_seconds=2) as sender:
            return await sender.send(request_to(port, host=host))

    assert BLOCKED == run(sent())
    assert [] == reached


def test_a_denied_name_is_told_as_a_name_that_leads_nowhere(run):
    """An account sees no difference between the two; a mark is for the operator alone."""

    def unknown(_host):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def sent(lookup):
        async with Sender(STRICT, timeout_seconds=2, lookup=lookup) as sender:
            return await sender.send(request_to(443, scheme="https", host="db01.example"))

    denied, nowhere = run(sent(lambda _host: ["10.0.0.1"])), run(sent(unknown))

    assert (True, False) == (denied.is_denied, nowhere.is_denied)
    assert NOT_CONNECTED == nowhere == replace(denied, is_denied=False)


def test_failures_to_connect_have_the_same_detail(run):
    """A denied address, an unknown name and a closed port have the same detail."""

    def unknown(host):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def sent(policy, lookup):
        async with Sender(policy, timeout_seconds=2, lookup=lookup) as sender:
            return await sender.send(request_to(1, host="receiver.example"))

    answers = [
        run(sent(STRICT, lambda host: ["127.0.0.1"])),
        run(sent(DEV, lambda host: ["127.0.0.1"])),
        run(sent(DEV, lambda host: [])),
        run(sent(DEV, unknown)),
    ]

    assert {"unreachable"} == {answer.outcome for answer in answers}
    assert {NEUTRAL} == {answer.detail for answer in answers}


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "/",
            "http://",
            "http:///x",
            "//h/",
            "tcp://h/",
            "ws://h/",
            "ftp://h/",
            "file:///etc",
        ),
        *("http://./", "http://a..b/", "http://" + "a" * 64 + ".example/", "http://127.1/"),
        *("http://2130706433/", "http://h:99999/", "http://h:x/", "http://[::1/", "http://*/"),
        *("http://a b/", "http://h\0/", "http://h\r\nX: y/", "http://\ud800/", "http://１.2.3.4/"),
    ],
)
def test_invalid_urls_do_not_raise(run, url):
    """An invalid URL gives a failed attempt, and no request is sent."""

    async def sent():
        async with Sender(STRICT, timeout_seconds=2, lookup=lambda host: ["127.0.0.1"]) as sender:
            return await sender.send(OutgoingRequest(url, "POST", {}, b""))

    assert run(sent()).outcome in (AttemptOutcome.UNREACHABLE, AttemptOutcome.BLOCKED)


def test_a_line_break_in_a_header_is_refused(run):
    """A line break in a header value is refused before anything is sent."""

    async def sent():
        async with receiving(saying(OK)) as port, Sender(DEV, timeout_seconds=2) as sender:
            url = f"http://127.0.0.1:{port}/"
            return await sender.send(OutgoingRequest(url, "POST", {"X": "a\r\nY: b"}, b""))

    with pytest.raises(ValueError, match="header injection"):
        run(sent())


# TLS


@pytest.fixture(scope="module")
def authority():
    """A certificate authority that the system does not know."""
    return trustme.CA()


def server_tls(authority, *names, expired=False):
    """Make the TLS context of a server with a certificate for *names*."""
    options = {"not_after": datetime(2020, 1, 1, tzinfo=UTC)} if expired else {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


async def exchange_over_tls(served, trusted):
    """Send one request over TLS to a receiver with the context *served*, trusting *trusted*."""
    async with (
        receiving(saying(OK), tls=served) as port,
        Sender(DEV, timeout_seconds=5, tls=trusted, lookup=lambda host: ["127.0.0.1"]) as sender,
    ):
        return await sender.send(request_to(port, scheme="https", host="receiver.example"))


def trusting(authority):
    """Make the TLS context of the sender, with *authority* in addition to those of the system."""
    context = verified_tls()
    authority.configure_trust(context)
    return context


def test_verified_receivers_are_called_over_tls(run, authority):
    """A certificate of a known authority for the right name is accepted."""
    served = server_tls(authority, "receiver.example")

    assert OK_ANSWER == run(exchange_over_tls(served, trusting(authority)))


def test_unknown_authorities_are_not_trusted(run, authority):
    """A self-signed certificate is refused, and the detail names the reason."""
    answer = run(exchange_over_tls(server_tls(authority, "receiver.example"), verified_tls()))

    assert AttemptOutcome.UNREACHABLE == answer.outcome
    assert answer.detail.startswith("the TLS certificate was not accepted: ")
    assert "issuer" in answer.detail


def test_certificates_of_other_names_are_not_accepted(run, authority):
    """A certificate for another name is refused, and the detail has the expected name."""
    answer = run(exchange_over_tls(server_tls(authority, "other.example"), trusting(authority)))

    assert AttemptOutcome.UNREACHABLE == answer.outcome
    assert "not valid for 'receiver.example'" in answer.detail


def test_expired_certificates_are_not_accepted(run, authority):
    """An expired certificate is refused, and the detail says so."""
    served = server_tls(authority, "receiver.example", expired=True)

    answer = run(exchange_over_tls(served, trusting(authority)))

    assert "the TLS certificate was not accepted: certificate has expired" == answer.detail


def test_old_tls_is_not_supported():
    """TLS older than 1.2 is refused."""
    assert ssl.TLSVersion.TLSv1_2 == verified_tls().minimum_version


def test_plain_http_on_a_tls_port_is_named(run):
    """The detail distinguishes a port without TLS from a wrong certificate."""

    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await until_closed(reader)

    async def sent():
        async with receiving(plain) as port, Sender(DEV, timeout_seconds=5) as sender:
            return await sender.send(request_to(port, scheme="https"))

    answer = run(sent())

    assert AttemptOutcome.UNREACHABLE == answer.outcome
    assert answer.detail.startswith("the TLS handshake failed: ")


def test_a_silent_handshake_ends_at_the_deadline(run):
    """If a port does not answer the TLS handshake, the attempt ends at the deadline."""

    async def silent(reader, writer):
        await until_closed(reader)

    async def sent():
        async with (
            receiving(silent) as port,
            Sender(DEV, timeout_seconds=DEADLINE_SECONDS) as sender,
        ):
            return await sender.send(request_to(port, scheme="https"))

    assert replace(TIMEOUT, is_connected=False) == run(sent())


# The sender itself


def test_cancelling_the_caller_cancels_the_request(run):
    """The cancellation of an attempt cancels its request, and raises CancelledError."""

    async def cancelled():
        arrived = asyncio.Event()

        async def behaviour(reader, writer):
            await request_read(reader)
            arrived.set()
            await until_closed(reader)

        async with receiving(behaviour) as port, Sender(DEV, timeout_seconds=30) as sender:
            sending = asyncio.ensure_future(sender.send(request_to(port)))
            await arrived.wait()
            sending.cancel()
            await asyncio.wait([sending])
            return sending.cancelled()

    assert run(cancelled())


def test_a_closed_sender_gives_no_answer(run):
    """A closed sender sends no request and raises no error."""

    async def sent():
        async with Sender(DEV, timeout_seconds=2) as sender:
            pass
        return await sender.send(request_to(1))

    assert AttemptOutcome.UNREACHABLE == run(sent()).outcome


@pytest.mark.parametrize("defect", [ZeroDivisionError, ValueError, AssertionError])
def test_a_defect_is_raised(run, defect):
    """A defect of the service is raised, and is not returned as a failed request."""

    def defective(host):
        raise defect

    async def sent():
        async with Sender(DEV, timeout_seconds=2, lookup=defective) as sender:
            return await sender.send(request_to(1, host="receiver.example"))

    with pytest.raises(defect):
        run(sent())


def test_every_error_of_aiohttp_has_an_entry():
    """Every error class of aiohttp has an outcome, new classes of a later release included."""
    errors = {
        thing
        for thing in vars(client_exceptions).values()
        if inspect.isclass(thing)
        and issubclass(thing, Exception)
        and thing.__module__ == client_exceptions.__name__
    }

    assert len(errors) > 25
    assert set() == errors - FAILURES.keys()


def test_details_have_no_unfilled_placeholders():
    """Every detail of the table can be formatted."""
    details = [words.format(reason="so", seconds=15.0) for _, words in FAILURES.values()]

    assert all(detail and "{" not in detail for detail in details)
    assert "there was no complete answer within 15 s" in details


# What is told of a request


async def answering_twice(reader, writer):
    """Answer two requests on one connection."""
    for _ in range(2):
        await request_read(reader)
        writer.write(OK)


def sent_twice(run, served=None, trusted=None):
    """The answers to two requests on one connection, over TLS if *served* is its context."""

    async def sent():
        async with (
            receiving(answering_twice, served) as port,
            Sender(DEV, timeout_seconds=5, tls=trusted) as sender,
        ):
            scheme = "https" if served else "http"
            request = request_to(port, host="localhost", scheme=scheme)
            return [await sender.send(request) for _ in range(2)]

    return run(sent())


def test_the_address_and_the_phases_of_a_request_are_told(run):
    """A new connection has a name, a connect and no TLS; a kept one has none of the three."""
    first, second = sent_twice(run)

    assert {first.address, second.address} <= {"127.0.0.1", "::1"}
    name, connect, tls, *_ = first.phases
    assert None is tls
    assert name >= 0
    assert connect >= 0
    assert (None, None, None) == second.phases[:3]
    assert all(part >= 0 for one in (first, second) for part in one.phases[3:])


def test_the_phases_are_parts_of_the_whole(run):
    """A slow answer is waited for; the other phases do not have that time."""

    async def slow(reader, writer):
        await request_read(reader)
        await asyncio.sleep(0.2)
        writer.write(OK)

    started = time.monotonic()
    _, connect, _, send, wait = run(exchange(slow)).phases
    seconds = time.monotonic() - started

    assert wait >= 1900
    # Nothing of it is in another phase too.
    assert connect + send + wait <= 10_000 * seconds


def test_tls_is_a_phase(run):
    """Over TLS, the handshake has a time of its own."""
    authority = trustme.CA()
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(served)

    first, second = sent_twice(run, served, trusting(authority))

    assert first.phases[2] > 0
    assert None is second.phases[2]


def test_a_timeout_tells_how_long_was_waited(run):
    """An attempt that ended at the deadline was connected, sent, and waited for."""

    async def silent(reader, writer):
        await reader.read()

    missing = run(exchange(silent, timeout_seconds=DEADLINE_SECONDS))

    assert TIMEOUT == missing
    assert "127.0.0.1" == missing.address
    assert missing.phases[4] >= 2500


@pytest.mark.parametrize("policy", [DEV, STRICT])
def test_nothing_is_told_without_a_connection(run, policy):
    """Neither a closed port nor a denied address gives an address or a duration."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

        async def sent():
            async with Sender(policy, timeout_seconds=5) as sender:
                return await sender.send(request_to(port, host="localhost"))

        missing = run(sent())

    assert (None, None, None) == (missing.address, missing.phases, missing.head)


@pytest.mark.parametrize(
    ("expected", "head"),
    [
        ({"X": "a b"}, b"X: a b\r\n"),
        ({"X": "a, b"}, b"X: a\r\nX: b\r\n"),
        ({"X": "\N{REPLACEMENT CHARACTER}é"}, b"X: \xff\xc3\xa9\r\n"),
        ({"X": "a\N{REPLACEMENT CHARACTER}b"}, b"X: a\tb\r\n"),
        ({f"X-{n}": "a" for n in range(31)}, b"".join(b"X-%d: a\r\n" % n for n in range(40))),
        ({}, b"X: " + b"a" * 5000 + b"\r\n"),
        ({}, b"X: " + "\N{SNOWMAN}".encode() * 1500 + b"\r\n"),
    ],
    ids=["one", "repeated", "no UTF-8", "tab", "many", "long", "cut"],
)
def test_the_headers_of_an_answer_are_told_within_bounds(run, expected, head):
    """The first 32 headers and 4 KiB are told, as text that can be stored and shown."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n" + head + b'\r\n{"ok": true}'
    headers = headers_in(run(exchange(saying(answer))).head)

    assert "12" == headers.pop("Content-Length")
    assert expected == headers
