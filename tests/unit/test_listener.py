"""What `invoices listen` does on a developer's machine, with real servers on this one."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from service.cli.listen import print_as_json, print_as_text
from service.delivery.connection import HEAD_COUNT_LIMIT, HEAD_LINE_LIMIT
from service.domain.listening import ListenerFailure
from service.listener import connection
from service.listener import listener as listener_module
from service.listener.connection import LinkLost, ServiceConnection
from service.listener.events import EVENT_BYTES_MAX, EventReader, NotEvents
from service.listener.forwarding import (
    HEAD_COUNT_MAX,
    HEAD_LINE_MAX,
    Forwarder,
    LocalAnswer,
    LocalRequest,
    loopback_only,
)
from service.listener.listener import Link, Listener
from service.listener.notices import Connected, Disconnected, Displaced, Forwarded, Told
from tests.clock import PATIENCE_SECONDS
from tests.fakes import Journal

EVENT = {
    "id": "msg_1",
    "attempt": 1,
    "deadline_at": "2099-01-01T00:00:00Z",
    "method": "POST",
    "path": "/invoices/a%2Fb",
    "headers": {"webhook-id": "msg_1", "Content-Type": "application/json"},
    "body_base64": b64encode(b'{"paid": true}').decode(),
}
CONNECTED = {
    "stream": "s1",
    "callback_url": "http://127.0.0.1:8080/listen/laptop",
    "waiting_count": 2,
    "has_displaced": False,
    "answer_bytes_max": 1000,
    "now": "2098-12-31T23:59:45Z",
}
SETTLED = {"id": "msg_1", "attempt": 1, "outcome": "delivered", "status": "delivered"}
SETTLED |= {"reason": None, "due_at": None, "detail": None}
REQUEST = LocalRequest.of(EVENT)


def sent(number, name, data):
    """An event as the service sends it."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name.encode(), orjson.dumps(data))


# Events


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_put_together(size):
    """Events are complete in whichever pieces they arrive."""
    reader, content = EventReader(), sent(1, "ping", {}) + sent(2, "delivery", EVENT)
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    events = [event for piece in pieces for event in reader.read(piece)]

    assert [(1, "ping", {}), (2, "delivery", EVENT)] == [
        (event.number, event.name, event.data) for event in events
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"\n\n",
        b"id: x\nevent: ping\ndata: {}\n\n",
        b"id: 1\nevent: ping\n\n",
        b"id: 1\nevent: ping\ndata: []\n\n",
        b"id: 1\nevent: \xff\ndata: {}\n\n",
        b"<html>\n\n",
        b"x" * (EVENT_BYTES_MAX + 1),
    ],
)
def test_what_is_no_event_is_recognised(content):
    """Other content, or content without an end, is not taken for events."""
    with pytest.raises(NotEvents):
        list(EventReader().read(content))


# The local server


