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
import uvloop
from aiohttp import client_exceptions

from service.delivery.connection import ANSWER_LIMIT, WIRE_LIMIT, verified_tls
from service.delivery.egress import EgressPolicy
from service.delivery.failures import FAILURES, NoAnswer
from service.delivery.resolver import Resolver
from service.delivery.sender import Answer, OutgoingRequest, Sender
from service.development import DEV_NETWORKS
from service.domain.outcomes import AttemptOutcome

DEADLINE_SECONDS = 0.3
DEV = EgressPolicy(DEV_NETWORKS)
STRICT = EgressPolicy()
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"ok": true}'
OK_ANSWER = Answer(200, None, b'{"ok": true}', False)
NEUTRAL = "no connection to the receiver could be made"
NOT_CONNECTED = NoAnswer(AttemptOutcome.UNREACHABLE, NEUTRAL)
BLOCKED = NoAnswer(AttemptOutcome.BLOCKED, NEUTRAL)
TIMEOUT = NoAnswer(AttemptOutcome.TIMEOUT, "there was no complete answer within 0.3 s")
LOST = "the connection was lost before the answer was complete"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine on each of the two loops that the service runs on."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


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
            pass  # The sender hung up, as it may.
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
    """Read one request and give back all of its bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(len(b'{"paid": true}'))


async def hung_up(reader):
    """Wait until the sender closes the connection."""
    while await reader.read(65536):
        pass


def saying(*parts, then=hung_up):
    """Make a behaviour that reads a request and says *parts*."""

    async def behaviour(reader, writer):
        await request_read(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
        await then(reader)

    return behaviour


async def nothing_more(reader):
    """Close at once."""


def repeating(head, part):
    """Make a behaviour that says *head*, and *part* for ever."""

    async def behaviour(reader, writer):
        await request_read(reader)
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()

    return behaviour


async def exchange(behaviour, *, timeout_seconds=DEADLINE_SECONDS):
    """Send one request to *behaviour* and give back what came of it."""
    async with (
        receiving(behaviour) as port,
        Sender(DEV, timeout_seconds=timeout_seconds) as sender,
    ):
        return await sender.send(request_to(port))


# What is sent


def test_the_request_arrives_as_it_was_made(run):
    """The path is sent byte for byte, and nothing identifies the library or invites encodings."""
    arrived = []

    async def behaviour(reader, writer):
        arrived.append(await request_read(reader))
        writer.write(OK)
        await hung_up(reader)

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
    """The next request goes over the same connection, and carries nothing of the last answer."""
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
    """Proxy variables of the operator's shell change nothing: the policy sees every address."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert OK_ANSWER == run(exchange(saying(OK)))


# What is answered


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
def test_answers_come_back_as_they_were_given(run, answer, expected):
    """Status, Retry-After and body are handed on without a judgement."""
    assert expected == run(exchange(saying(answer)))


def test_a_body_may_end_with_the_connection(run):
    """Without a length, the end of the connection is the end of the body."""
    answer = b'HTTP/1.0 200 OK\r\n\r\n{"ok": true}'

    assert OK_ANSWER == run(exchange(saying(answer, then=nothing_more)))


