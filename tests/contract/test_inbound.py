"""A hostile client of the socket is answered or disconnected, and costs little."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import resource
import socket
import tracemalloc
import zlib
from datetime import timedelta

import orjson
import pytest
import uvloop
from aiohttp import web

from service.api.application import make_application
from service.errors import AddressError
from service.settings import Settings
from service.web import connections, server
from tests.contract.conftest import PATIENCE_SECONDS, listening

BODY = b'{"id": "1", "customer": "c", "total": "1"}'
TINY_SECONDS = 0.05


def a_request(*headers, body=BODY, target="/invoices/", method="POST", length=None):
    """The bytes of one request; its length is that of the body, unless another is given."""
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: api.example",
        "Content-Type: application/json",
        *headers,
    ]
    if length is not False:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"


def statuses_in(answer):
    """The status of each response in *answer*; input that is not HTTP gets HTTP/1.0."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def problem_in(answer, *statuses):
    """The problem document that *answer* ends with; its status is one of *statuses*."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert statuses_in(answer)[-1] in statuses, answer
    assert b"application/problem+json" in head
    assert b"Server: invoices\r\n" in head
    document = orjson.loads(body)
    assert document["status"] in statuses
    return document


@pytest.fixture
async def hasty_wire(assembled, short_linger):
    """The service on a socket, with a very short timeout for slow bodies."""
    hasty = Settings(body_timeout=timedelta(seconds=TINY_SECONDS))
    async with listening(assembled(hasty).dependencies) as wire:
        yield wire


@pytest.fixture
async def idle_wire(dependencies, short_linger):
    """
    The service on a socket, with a very short timeout for idle connections.

    On a busy machine, a client may be too slow to send anything before the connection is closed.
    """
    async with listening(dependencies, idle_seconds=TINY_SECONDS) as wire:
        yield wire


async def accepts_invoices(wire):
    """Whether the service still accepts invoices."""
    answer = await wire.talk(a_request(CLOSE))
    return statuses_in(answer) in ([202], [200])


GZIP, DEFLATE = 31, 15
"""The forms of zlib."""

HUGE = (b" " * 1_000_000,) * 50


def compressed(pieces, form):
    """The *pieces* of a body, compressed; the body is in memory at no time."""
    compressing = zlib.compressobj(zlib.Z_BEST_COMPRESSION, wbits=form)
    return b"".join([*map(compressing.compress, pieces), compressing.flush()])


class TestBodies:
    async def test_slow_body_times_out(self, hasty_wire):
        """A body that does not arrive is answered 408, and the connection is closed."""
        answer = await hasty_wire.talk(a_request(body=b'{"id"', length=100))

        assert b"Connection: close" in answer
        problem_in(answer, 408)

    async def test_endless_body_times_out(self, hasty_wire):
        """A body that arrives byte by byte has one deadline for the whole body."""
        reader, writer = await hasty_wire.connect()
        writer.write(a_request(CHUNKED, body=b"", length=False))
        answer = asyncio.ensure_future(reader.readuntil(b'"}'))
        while not answer.done():
            writer.write(b"1\r\n \r\n")
            await asyncio.wait([answer], timeout=TINY_SECONDS / 10)
        writer.close()

        problem_in(answer.result(), 408)

    async def test_endless_chunks_are_too_large(self, wire):
        """A chunked body is read up to the limit and no further."""
        chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        answer = await wire.talk(a_request(CHUNKED, body=chunk * 8, length=False))

        problem_in(answer, 413)

    async def test_malformed_later_chunk_is_refused(self, hasty_wire):
        """A malformed chunk ends the request at once."""
        first = a_request(CHUNKED, body=b"1\r\n{\r\n", length=False)

        problem_in(await hasty_wire.talk(first, b"zz\r\nnonsense"), 400, 408)

    @pytest.mark.parametrize("length", [64 * 1024 + 1, 10 * 1024**3, 2**63 - 1])
    async def test_a_declared_length_above_the_limit_is_refused_at_once(self, wire, length):
        """A body that is declared as too large is refused before it is read."""
        answer = await wire.talk(a_request(body=b"{", length=length))

        assert b"Connection: close" in answer
        problem_in(answer, 413)

    @pytest.mark.parametrize(
        ("method", "target"),
        [
            ("POST", "/invoices/"),
            ("POST", "/invoices"),
            ("GET", "/invoices/1"),
            ("GET", "/deliveries/1/"),
            ("GET", "/healthz"),
        ],
    )
    async def test_expectation_is_refused_before_the_body_is_sent(self, wire, method, target):
        """A client that expects 100 Continue for a body that is too large gets 413 instead."""
        expecting = a_request(
            "Expect: 100-continue", body=b"", length=10 * 1024**3, method=method, target=target
        )
        answer = await wire.talk(expecting)

        assert b"100 Continue" not in answer
        problem_in(answer, 413)

    @pytest.mark.parametrize("target", ["/none", "/deliveries"])
    async def test_expectation_where_no_body_is_accepted_is_refused(self, wire, target):
        """Where no operation has a body, the request is refused before its body is sent."""
        expecting = a_request("Expect: 100-continue", body=b"", length=10 * 1024**3, target=target)

        problem_in(await wire.talk(expecting), 413)

    async def test_expectation_is_met(self, wire):
        """A client that expects 100 Continue gets it, sends the invoice and gets the answer."""
        reader, writer = await wire.connect()
        writer.write(a_request("Expect: 100-continue", CLOSE, body=b"", length=len(BODY)))

        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(BODY)
        assert (await reader.read()).startswith(b"HTTP/1.1 202")
        writer.close()

    async def test_unknown_expectation_is_refused(self, wire):
        """An expectation other than 100-continue is refused."""
        problem_in(await wire.talk(a_request("Expect: a-miracle", CLOSE)), 417)

    @pytest.mark.parametrize(
        ("encoding", "encoded"),
        [
            ("gzip", lambda: compressed(HUGE, GZIP)),
            ("gzip", lambda: compressed([BODY], GZIP)),
            ("gzip", lambda: b"\x1f\x8b\x08 broken"),
            ("deflate", lambda: compressed(HUGE, DEFLATE)),
            ("br", lambda: b"broken"),
            ("zstd", lambda: b"broken"),
            ("GZIP", lambda: compressed([BODY], GZIP)),
            ("x", lambda: BODY),
            ("identity, gzip", lambda: compressed([BODY], GZIP)),
        ],
    )
    async def test_encoded_body_is_not_decoded(self, wire, encoding, encoded):
        """A body with a Content-Encoding is refused and not decompressed."""
        body = encoded()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = await wire.talk(a_request(f"Content-Encoding: {encoding}", CLOSE, body=body))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

        problem_in(answer, 415)
        assert grown < 20_000

    async def test_body_may_arrive_in_several_packets(self, wire):
        """A body that arrives in several packets is read."""
        request = a_request(CLOSE)
        pieces = [request[at : at + 7] for at in range(0, len(request), 7)]

        assert (await wire.talk(*pieces)).startswith(b"HTTP/1.1 202")

    async def test_truncated_body_is_not_an_error_of_the_service(self, wire, caplog):
        """A client that disconnects in the middle of its body causes no error in the log."""
        _, writer = await wire.connect()
        writer.write(a_request(body=b'{"id"', length=100))
        await writer.drain()
        writer.close()

        assert await accepts_invoices(wire)
        assert [] == [one for one in caplog.records if one.levelno >= logging.ERROR]


class TestHeads:
    @pytest.mark.parametrize(
        "head",
        [b"", b"P", b"POST /invoices/ HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nA: b"],
    )
    async def test_connection_with_a_slow_head_is_closed(self, idle_wire, head):
        """A connection on which no complete request head arrives is closed."""
        assert b"" == await idle_wire.talk(head)

    async def test_idle_connection_is_closed_after_an_answer(self, idle_wire):
        """A connection stays open after an answer only until the idle timeout."""
        while not (answer := await idle_wire.talk(a_request())):
            pass

        assert answer.startswith(b"HTTP/1.1 202")

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\r\n\r\n\x00\x01\x02\x03\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"G\x00T / HTTP/1.1\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"nonsense\r\n\r\n",
        ],
    )
    async def test_what_is_not_http_is_a_problem(self, wire, caplog, garbage):
        """Input that is not HTTP gets a problem, the connection closes, and nothing is logged."""
        with caplog.at_level(logging.INFO):
            answer = await wire.talk(garbage)

        problem_in(answer, 400)
        assert [] == caplog.records
        assert await accepts_invoices(wire)

    @pytest.mark.parametrize(
        "head",
        [
            b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 10_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A" * 10_000 + b": b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 2_000 + b"\r\n",
        ],
        ids=["target", "value", "name", "number"],
    )
    async def test_huge_head_is_a_problem(self, wire, caplog, head):
        """A head above the limit of a few kilobytes gets a problem."""
        with caplog.at_level(logging.INFO):
            problem_in(await wire.talk(head), 400)

        assert [] == caplog.records

    @pytest.mark.parametrize(
        "head",
        [
            ["Content-Length: 5", "Content-Length: 6"],
            ["Content-Length: 5", CHUNKED],
            [CHUNKED, "Content-Length: 5"],
            ["Transfer-Encoding: chunked, identity"],
            ["Transfer-Encoding: xchunked"],
            ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            ["Content-Length: +5"],
            ["Content-Length: -5"],
            ["Content-Length: 5_0"],
            ["Content-Length: 0x5"],
            ["Content-Length: 5, 5"],
            ["Content-Length: " + "9" * 30],
            ["Content-Length:"],
        ],
    )
    async def test_ambiguous_length_is_refused(self, wire, head):
        """A request whose end two parsers could see at different places is refused."""
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await wire.talk(a_request(*head, body=b"{}   " + smuggled, length=False))

        assert [400] == statuses_in(answer)
        problem_in(answer, 400)

    async def test_garbage_behind_a_request_does_not_affect_the_request(self, wire):
        """The request is answered; the garbage behind it closes the connection."""
        reader, writer = await wire.connect()
        writer.write(a_request())
        first = await reader.readuntil(b'received"}')
        writer.write(b"\x00nonsense\r\n\r\n")
        second = await reader.read()
        writer.close()

        assert [202] == statuses_in(first)
        problem_in(second, 400)

    async def test_garbage_in_the_packet_of_a_request_is_a_problem(self, wire):
        """If a request and garbage arrive in one packet, neither is processed."""
        problem_in(await wire.talk(a_request() + b"\x00nonsense\r\n\r\n"), 400)

    async def test_pipelined_requests_are_answered_in_order(self, wire):
        """A client may send requests without waiting for the answers."""
        asked = [
            a_request(body=BODY.replace(b'"1", "c', b'"%d", "c' % number)) for number in range(50)
        ]
        answer = await wire.talk(b"".join(asked) + a_request(CLOSE, target="/none"))

        assert 50 == answer.count(b"HTTP/1.1 202")
        assert [b"/invoices/%d" % number for number in range(50)] == [
            line.removeprefix(b"Location: ")
            for line in answer.split(b"\r\n")
            if line.startswith(b"Location: ")
        ]

    @pytest.mark.parametrize(
        "target",
        [
            "/invoices/%00",
            "/invoices/%0d%0aSet-Cookie:x",
            "/invoices/%zz",
            "/invoices/%",
            "/invoices/%ff%fe",
            "/invoices/%ed%a0%80",
            "/invoices/" + "%2f" * 300,
            "/invoices/..",
            "/invoices/.",
            "/invoices/../../etc/passwd",
            "/%2e%2e/%2e%2e",
            "//invoices",
            "http://evil.example/invoices/1",
            "http://[::1/invoices/1",
            "*",
            "?",
            "/?" + "a=1&" * 1500,
            "/invoices/?callback_url=%ed%a0%80",
            "/invoices/?%ff=%ff",
            "/invoices/?limit=%00",
            "/invoices/?after=%ed%a0%80",
            "/deliveries?origin=%ff",
            "/deliveries?since=%ed%a0%80",
            "/api/docs/static/%00",
            "/api/docs/static/%ff",
            "/api/docs/static/" + "a" * 5000,
            "/invoices/\xff",
            "/invoices/#x",
        ],
    )
    async def test_unusual_target_is_not_a_server_error(self, wire, target):
        """No target in the request line causes a 500."""
        answer = await wire.talk(a_request(CLOSE, body=b"", target=target, method="GET"))

        (status,) = statuses_in(answer)
        assert 200 <= status < 500, answer

    @pytest.mark.parametrize("method", ["CONNECT", "TRACE", "FOO", "OPTIONS", "get", "M-SEARCH"])
    async def test_unusual_method_is_not_a_server_error(self, wire, method):
        """No method causes a 500."""
        answer = await wire.talk(a_request(CLOSE, body=b"", method=method))

        (status,) = statuses_in(answer)
        assert 200 <= status < 500, answer

    @pytest.mark.parametrize(
        "header",
        [
            "Upgrade: websocket\r\nConnection: Upgrade",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x",
            "Range: bytes=5-1",
            "Range: nonsense",
            "If-Modified-Since: nonsense",
            "If-None-Match: nonsense",
            "Cookie: =;;;=\xff",
            "Accept: \xff",
            "Authorization: \xff",
            "X-Forwarded-For: \xff",
        ],
    )
    @pytest.mark.parametrize("target", ["/healthz", "/api/docs/static/swagger-ui.css"])
    async def test_unusual_header_is_not_a_server_error(self, wire, header, target):
        """No header causes a 500."""
        reader, writer = await wire.connect()
        writer.write(a_request(header, body=b"", target=target, method="GET"))
        answer = await reader.readline()
        writer.write_eof()
        answer += await closed(reader)
        writer.close()

        (status,) = statuses_in(answer)
        assert 200 <= status < 500, answer[:300]

    @pytest.mark.parametrize("host", ["", "[::1", "a:99999", "a b", "\xff", "x" * 300])
    async def test_host_header_is_never_used(self, wire, host):
        """An invoice is accepted with any Host header."""
        head = ["POST /invoices/?callback_url=https://a.example HTTP/1.1"]
        head += [
            f"Host: {host}",
            "Content-Type: application/json",
            f"Content-Length: {len(BODY)}",
            CLOSE,
            "",
            "",
        ]
        answer = await wire.talk("\r\n".join(head).encode("latin-1") + BODY)

        assert answer.startswith(b"HTTP/1.1 202"), answer

    async def test_http_1_0_is_supported(self, wire):
        """A request in HTTP/1.0 needs no Host header and is answered."""
        answer = await wire.talk(b"GET /healthz HTTP/1.0\r\n\r\n")

        assert b"200 OK" in answer


async def test_idle_connections_do_not_affect_the_others(wire):
    """The service answers requests beside five hundred idle connections."""
    connections = await asyncio.gather(*(wire.connect() for _ in range(500)))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await accepts_invoices(wire)
    finally:
        for _, writer in connections:
            writer.close()


async def test_many_idle_connections_are_closed(idle_wire):
    """Connections without a request are closed, however many there are."""
    connections = await asyncio.gather(*(idle_wire.connect() for _ in range(500)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        ends = await asyncio.gather(*(reader.read() for reader, _ in connections))
    for _, writer in connections:
        writer.close()

    assert {b""} == set(ends)


async def test_port_in_use_raises(wire, dependencies):
    """A server that cannot listen raises an error, and can still be stopped."""
    second = server.Server(make_application(dependencies))
    with pytest.raises(AddressError, match="in use"):
        await second.start("127.0.0.1", wire.port)
    await second.stop()


# The limit for the number of connections


SLOW_BODY = a_request(body=b"{", length=100)


async def closed(reader):
    """Wait until the service closes the connection; returns what it sent before."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await reader.read()