@asynccontextmanager
async def local_server(handle):
    """The URL of a local server with that handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(answer):
    """The URL of a server that sends the bytes *answer*, or nothing if there are none."""
    handling = []

    async def handle(reader, writer):
        handling.append(asyncio.current_task())
        await reader.read(1)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*handling, return_exceptions=True)


async def forwarded(base, *, seconds=PATIENCE_SECONDS, bytes_max=1000, open_socket=loopback_only):
    """The answer to the request of `EVENT` at *base*."""
    async with Forwarder(base, open_socket) as forwarder:
        return await forwarder.forward(REQUEST, seconds, bytes_max)


@pytest.mark.parametrize("path", ["", "/", "/hooks", "/hooks/"])
async def test_the_exact_request_is_forwarded(path):
    """Method, path, headers and body arrive as a receiver would be sent them."""
    arrived = []

    async def handle(request):
        arrived.append((request.method, request.raw_path, request.headers, await request.read()))
        return web.json_response({"ok": True}, headers={"X-Own": "é", "Retry-After": "5"})

    async with local_server(handle) as url:
        answer = await forwarded(url + path)

    ((method, raw_path, headers, body),) = arrived
    assert ("POST", path.rstrip("/") + "/invoices/a%2Fb") == (method, raw_path)
    assert ("msg_1", "application/json") == (headers["webhook-id"], headers["Content-Type"])
    assert ("identity", str(len(body))) == (headers["Accept-Encoding"], headers["Content-Length"])
    assert b'{"paid": true}' == body
    assert (200, b'{"ok": true}') == (answer.status_code, answer.body)
    assert "5" == answer.headers["Retry-After"]
    document = answer.as_object()
    assert {"status", "headers", "body_base64"} == document.keys()


async def test_a_redirect_is_not_followed():
    """A redirect is the answer."""
    arrived = []

    async def handle(request):
        arrived.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with local_server(handle) as url:
        answer = await forwarded(url)

    assert (302, "/elsewhere") == (answer.status_code, answer.headers["Location"])
    assert 1 == len(arrived)


async def test_the_headers_of_an_answer_are_bounded():
    """Those that decide are passed on before others."""

    async def handle(_request):
        many = {f"X-{number}": "y" * 500 for number in range(20)}
        return web.Response(headers={**many, "Retry-After": "7", "Content-Encoding": "identity"})

    async with local_server(handle) as url:
        answer = await forwarded(url)

    assert "7" == answer.headers["Retry-After"]
    assert 2048 >= len(orjson.dumps(answer.headers))


async def test_a_long_answer_is_cut():
    """As much is passed on as the service takes, which sees that it is longer; no more is read."""

    async def handle(_request):
        return web.Response(status=500, body=b"x" * 1_000_000)

    async with local_server(handle) as url:
        answer = await forwarded(url)

    assert (500, b"x" * 1000, None) == (answer.status_code, answer.body, answer.failure)


async def test_an_answer_as_long_as_the_limit_is_whole():
    """Nothing of it is cut, and nothing more is waited for."""

    async def handle(_request):
        return web.Response(body=b"x" * 1000)

    async with local_server(handle) as url:
        answer = await forwarded(url)

    assert (200, b"x" * 1000) == (answer.status_code, answer.body)


async def test_the_head_of_a_refusal_is_enough():
    """As on the internet, a refusal whose body is broken is a refusal with its Retry-After."""
    head = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\n"
    async with raw_server(head + b"x") as url:
        answer = await forwarded(url)

    assert (503, "7", None) == (answer.status_code, answer.headers["Retry-After"], answer.failure)


async def test_a_refusal_whose_body_does_not_end_is_passed_on_in_time():
    """The deadline ends what is read of its body, and not the answer."""

    async def handle(request):
        response = web.StreamResponse(status=503, headers={"Retry-After": "7"})
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.Event().wait()

    async with local_server(handle) as url:
        answer = await forwarded(url, seconds=0.3)

    assert (503, b"x", None) == (answer.status_code, answer.body, answer.failure)


async def test_a_long_header_is_read_as_a_receiver_is():
    """The limits of a head are the same on both roads."""

    async def handle(_request):
        return web.Response(headers={"X-Long": "y" * 12_000})

    async with local_server(handle) as url:
        answer = await forwarded(url)

    assert 200 == answer.status_code
    assert (HEAD_LINE_LIMIT, HEAD_COUNT_LIMIT) == (HEAD_LINE_MAX, HEAD_COUNT_MAX)


@pytest.mark.parametrize(
    ("failure", "answer"),
    [
        (ListenerFailure.TIMEOUT, None),
        (ListenerFailure.UNREACHABLE, b""),
        (ListenerFailure.MALFORMED, b"SSH-2.0\r\n\r\n"),
        (ListenerFailure.MALFORMED, b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
        (ListenerFailure.MALFORMED, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
    ],
)
async def test_a_broken_server_is_a_failure(failure, answer):
    """Whatever a local server does, the result is a value in time, with words for its developer."""
    async with raw_server(answer) as url:
        result = await forwarded(url, seconds=0.3 if answer is None else PATIENCE_SECONDS)

    assert failure == result.failure
    assert result.detail


async def test_a_server_that_does_not_run_is_unreachable():
    """Where nothing listens, the failure says so."""
    result = await forwarded("http://127.0.0.1:1")

    assert ListenerFailure.UNREACHABLE == result.failure, result


async def test_another_machine_is_not_connected_to():
    """A name that leads to another machine leads nowhere."""
    for address in ("192.0.2.1", "10.0.0.1"):
        info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
        with pytest.raises(PermissionError, match="allow-host"):
            loopback_only(info)
    loopback_only((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))).close()


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "invoices"},
        {"path": "//evil.example/"},
        {"path": "@evil.example/"},
        {"body_base64": "é"},
        {"headers": []},
        {"path": None},
    ],
)
def test_a_strange_delivery_is_refused(changes):
    """A service cannot lead a request to another host than the local server."""
    with pytest.raises((ValueError, TypeError, AttributeError)):
        LocalRequest.of({**EVENT, **changes})


# The listener and a service


class FakeService:
    """A service that sends the pieces of *script* to each connection, and keeps what is posted."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.connections = Journal()
        self.posted = Journal()
        self.answer_status = 204
        self.url = ""
        self._open = []

    async def stream(self, request):
        """Send the next script, and keep the connection open, unless the script ends with None."""
        self.connections.add(dict(request.query))
        script = self.scripts.pop(0) if self.scripts else []
        if isinstance(script, web.Response):
            return script
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in script:
            if piece is None:
                return response
            await response.write(piece)
        self._open.append(response)
        await asyncio.get_running_loop().create_future()
        return response

    async def tell(self, piece):
        """Send more over the newest connection."""
        await self._open[-1].write(piece)

    async def post(self, request):
        """Keep what is posted."""
        self.posted.add((request.path, await request.json() if request.can_read_body else None))
        if request.path.endswith("/1"):
            if self.answer_status == 204:
                await self.tell(sent(9, "settled", SETTLED))
            return web.Response(status=self.answer_status)
        return web.Response(status=204)