def test_redirects_are_answers_and_not_followed(run):
    """A redirect comes back as what it is, and nobody is called."""
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
    """A gzip bomb stays as small as it was sent."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)

    assert Answer(200, None, bomb, False, content_encoding="gzip") == run(
        exchange(saying(head + bomb))
    )


@pytest.mark.parametrize(("excess", "is_truncated"), [(0, False), (1, True)])
def test_bodies_are_read_up_to_the_limit(run, excess, is_truncated):
    """A body of exactly the limit is whole; one byte more is cut and said to be."""
    size = ANSWER_LIMIT + excess
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    answer = run(exchange(saying(head + b"x" * size), timeout_seconds=5))

    assert Answer(200, None, b"x" * ANSWER_LIMIT, is_truncated) == answer


# Receivers that misbehave


@pytest.mark.parametrize("status", [b"000", b"099", b"101", b"600", b"999"])
def test_statuses_that_are_none_are_malformed(run, status):
    """A final status is one of 200 to 599, whatever the parser lets through."""
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
def test_answers_that_do_not_end_end_at_the_deadline(run, behaviour, status_code):
    """An answer that is not complete in time is none, wherever it stops."""
    assert replace(TIMEOUT, status_code=status_code) == run(exchange(behaviour))


@pytest.mark.parametrize("then", [hung_up, nothing_more], ids=["hangs", "closes"])
@pytest.mark.parametrize("status_code", [410, 429, 503])
def test_a_refusal_counts_without_the_end_of_its_body(run, status_code, then):
    """What a refusal says in its head holds, Retry-After too, although its body never ends."""
    head = f"HTTP/1.1 {status_code} X\r\nRetry-After: 8\r\nContent-Length: 100\r\n\r\nxx"

    answer = run(exchange(saying(head.encode(), then=then)))

    assert Answer(status_code, "8", b"xx", False) == answer


def test_drips_do_not_move_the_deadline(run):
    """A receiver that sends a byte now and then gets no more time than a silent one."""

    async def behaviour(reader, writer):
        await request_read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        loop = asyncio.get_running_loop()

        def drip():
            if not writer.transport.is_closing():
                writer.write(b"x")
                loop.call_later(0.01, drip)

        drip()
        await hung_up(reader)

    started = time.monotonic()

    assert replace(TIMEOUT, status_code=200) == run(exchange(behaviour))
    assert time.monotonic() - started < 3 * DEADLINE_SECONDS


def test_a_connection_that_is_not_taken_ends_at_the_deadline(run):
    """A host that does not even answer the connection attempt costs the deadline and no more."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        async def sent():
            async with Sender(DEV, timeout_seconds=DEADLINE_SECONDS) as sender:
                return await sender.send(request_to(full.getsockname()[1]))

        assert TIMEOUT == run(sent())


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
    """What is not HTTP is named as such, in one printable line."""
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
def test_a_body_that_breaks_off_is_malformed(run, answer):
    """Half an answer is none, even if the half would do."""
    given = run(exchange(saying(answer, then=nothing_more)))

    assert AttemptOutcome.MALFORMED == given.outcome
    assert given.detail.startswith("the body of the answer is incomplete")


def test_interim_answers_without_end_are_malformed(run):
    """A burst of interim answers is cut off although it is short, and the receiver is told why."""
    answer = run(exchange(saying(b"HTTP/1.1 102 Wait\r\n\r\n" * 50)))

    assert AttemptOutcome.MALFORMED == answer.outcome
    assert "more than 64 KiB or 16 interim answers" in answer.detail


def test_closing_without_an_answer_is_unreachable(run):
    """A receiver that hangs up instead of answering was not reached."""
    closing = saying(then=nothing_more)

    assert NoAnswer(AttemptOutcome.UNREACHABLE, LOST) == run(exchange(closing))


def test_a_reset_is_unreachable_and_the_request_is_not_repeated(run):
    """A connection that is reset is lost, and the request was made once."""
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
    """However a receiver goes on and on, it is cut off long before the deadline."""
    answer = run(exchange(repeating(*flood), timeout_seconds=30))

    if isinstance(answer, Answer):
        assert (ANSWER_LIMIT, True) == (len(answer.body), answer.is_truncated)
    else:
        assert AttemptOutcome.MALFORMED == answer.outcome


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_floods_take_little_memory(flood):
    """However a receiver goes on and on, it is not kept in memory."""
    tracemalloc.start()
    try:
        asyncio.run(exchange(repeating(*flood), timeout_seconds=30))
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        asyncio.run(exchange(repeating(*flood), timeout_seconds=30))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # The flood's own sender is in this process, and so is one read's worth of interim answers.
    assert peak - before < 1_500_000


# Connections that are kept


def test_a_kept_connection_that_speaks_unasked_is_not_used_again(run):
    """A second answer to one request is not taken for the answer to the next."""
    connections = []
    is_answered, has_spoken = asyncio.Event(), asyncio.Event()

    async def behaviour(reader, writer):
        connections.append(writer)
        await request_read(reader)
        writer.write(OK)
        await is_answered.wait()
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        has_spoken.set()
        await hung_up(reader)

    async def sent():
        async with (
            receiving(saying(OK)) as another,
            receiving(behaviour) as port,
            Sender(DEV, timeout_seconds=5) as sender,
        ):
            first = await sender.send(request_to(port))
            is_answered.set()
            await has_spoken.wait()
            # Over the same loop, so that what was spoken before it has come in after it.
            await sender.send(request_to(another))
            is_answered.clear()
            return first, await sender.send(request_to(port))

    assert (OK_ANSWER, OK_ANSWER) == run(sent())
    assert 2 == len(connections)