async def test_the_longest_idle_connection_is_closed_for_a_new_one(dependencies, short_linger):
    """At the limit, a new connection replaces the one that has been idle for longest."""
    async with listening(dependencies, count=3) as wire:
        open_connections = [await wire.connect() for _ in range(3)]
        # A client that was answered comes after those that never sent a request.
        open_connections[0][1].write(a_request())
        await open_connections[0][0].readuntil(b'"}')

        assert await accepts_invoices(wire)
        assert b"" == await closed(open_connections[1][0])
        assert await accepts_invoices(wire)
        for reader, writer in (open_connections[0], open_connections[2]):
            writer.write(a_request(CLOSE))
            assert statuses_in(await closed(reader)) in ([200], [202])
        for _, writer in open_connections:
            writer.close()


async def test_a_connection_with_a_slow_head_is_closed_for_a_new_one(dependencies, short_linger):
    """A connection with an incomplete head counts as idle."""
    async with listening(dependencies, count=2) as wire:
        open_connections = [await wire.connect() for _ in range(2)]
        for _, writer in open_connections:
            writer.write(b"POST /invoices/ HTTP/1.1\r\nHost: x")
            await writer.drain()

        assert await accepts_invoices(wire)
        assert b"" == await closed(open_connections[0][0])
        for _, writer in open_connections:
            writer.close()