@asynccontextmanager
async def served(service):
    """*service* on a port of this machine."""
    app = web.Application()
    app.router.add_get("/listen/laptop/stream", service.stream)
    app.router.add_post("/{path:.*}", service.post)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield service
    finally:
        await runner.cleanup()


class Running:
    """A listener that runs; what it reports is in *notices*."""

    def __init__(self):
        self.notices = Journal()
        self.listener = None
        self.task = None
        self.stop = asyncio.Event()

    async def noticed(self, kind, count=1):
        """Wait for so many notices of that kind; returns the last of them."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = [one for one in self.notices.entries if isinstance(one, kind)]
                if len(found) >= count:
                    return found[count - 1]
                await self.notices.reaches(len(self.notices) + 1)

    async def ended(self):
        """Wait until it has ended; returns the exit status."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.task


@asynccontextmanager
async def listener(service, forward_to="http://127.0.0.1:1", *, is_once=False):
    """A running listener of *service*; it is stopped at the end of the block."""
    running = Running()
    link = ServiceConnection(service.url, "laptop", "inl_key")
    forwarder = Forwarder(forward_to, loopback_only)
    running.listener = Listener(
        link,
        forwarder,
        running.notices.add,
        name="laptop",
        forward_to=forward_to,
        is_once=is_once,
    )
    async with link, forwarder:
        running.task = asyncio.create_task(running.listener.run(running.stop))
        try:
            yield running
        finally:
            running.stop.set()
            await running.ended()