def test_a_flood_on_a_kept_connection_is_cut_off(run):
    """A connection that waits to be used again takes in a bounded number of bytes."""
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
    """What a connection may bring in is counted anew for each request."""
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


# Where connections go


def called_by_name(addresses, policy, *, port=None):
    """Call a name that the stub resolver answers with each of *addresses* in turn."""
    answers = iter(addresses)

    async def sent():
        async with (
            receiving(saying(OK)) as open_port,
            Sender(policy, timeout_seconds=2, lookup=lambda host: next(answers)) as sender,
        ):
            return await sender.send(request_to(port or open_port, host="receiver.example"))

    return sent()


def test_names_are_called_at_the_addresses_they_have(run):
    """A name is looked up and called."""
    assert OK_ANSWER == run(called_by_name([["127.0.0.1"]], DEV))


def test_a_name_that_turns_to_a_denied_address_is_blocked(run):
    """The address is judged when it is connected to, whatever the name said before."""
    assert BLOCKED == run(called_by_name([["127.0.0.1"], ["93.184.215.14"]], STRICT))


def test_the_socket_factory_alone_denies(run, monkeypatch):
    """Were the resolver to let everything through, no connection would be opened all the same."""
    monkeypatch.setattr(Resolver, "_permitted", lambda self, host, found: found)

    assert BLOCKED == run(called_by_name([["127.0.0.1", "::1", "10.0.0.1"]], STRICT))


def test_a_name_is_called_at_its_permitted_address_only(run):
    """A name with a denied and a permitted address is called at the permitted one."""
    assert OK_ANSWER == run(called_by_name([["169.254.169.254", "::1", "127.0.0.1"]], DEV))


def test_a_name_with_a_denied_address_and_a_dead_one_is_unreachable(run):
    """Only a name with nothing but denied addresses is blocked for good."""
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
        "localhost",
        "10.0.0.1",
    ],
)
def test_denied_addresses_are_blocked_in_every_spelling(run, host):
    """No connection is opened to a denied address, however it is written."""
    reached = []

    async def behaviour(reader, writer):
        reached.append(writer)

    async def sent():
        async with receiving(behaviour) as port, Sender(STRICT, timeout_seconds=2) as sender:
            return await sender.send(request_to(port, host=host))

    assert BLOCKED == run(sent())
    assert [] == reached


def test_failures_to_connect_read_the_same(run):
    """Nothing tells a denied address from an unknown name or a closed port."""

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

    assert ["blocked", "unreachable", "unreachable", "unreachable"] == [a.outcome for a in answers]
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
def test_odd_urls_are_values_and_not_exceptions(run, url):
    """A URL that should never have been stored ends as a failed attempt, and calls nobody."""

    async def sent():
        async with Sender(STRICT, timeout_seconds=2, lookup=lambda host: ["127.0.0.1"]) as sender:
            return await sender.send(OutgoingRequest(url, "POST", {}, b""))

    assert run(sent()).outcome in (AttemptOutcome.UNREACHABLE, AttemptOutcome.BLOCKED)


def test_a_header_cannot_break_the_request(run):
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
    """A certificate authority that nobody knows."""
    return trustme.CA()