async def test_a_new_connection_is_refused_if_all_are_in_use(dependencies, short_linger, caplog):
    """Requests in progress keep their connections; a new connection gets 503 and Retry-After."""
    async with listening(dependencies, count=2) as wire:
        open_connections = [await wire.connect() for _ in range(2)]
        for reader, writer in open_connections:
            # After 100 Continue it is in the middle of its request.
            writer.write(a_request("Expect: 100-continue", CLOSE, body=b"", length=len(BODY)))
            await reader.readuntil(b"\r\n\r\n")

        answers = [await wire.talk(a_request(target="/healthz", method="GET")) for _ in range(3)]
        for answer in answers:
            problem_in(answer, 503)
            assert b"Retry-After: 1\r\n" in answer
            assert b"X-Content-Type-Options: nosniff\r\n" in answer
        assert ["connections.exhausted"] == [one.message for one in caplog.records]

        for reader, writer in open_connections:
            writer.write(BODY)
            assert statuses_in(await closed(reader)) in ([200], [202])
            writer.close()
        assert await accepts_invoices(wire)


async def test_refused_connections_are_limited(dependencies, short_linger, monkeypatch):
    """Refused connections that stay open are closed, the oldest refused first."""
    monkeypatch.setattr(connections, "REFUSED_MAX", 1)
    monkeypatch.setattr(server, "LINGER_SECONDS", PATIENCE_SECONDS)
    async with listening(dependencies, count=1) as wire:
        reader, writer = await wire.connect()
        writer.write(a_request("Expect: 100-continue", body=b"", length=len(BODY)))
        await reader.readuntil(b"\r\n\r\n")
        refused = [await wire.connect() for _ in range(3)]

        answers = [await closed(reader) for reader, _ in refused]

        assert [[503]] * 3 == [statuses_in(one) for one in answers]
        for _, one in [*refused, (reader, writer)]:
            one.close()


LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@LOOPS
@pytest.mark.parametrize("end", ["", "Connection: close\r\n"], ids=["kept", "closed"])
def test_a_client_that_reads_no_answers_is_disconnected(loop_factory, end, monkeypatch):
    """A client that does not read its answers is disconnected, even if answers are left to send."""

    async def much(_request):
        return web.Response(body=b"x" * 30_000_000)

    async def attacked():
        has_left = asyncio.Event()
        leave = connections.OpenConnections.leave
        monkeypatch.setattr(
            connections.OpenConnections,
            "leave",
            lambda self, one: (leave(self, one), has_left.set()),
        )
        app = web.Application()
        app.router.add_get("/", much)
        limits = connections.ConnectionLimits(unread_seconds=TINY_SECONDS)
        listening = server.Server(app, limits)
        port = await listening.start("127.0.0.1", 0)
        with socket.socket() as slow_reader:
            slow_reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow_reader.connect(("127.0.0.1", port))
            slow_reader.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{end}\r\n".encode())
            async with asyncio.timeout(PATIENCE_SECONDS):
                await has_left.wait()
        await listening.stop()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(attacked())


@LOOPS
@pytest.mark.parametrize("piece", [b"\0" * 2**16, b"G" * 2**16], ids=["zeros", "method"])
def test_garbage_is_not_kept(loop_factory, piece):
    """Input that is not HTTP keeps no memory, even without the garbage collector."""

    async def attacked():
        listening = server.Server(web.Application())
        port = await listening.start("127.0.0.1", 0)
        answers = [await throw(port) for _ in range(5)]
        await listening.stop()
        return answers

    async def throw(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for _ in range(256):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # The service may close the connection.
        writer.close()
        return reader

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            runner.run(attacked())
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()

    assert kept < 2_000_000


async def test_the_limits_of_a_body_can_be_set(assembled, short_linger):
    """The limits that the operator sets hold, and the refusal names them."""
    narrow = Settings(body_limit=100, body_timeout=timedelta(seconds=TINY_SECONDS))
    async with listening(assembled(narrow).dependencies) as wire:
        assert statuses_in(await wire.talk(a_request(CLOSE))) == [202]
        too_large = problem_in(await wire.talk(a_request(CLOSE, body=b" " * 101)), 413)
        too_slow = problem_in(await wire.talk(SLOW_BODY), 408)

    assert "The body is larger than 100 bytes." == too_large["detail"]
    assert "The body was not complete after 0.05 seconds." == too_slow["detail"]


async def test_a_larger_body_can_be_permitted(assembled, short_linger):
    """A higher limit of the operator holds, for chunked bodies too."""
    wide = assembled(Settings(body_limit=200_000)).dependencies
    body = b" " * 150_000 + BODY
    async with listening(wide) as wire:
        assert [202] == statuses_in(await wire.talk(a_request(CLOSE, body=body)))
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        assert [200] == statuses_in(
            await wire.talk(a_request(CLOSE, CHUNKED, body=chunk, length=False))
        )


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /invoices/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /invoices/ HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}",
        b"GET /healthz HTTP/1.1\r\nHost: x\n\n",
        b"GET /healthz HTTP/1.1\rHost: x\r\r",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\rTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
        HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + CHUNKED.encode() + b"\r\n\r\n2\n{}\n0\n\n",
        HEAD + CHUNKED.encode() + b"\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        HEAD + CHUNKED.encode() + b"\r\n\r\n2 \r\n{}\r\n0\r\n\r\n",
        HEAD + CHUNKED.encode() + b"\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
        HEAD + CHUNKED.encode() + b"\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
        HEAD + CHUNKED.encode() + b"\r\n\r\n2;a\n{}\r\n0\r\n\r\n",
        HEAD + CHUNKED.encode() + b"\r\n\r\n2\r\n{}smuggled\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nA\0B: b\r\n\r\n",
        b"GET\t/healthz\tHTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz x HTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/11.1\r\nHost: a\r\n\r\n",
        b"GET /healthz http/1.1\r\nHost: a\r\n\r\n",
        b"GET /\n\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18,
    ],
)
async def test_a_request_that_parsers_read_differently_is_refused(wire, request_):
    """An ambiguous request is refused, and the bytes behind it are not read as another request."""
    answer = await wire.talk(request_ + SMUGGLED)

    assert [400] == statuses_in(answer), answer
    assert b"/smuggled" not in answer