async def ok(_request):
    """A local server that acknowledges."""
    return web.json_response({"ok": True})


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Tries to connect follow each other at once."""
    monkeypatch.setattr("service.listener.listener.BACKOFF_SECONDS", (0.0, 0.0, 0.0))


def a_script(*more):
    """What a connection sends first, and *more*."""
    return [sent(1, "connected", CONNECTED), *more]


async def test_a_delivery_is_forwarded_and_answered():
    """A delivery is acknowledged, forwarded and answered, and the word of the service reported."""
    async with (
        local_server(ok) as local,
        served(FakeService(a_script(sent(2, "delivery", EVENT)))) as service,
        listener(service, local) as running,
    ):
        connected = await running.noticed(Connected)
        forwarded_ = await running.noticed(Forwarded)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "/listen/laptop/seen" not in dict(service.posted.entries):
                await service.posted.reaches(len(service.posted) + 1)

    posted = dict(service.posted.entries)
    assert (CONNECTED["callback_url"], local, 2) == (
        connected.callback_url,
        connected.forward_to,
        connected.waiting_count,
    )
    assert {"acknowledge": "true"} == service.connections.entries[0]
    assert 200 == posted["/listen/laptop/msg_1/1"]["status"]
    assert "s1" == posted["/listen/laptop/seen"]["stream"]
    assert ("POST", "/invoices/a%2Fb", 200) == (
        forwarded_.method,
        forwarded_.path,
        forwarded_.status_code,
    )
    assert ("delivered", None) == (forwarded_.status, forwarded_.detail)


@pytest.mark.parametrize(("is_delivered", "status"), [(True, 0), (False, 1)])
async def test_once_ends_after_one_delivery(is_delivered, status):
    """With --once the exit status says whether the delivery was delivered."""
    service = FakeService(a_script(*(sent(n, "delivery", EVENT) for n in (2, 3, 4))))
    service.answer_status = 204 if is_delivered else 409
    async with (
        local_server(ok) as local,
        served(service),
        listener(service, local, is_once=True) as running,
    ):
        assert status == await running.ended()

    assert 1 == len([path for path, _ in service.posted.entries if path.endswith("/1")])


async def test_an_answer_that_is_too_late_is_reported():
    """The service does not take the answer: that is said, and nothing is claimed."""
    service = FakeService(a_script(sent(2, "delivery", EVENT)))
    service.answer_status = 409
    async with (
        local_server(ok) as local,
        served(service),
        listener(service, local) as running,
    ):
        notice = await running.noticed(Forwarded)

    assert (None, 200) == (notice.status, notice.status_code)
    assert "does not take the answer" in notice.detail


async def test_a_delivery_that_is_out_of_date_is_not_forwarded():
    """After its deadline a request is not made: the service sends it again."""
    late = {**EVENT, "deadline_at": CONNECTED["now"]}
    script = a_script(sent(2, "delivery", late), sent(3, "delivery", {**EVENT, "id": "msg_2"}))
    async with (
        local_server(ok) as local,
        served(FakeService(script)) as service,
        listener(service, local) as running,
    ):
        notice = await running.noticed(Forwarded)

    assert "msg_2" == notice.delivery_id


@pytest.mark.parametrize("end", [[None], [sent(2, "closed", {"reason": "stopping"})]])
async def test_a_lost_connection_is_made_again(end):
    """The listener connects again, and says which connection it has lost."""
    service = FakeService(a_script(*end), a_script())
    async with served(service), listener(service) as running:
        lost = await running.noticed(Disconnected)
        await running.noticed(Connected, 2)

    assert lost.reason
    assert {"acknowledge": "true", "replaces": "s1"} == service.connections.entries[1]


async def test_a_service_that_is_away_is_tried_again():
    """Also before the first connection, the listener goes on trying."""
    away = [web.Response(status=503, text="{}"), web.Response(status=429)]
    service = FakeService(*away, a_script())
    async with served(service), listener(service) as running:
        await running.noticed(Connected)

    reasons = [one.reason for one in running.notices.entries if isinstance(one, Disconnected)]
    assert ["503", "429"] == [reason[:3] for reason in reasons]


@pytest.mark.parametrize("status", [401, 404, 422, 302])
async def test_a_refusal_ends_the_listener(status):
    """What trying again would not change ends with 1, and the words of the service."""
    service = FakeService(web.json_response({"detail": "no \x1b key"}, status=status))
    async with served(service), listener(service) as running:
        assert 1 == await running.ended()

    assert f"({status}): no \x1b key" in running.notices.entries[0].reason


@pytest.mark.parametrize("script", [web.Response(text="hello"), [b"<html>\n\n"]])
async def test_another_server_is_recognised(script):
    """A URL that is not that of the service ends the listener in words."""
    service = FakeService(script)
    async with served(service), listener(service) as running:
        assert 1 == await running.ended()

    assert "is not this service" in running.notices.entries[0].reason


async def test_a_displaced_listener_ends():
    """The listener says that another one has the name, and does not fight for it."""
    service = FakeService(a_script(sent(2, "displaced", {})))
    async with served(service), listener(service) as running:
        assert 1 == await running.ended()

    assert isinstance(running.notices.entries[-1], Displaced)
    assert 1 == len(service.connections)


async def test_a_pause_disconnects():
    """While it is paused nothing is connected; then the listener goes on."""
    service = FakeService(a_script(), a_script())
    async with served(service), listener(service) as running:
        await running.noticed(Connected)
        running.listener.pause()
        paused = await running.noticed(Disconnected)
        running.listener.pause()
        await running.noticed(Connected, 2)

    assert ("paused", None) == (paused.reason, paused.again_in_seconds)


async def test_the_last_delivery_is_delivered_again():
    """The service is asked for what came last."""
    service = FakeService(a_script(sent(2, "delivery", EVENT)))
    async with (
        local_server(ok) as local,
        served(service),
        listener(service, local) as running,
    ):
        running.listener.redeliver_last()
        first = await running.noticed(Told)
        await running.noticed(Forwarded)
        running.listener.redeliver_last()
        second = await running.noticed(Told, 2)

    assert "Nothing has come yet." == first.text
    assert "msg_1 is delivered again." == second.text
    assert "/listen/laptop/msg_1/redeliver" in dict(service.posted.entries)


async def test_a_silent_link_is_dead(monkeypatch):
    """If nothing comes for too long, the listener connects again."""
    monkeypatch.setattr(connection, "LISTENER_SILENCE", connection.LISTENER_SILENCE * 0)
    monkeypatch.setattr(connection, "LOOK_SECONDS", 0.01)
    service = FakeService(a_script(), a_script())
    async with served(service), listener(service) as running:
        lost = await running.noticed(Disconnected)
        await running.noticed(Connected, 2)

    assert "nothing came" in lost.reason


async def test_what_arrived_while_the_program_slept_is_not_used(monkeypatch):
    """After a sleep the connection is given up: what it brought is out of date."""
    monkeypatch.setattr(connection, "SLEPT_SECONDS", -1.0)
    monkeypatch.setattr(connection, "LOOK_SECONDS", 0.01)
    service = FakeService(a_script(sent(2, "delivery", EVENT)))
    async with served(service), listener(service) as running:
        lost = await running.noticed(Disconnected)

    assert "did not run" in lost.reason
    assert not [one for one in running.notices.entries if isinstance(one, Forwarded)]


async def test_an_unknown_event_is_passed_over():
    """A later version of the service may send more events."""
    service = FakeService(a_script(sent(2, "news", {}), sent(3, "displaced", {})))
    async with served(service), listener(service) as running:
        assert 1 == await running.ended()

    assert isinstance(running.notices.entries[-1], Displaced)


async def test_a_delivery_that_makes_no_sense_ends_the_listener():
    """A delivery without what a request needs is not guessed at."""
    service = FakeService(a_script(sent(2, "delivery", {"id": "x"})))
    async with served(service), listener(service) as running:
        assert 1 == await running.ended()

    assert "Update it" in running.notices.entries[-1].reason


async def test_nothing_listens_is_a_lost_link():
    """Errors of a connection are told in words."""
    async with ServiceConnection("http://127.0.0.1:1", "laptop", "") as service:
        with pytest.raises(LinkLost, match="connect"):
            async with service.events() as events:
                await anext(events)
        with pytest.raises(LinkLost):
            await service.acknowledge("s", 1)


def test_the_clock_of_the_service_counts(monkeypatch):
    """How long there is until a deadline is measured with the clock of the service."""
    link, (event,) = Link(), EventReader().read(sent(1, "connected", CONNECTED))
    monkeypatch.setattr(listener_module, "monotonic", lambda: 100.0)
    link.note(event)

    assert 15 == pytest.approx(link.seconds_until(EVENT["deadline_at"]))
    monkeypatch.setattr(listener_module, "monotonic", lambda: 103.5)
    assert 11.5 == pytest.approx(link.seconds_until(EVENT["deadline_at"]))


# What is printed

FORWARDED = Forwarded(
    delivery_id="msg_1",
    attempt=1,
    method="POST",
    path="/invoices/1",
    status_code=200,
    failure=None,
    duration_ms=12,
    outcome="delivered",
    status="delivered",
    reason=None,
    due_at=None,
    detail=None,
)


def test_a_delivery_is_printed_on_one_line(capsys):
    """Method, path, answer, duration and decision."""
    print_as_text(FORWARDED)

    assert "POST /invoices/1  200  12 ms  delivered\n" == capsys.readouterr().out


@pytest.mark.parametrize("write", [print_as_text, print_as_json])
def test_a_terminal_obeys_nothing_that_is_printed(write, capsys):
    """Control characters of a service or a local server do not reach the terminal."""
    write(Disconnected(reason="a\x1b[2J\r\nb\x9b\u202e", again_in_seconds=1.0))
    write(Told(text="\x07"))

    lines = capsys.readouterr().out.splitlines()
    assert 2 == len(lines)
    assert all(line.isprintable() for line in lines)


def test_json_has_a_line_for_each_event(capsys):
    """Each line is one object with the name of the event."""
    for notice in (FORWARDED, Displaced(name="laptop")):
        print_as_json(notice)

    first, second = map(orjson.loads, capsys.readouterr().out.splitlines())
    assert ("delivery", "delivered") == (first["event"], first["status"])
    assert {"event": "displaced", "name": "laptop"} == second


# The command


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--forward-to"),
        (["--forward-to", "localhost:3000"], "http://"),
        (["--forward-to", "http://10.0.0.1:3000"], "--allow-host 10.0.0.1"),
        (["--forward-to", "http://web.example"], "--allow-host web.example"),
        (["--forward-to", "http://localhost.example"], "--allow-host"),
        (["--forward-to", "http://localhost:3000?x=1"], "query"),
        (["--forward-to", "http://localhost", "--name", "Laptop"], "lower-case"),
        (["--forward-to", "http://localhost", "--url", "ftp://x"], "--url"),
    ],
)
def test_wrong_usage_is_explained(run_command, arguments, word):
    """Wrong usage ends with 2, before anything is connected."""
    ended = run_command("listen", *arguments)

    assert 2 == ended.exit_code
    assert word in ended.output


def test_an_answer_or_a_failure_is_sent():
    """A failure is sent without words: these are for the developer at the terminal."""
    failed = LocalAnswer(failure=ListenerFailure.TIMEOUT, detail="no complete answer")

    assert {"failure": "timeout"} == failed.as_object()
