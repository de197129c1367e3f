"""Requests are written byte for byte, and the answers to many are read on one connection."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from service.delivery.egress import EgressPolicy
from service.delivery.sender import OutgoingRequest, Sender
from service.delivery.wire import URL_PARTS, head_of, place_of
from service.development import DEV_NETWORKS
from service.domain.outcomes import AttemptOutcome

BODY = b'{"paid": true}'
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"ok": true}'
CHUNKED = (
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{"ok":\r\n6\r\n true}\r\n0\r\n\r\n'
)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
REFUSED = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 7\r\n\r\nbusy"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"


@asynccontextmanager
async def answering(*answers):
    """Serve *answers*, one for each request whatever its connection; what arrived, and where."""
    left, arrived, tasks = list(answers), [], set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        connection = len(tasks)
        try:
            while left:
                head = await reader.readuntil(b"\r\n\r\n")
                arrived.append((connection, head + await reader.readexactly(len(BODY))))
                writer.write(left.pop(0))
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], arrived
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def sent(*answers, path="/"):
    """Send a request for each of *answers*, one after the other; the results, and what arrived."""
    async with (
        answering(*answers) as (port, arrived),
        Sender(EgressPolicy(DEV_NETWORKS), timeout_seconds=5) as sender,
    ):
        request = OutgoingRequest(f"http://127.0.0.1:{port}{path}", "POST", {"A": "b"}, BODY)
        return [await sender.send(request) for _ in answers], arrived


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/%7Ea/../b//c?d=%41&e=f+g", "/%7Ea/../b//c?d=%41&e=f+g"),
        ("/a#b", "/a"),
    ],
)
async def test_the_target_is_path_and_query(path, target):
    """Path and query are sent byte for byte, a missing path as a slash, and a fragment never."""
    _, arrived = await sent(OK, path=path)

    assert f"POST {target} HTTP/1.1" == arrived[0][1].decode().split("\r\n")[0]


async def test_one_connection_serves_answers_of_every_form():
    """Whatever form a complete answer has, the next request is sent on the same connection."""
    answers = [OK, CHUNKED, EMPTY, REFUSED, INTERIM + OK, CHUNKED, REFUSED, OK]

    results, arrived = await sent(*answers)

    assert [200, 200, 204, 503, 200, 200, 503, 200] == [one.status_code for one in results]
    assert [b'{"ok": true}', b'{"ok": true}', b"", b"busy", b'{"ok": true}'] == [
        one.body for one in results[:5]
    ]
    assert "7" == results[3].retry_after
    assert [1] * len(answers) == [connection for connection, _ in arrived]


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["close", "old", "more", "upgrade", "no status"],
)
async def test_a_connection_that_cannot_go_on_is_not_used_again(answer):
    """Where an answer ends its connection, the next request gets another one."""
    results, arrived = await sent(answer, OK)

    assert 200 == results[1].status_code
    assert [1, 2] == [connection for connection, _ in arrived]


@pytest.mark.parametrize(
    "url",
    [
        *("http://user@h/", "http://user:password@h/", "http://h/a b", "http://h/\u00e9"),
        *("http://h/\r\nX: y", "http://h/\0", "http://h/\x7f", "gopher://h/", "h/"),
    ],
)
async def test_what_cannot_be_sent_as_it_is_is_not_sent(url):
    """Credentials, blanks, controls and what is not ASCII are in no URL that is called."""
    async with Sender(EgressPolicy(DEV_NETWORKS), timeout_seconds=5) as sender:
        answer = await sender.send(OutgoingRequest(url, "POST", {}, BODY))

    assert (AttemptOutcome.UNREACHABLE, "the URL cannot be called") == (
        answer.outcome,
        answer.detail,
    )


def test_names_with_every_letter_can_be_called():
    """No letter of a host is taken for another one, in either case."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    url = f"HTTPS://{letters}{letters.upper()}.example:8443"

    parts = URL_PARTS.fullmatch(url + "/k?s=i")

    assert parts is not None
    assert (url, "/k?s=i") == (parts[1], parts[2])


@pytest.mark.parametrize(
    ("base", "host"),
    [
        ("http://h.example", "h.example"),
        ("http://h.example:80", "h.example"),
        ("https://h.example:80", "h.example:80"),
        ("http://[2001:db8::1]:81", "[2001:db8::1]:81"),
    ],
)
async def test_the_host_is_told_with_its_port_unless_it_is_the_usual_one(base, host):
    """`Host` has the port of the URL if it is not that of its scheme."""
    assert host == place_of(base).headers["Host"]


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nB: c", "a\rb", "a\0b"])
def test_no_header_ends_its_line(value):
    """A line break or a NUL in a header is a defect, and nothing is sent."""
    with pytest.raises(ValueError, match="header injection"):
        head_of("POST", "/", "h", {"A": value}, 0)