async def test_a_pipelining_flood_is_served_as_it_is_read(wire):
    """Requests that arrive faster than the client reads answers are not read ahead."""
    asked = a_request(body=b"", target="/healthz", method="GET")
    reader, writer = await wire.connect()
    writer.write(asked * 3000 + a_request(CLOSE, body=b"", target="/none"))
    answer = await closed(reader)
    writer.close()

    assert [200] * 3000 + [404] == statuses_in(answer)


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAA")
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket")


class TestOffersToUpgrade:
    """curl --http2 and the HTTP client of Java offer h2c with every request; it is not taken."""

    HEALTH = a_request(body=b"", target="/healthz", method="GET")

    @pytest.mark.parametrize(
        ("offer", "status"),
        [
            (a_request(*H2C, body=b"", target="/healthz", method="GET"), 200),
            (a_request(*H2C), 202),
            (a_request(*H2C, body=b"", target="/none", method="GET", length=False), 404),
        ],
        ids=["read", "invoice", "no length"],
    )
    async def test_the_connection_is_kept(self, wire, offer, status):
        """A client that waits for the answer sends its next request on the same connection."""
        reader, writer = await wire.connect()
        writer.write(offer)
        first = await reader.readuntil(b"}")
        writer.write(a_request(CLOSE, body=b"", target="/healthz", method="GET"))
        second = await closed(reader)
        writer.close()

        assert [status, 200] == statuses_in(first + second)

    @pytest.mark.parametrize("sizes", [(0, 42), (10, 32), (1, 40, 1)])
    async def test_the_connection_is_kept_after_a_body_in_pieces(self, wire, sizes):
        """The client of Java sends the body of its first request behind the head."""
        offer = a_request(*H2C)
        begin = len(offer) - len(BODY)
        reader, writer = await wire.connect()
        writer.write(offer[:begin])
        for size in sizes:
            # The service has read what was sent when it answers another connection.
            await wire.talk(a_request(CLOSE, body=b"", target="/healthz", method="GET"))
            writer.write(offer[begin : begin + size])
            begin += size
        first = await reader.readuntil(b"}")
        writer.write(a_request(CLOSE, body=b"", target="/healthz", method="GET"))
        second = await closed(reader)
        writer.close()

        assert [202, 200] == statuses_in(first + second)

    @pytest.mark.parametrize(
        "offer",
        [
            a_request(*H2C),
            a_request(*H2C, CHUNKED, body=b"2a\r\n%b\r\n0\r\n\r\n" % BODY, length=False),
        ],
        ids=["length", "chunked"],
    )
    async def test_a_client_sees_which_requests_are_answered(self, wire, offer):
        """The connection ends with the answer to an offer, if something was sent behind it."""
        answer = await wire.talk(self.HEALTH + offer + self.HEALTH)

        assert [200, 202] == statuses_in(answer)
        assert 1 == answer.count(b"Connection: close")

    async def test_the_rest_of_a_lost_request_is_no_request(self, wire):
        """What looks like a request in a body is never answered as one."""
        hidden = a_request(body=b"", target="/hidden", method="GET")
        behind = a_request(body=hidden)
        head, _, body = behind.partition(hidden)
        answer = await wire.talk(a_request(*H2C) + head, hidden + body, self.HEALTH)

        assert [202] == statuses_in(answer)

    async def test_a_body_that_arrives_later_is_read(self, wire):
        """The last request of a connection is read to its end."""
        offer = a_request(*H2C)
        reader, writer = await wire.connect()
        writer.write(offer[:-20])
        await wire.talk(a_request(CLOSE, body=b"", target="/healthz", method="GET"))
        writer.write(offer[-20:] + self.HEALTH)
        answer = await closed(reader)
        writer.close()

        assert [202] == statuses_in(answer)
        assert b"Connection: close" in answer

    async def test_what_follows_a_websocket_is_answered(self, wire):
        """Several offers may stand behind each other; of the last one, the connection ends."""
        read = a_request(*WEBSOCKET, body=b"", target="/healthz", method="GET")
        answer = await wire.talk(read * 3 + self.HEALTH + read + a_request(*H2C) + self.HEALTH)

        assert [200] * 5 + [202] == statuses_in(answer)