def server_tls(authority, *names, expired=False):
    """Make the context of a server with a certificate for *names*."""
    options = {"not_after": datetime(2020, 1, 1, tzinfo=UTC)} if expired else {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


async def exchange_over_tls(served, trusted):
    """Send one request to a receiver that serves TLS, trusting *trusted*."""
    async with (
        receiving(saying(OK), tls=served) as port,
        Sender(DEV, timeout_seconds=5, tls=trusted, lookup=lambda host: ["127.0.0.1"]) as sender,
    ):
        return await sender.send(request_to(port, scheme="https", host="receiver.example"))


def trusting(authority):
    """Make the sender's own context, with *authority* beside those of the system."""
    context = verified_tls()
    authority.configure_trust(context)
    return context


def test_verified_receivers_are_called_over_tls(run, authority):
    """A certificate by a known authority for the right name is accepted."""
    served = server_tls(authority, "receiver.example")

    assert OK_ANSWER == run(exchange_over_tls(served, trusting(authority)))


def test_unknown_authorities_are_not_trusted(run, authority):
    """A self-signed certificate is refused, and the developer is told why."""
    answer = run(exchange_over_tls(server_tls(authority, "receiver.example"), verified_tls()))

    assert AttemptOutcome.UNREACHABLE == answer.outcome
    assert answer.detail.startswith("the TLS certificate was not accepted: ")
    assert "issuer" in answer.detail


def test_certificates_of_other_names_are_not_accepted(run, authority):
    """A certificate for another name is refused, and the developer is told which was wanted."""
    answer = run(exchange_over_tls(server_tls(authority, "other.example"), trusting(authority)))

    assert AttemptOutcome.UNREACHABLE == answer.outcome
    assert "not valid for 'receiver.example'" in answer.detail


def test_expired_certificates_are_not_accepted(run, authority):
    """An expired certificate is refused, and the developer is told so."""
    served = server_tls(authority, "receiver.example", expired=True)

    answer = run(exchange_over_tls(served, trusting(authority)))

    assert "the TLS certificate was not accepted: certificate has expired" == answer.detail


def test_old_tls_is_not_spoken():
    """TLS before 1.2 is refused."""
    assert ssl.TLSVersion.TLSv1_2 == verified_tls().minimum_version


def test_plain_http_on_a_tls_port_is_named(run):
    """A port that does not speak TLS is told from a wrong certificate."""

    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await hung_up(reader)

    async def sent():
        async with receiving(plain) as port, Sender(DEV, timeout_seconds=5) as sender:
            return await sender.send(request_to(port, scheme="https"))

    answer = run(sent())

    assert AttemptOutcome.UNREACHABLE == answer.outcome
    assert answer.detail.startswith("the TLS handshake failed: ")


def test_a_silent_handshake_ends_at_the_deadline(run):
    """A port that takes the connection and says nothing costs the deadline and no more."""

    async def silent(reader, writer):
        await hung_up(reader)

    async def sent():
        async with (
            receiving(silent) as port,
            Sender(DEV, timeout_seconds=DEADLINE_SECONDS) as sender,
        ):
            return await sender.send(request_to(port, scheme="https"))

    assert TIMEOUT == run(sent())


# Promises of the sender itself


def test_cancelling_the_caller_cancels_the_request(run):
    """The cancellation of an attempt is not taken for a missing answer."""

    async def cancelled():
        arrived = asyncio.Event()

        async def behaviour(reader, writer):
            await request_read(reader)
            arrived.set()
            await hung_up(reader)

        async with receiving(behaviour) as port, Sender(DEV, timeout_seconds=30) as sender:
            sending = asyncio.ensure_future(sender.send(request_to(port)))
            await arrived.wait()
            sending.cancel()
            await asyncio.wait([sending])
            return sending.cancelled()

    assert run(cancelled())


def test_a_closed_sender_gives_no_answer(run):
    """A request after the end is not sent, and raises nothing."""

    async def sent():
        async with Sender(DEV, timeout_seconds=2) as sender:
            pass
        return await sender.send(request_to(1))

    assert AttemptOutcome.UNREACHABLE == run(sent()).outcome


@pytest.mark.parametrize("defect", [ZeroDivisionError, ValueError, AssertionError])
def test_a_defect_is_raised_and_is_no_answer(run, defect):
    """An error of our own is not told to the developer of the receiver as a failed request."""

    def defective(host):
        raise defect

    async def sent():
        async with Sender(DEV, timeout_seconds=2, lookup=defective) as sender:
            return await sender.send(request_to(1, host="receiver.example"))

    with pytest.raises(defect):
        run(sent())


def test_every_error_of_aiohttp_has_an_entry():
    """A release of aiohttp that brings another error makes somebody decide what it means."""
    errors = {
        thing
        for thing in vars(client_exceptions).values()
        if inspect.isclass(thing)
        and issubclass(thing, Exception)
        and thing.__module__ == client_exceptions.__name__
    }

    assert len(errors) > 25
    assert set() == errors - FAILURES.keys()


def test_details_are_sentences_without_leftovers():
    """Every entry of the table can be filled in, and reads as words for a developer."""
    details = [words.format(reason="so", seconds=15.0) for _, words in FAILURES.values()]

    assert all(detail and "{" not in detail for detail in details)
    assert "there was no complete answer within 15 s" in details