class TestHalfClosedConnections:
    """A client may say that it sends no more, and still read: `nc -N` and some proxies do."""

    async def half_closed(self, wire, *pieces):
        """All that a client reads after it has sent *pieces* and closed its side."""
        reader, writer = await wire.connect()
        for piece in pieces:
            writer.write(piece)
        writer.write_eof()
        answer = await closed(reader)
        writer.close()
        return answer

    async def test_its_request_is_answered(self, wire):
        """A complete request is answered, and then the connection is closed."""
        assert [202] == statuses_in(await self.half_closed(wire, a_request()))

    async def test_all_its_requests_are_answered(self, wire):
        """Requests that were sent one behind the other are answered in order."""
        asked = a_request(body=b"", target="/healthz", method="GET")

        answer = await self.half_closed(wire, asked * 20, a_request())

        assert [200] * 20 + [202] == statuses_in(answer)

    async def test_what_is_not_http_is_answered(self, wire):
        """Garbage gets its 400."""
        problem_in(await self.half_closed(wire, b"\x16\x03\x01\r\n\r\n"), 400)

    @pytest.mark.parametrize(
        "piece",
        [
            b"",
            b"POST /invoices/ HTTP/1.1\r\nHost: a",
            a_request(body=BODY[:-5], length=len(BODY)),
            a_request(CHUNKED, body=b"5\r\n{", length=False),
        ],
        ids=["nothing", "half a head", "half a body", "half a chunk"],
    )
    async def test_an_incomplete_request_ends_at_once(self, wire, piece):
        """What cannot be completed any more occupies no connection until a deadline."""
        assert b"" == await self.half_closed(wire, piece)

    async def test_a_request_that_waits_for_events_ends_at_once(self, wire):
        """It may be the end of a client that is gone: its place is free for others."""
        asked = a_request(body=b"", target="/events?wait=60", method="GET")
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await self.half_closed(wire, asked)

        assert [200] == statuses_in(answer)
