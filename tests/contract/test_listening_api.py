"""The operations of listeners: their callback URLs, their connection, their answers, their keys."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import asynccontextmanager

import orjson
import pytest

from service.accounts.administration import AccountAdministration
from service.accounts.encryption import SecretCipher, new_encryption_key
from service.accounts.listen_keys import LIFETIME
from service.api import listening
from service.api.application import (
    LISTENING_OPERATIONS,
    OPERATIONS,
    make_application,
    make_health_application,
)
from service.app.process import ALONE
from service.delivery.listening import ANSWER_BYTES_MAX
from service.loops import running_loops
from tests.askers import Asker
from tests.clock import PATIENCE_SECONDS
from tests.rows import LISTENER_URL, ONE, add_delivery, for_listener

OK = {"status": 200, "headers": {"X": "y"}, "body_base64": b64encode(b'{"ok": true}').decode()}
STREAM = "/listen/laptop/stream"
PLACE = "/listen/laptop/msg_1/1"


@pytest.fixture
async def running(service):
    """The service with the loops that deliver."""
    async with running_loops(
        (service.dependencies.listeners, service.dispatcher), drain_seconds=PATIENCE_SECONDS
    ):
        # Both begin with the first turn of the event loop.
        while not service.dispatcher.is_running:  # noqa: ASYNC110 -- a loop sets no event
            await asyncio.sleep(0)
        yield service


@pytest.fixture
async def client(aiohttp_client, running):
    """A client of the application of that service."""
    return await aiohttp_client(make_application(running.dependencies))


class Events:
    """The events of an open connection."""

    def __init__(self, response):
        self.response = response

    async def next(self, name):
        """The number and the data of the next event of that name; others are skipped."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                lines = (await self.response.content.readuntil(b"\n\n")).decode().split("\n")
                number, event, data = (line.partition(": ")[2] for line in lines[:3])
                if event == name:
                    return int(number), orjson.loads(data)

    async def ended(self):
        """Wait until the service has ended the connection; returns what came before."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.response.content.read()


@asynccontextmanager
async def listening_to(client, path=STREAM, **options):
    """The events at *path*; the connection is closed at the end of the block."""
    async with client.get(path, **options) as response:
        assert 200 == response.status, await response.text()
        yield Events(response)


async def send(api, callback_url, id_="1"):
    """Send an invoice with that callback URL; the answer."""
    body = {"id": id_, "customer": "c", "total": "1"}
    return await api.post("/invoices/", params={"callback_url": callback_url}, json=body)


# The callback URL


@pytest.mark.parametrize("name", ["laptop", "a", "0-9", "a" * 64])
@pytest.mark.parametrize("end", ["", "/"])
async def test_the_url_of_a_listener_is_a_callback_url(api, store, name, end):
    """It is accepted although no other URL of this host is, and gets an origin of its own."""
    assert 202 == (await send(api, LISTENER_URL + name + end)).status

    invoice = (await store.history.find_invoice("dev", "1"))["callbacks"]
    assert f'"listen://{name}"' in invoice
    assert f'"{LISTENER_URL}{name}/invoices/1"' in invoice


@pytest.mark.parametrize(
    "callback_url",
    [
        LISTENER_URL,
        LISTENER_URL + "Laptop",
        LISTENER_URL + "-a",
        LISTENER_URL + "a" * 65,
        LISTENER_URL + "a_b",
        LISTENER_URL + "laptop/more",
        LISTENER_URL + "lap%74op",
        LISTENER_URL.replace("http", "HTTP") + "laptop",
        LISTENER_URL.replace("127.0.0.1", "localhost") + "laptop",
        LISTENER_URL.replace("/listen", "//listen") + "laptop",
        LISTENER_URL.replace("/listen", "/x/../listen") + "laptop",
        "http://127.0.0.1:8080/invoices",
    ],
)
async def test_no_other_url_of_the_service_is_accepted(api, callback_url):
    """The form is exact: anything else is judged as every URL is."""
    answer = await send(api, callback_url)

    assert 422 == answer.status
    assert ["/callback_url"] == [one["pointer"] for one in (await answer.json())["errors"]]


@pytest.mark.parametrize("beginning", ["http://localhost:8080/listen/", LISTENER_URL + "UPPER"])
async def test_a_url_that_was_meant_for_a_listener_is_explained(dev_api, beginning):
    """Where loopback may be called, a URL that would lead back here is refused in words."""
    answer = await send(dev_api, beginning + "laptop")

    assert 422 == answer.status
    (error,) = (await answer.json())["errors"]
    assert f"{LISTENER_URL}NAME" in error["message"]


@pytest.mark.parametrize("url", ["http://localhost:9000/listen/laptop", "http://127.0.0.1:8080/x"])
async def test_receivers_on_this_machine_are_accepted_as_before(dev_api, url):
    """In development mode another port, or another path, is a receiver."""
    assert 202 == (await send(dev_api, url)).status


# The connection


async def test_a_delivery_goes_over_the_connection(client, store, receivers):
    """A delivery comes as an event, and its answer is the recorded attempt."""
    async with listening_to(client) as events:
        assert "text/event-stream" == events.response.content_type
        assert "no" == events.response.headers["X-Accel-Buffering"]
        assert 1 == (await events.next("connected"))[0]
        await add_delivery(store, "1", **for_listener("laptop"))
        _, delivery = await events.next("delivery")
        path = f"/listen/laptop/{delivery['id']}/{delivery['attempt']}"
        answers = [await client.post(path, json=OK) for _ in range(2)]
        _, settled = await events.next("settled")

    assert [204, 409] == [answer.status for answer in answers]
    assert "application/problem+json" == answers[1].content_type
    assert "delivered" == settled["status"]
    (attempt,) = (await store.history.find_delivery("dev", "msg_1"))["attempts"]
    assert (200, '{"ok": true}') == (attempt["status_code"], attempt["response_body"])
    assert [] == receivers.requests.entries


async def test_a_failure_of_the_local_server_is_recorded(client, store):
    """Without an answer of the local server the attempt has the outcome of such a receiver."""
    async with listening_to(client) as events:
        await events.next("connected")
        await add_delivery(store, "1", **for_listener("laptop"))
        await events.next("delivery")
        assert 204 == (await client.post(PLACE, json={"failure": "unreachable"})).status
        _, settled = await events.next("settled")

    assert ("unreachable", "pending") == (settled["outcome"], settled["status"])


async def test_a_closed_connection_is_noticed(client, store, service, monkeypatch):
    """After the client has closed the connection, its deliveries wait for the next one."""
    monkeypatch.setattr(listening, "LOOK_SECONDS", 0.01)
    listeners = service.dependencies.listeners
    async with listening_to(client) as events:
        await events.next("connected")
        await add_delivery(store, "1", **for_listener("laptop"))
        await events.next("delivery")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while listeners.permits("dev x", "listen://laptop"):  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0)

    async with listening_to(client) as events:
        await events.next("connected")
        assert 1 == (await events.next("delivery"))[1]["attempt"]


async def test_a_newer_connection_displaces_an_older_one(client):
    """The older connection is told, and ends; the newer one is told as well."""
    async with listening_to(client) as old:
        await old.next("connected")
        async with listening_to(client) as new:
            _, connected = await new.next("connected")
            await old.next("displaced")

            assert b"" == await old.ended()
            assert connected["has_displaced"]


async def test_events_are_acknowledged(client):
    """An acknowledgement names the connection, and is refused for one that has ended."""
    async with listening_to(client, STREAM + "?acknowledge=true") as events:
        number, connected = await events.next("connected")
        seen = {"stream": connected["stream"], "event": number}
        statuses = [
            (await client.post("/listen/laptop/seen", json=one)).status
            for one in (seen, {**seen, "stream": "another"})
        ]

    assert [204, 409] == statuses


async def test_head_opens_no_connection(client, service):
    """HEAD is answered like GET, without a connection."""
    answer = await client.head(STREAM)

    assert (200, "text/event-stream") == (answer.status, answer.content_type)
    assert not service.dependencies.listeners.permits("dev x", "listen://laptop")


async def test_a_process_that_does_not_deliver_says_so(api):
    """Without the loops that deliver, a connection is refused with 503."""
    answer = await api.get(STREAM)
    document = await answer.json()

    assert (503, "5") == (answer.status, answer.headers["Retry-After"])
    assert document["type"].endswith("#listeners-unavailable")
    assert "role" in document["detail"]


async def test_a_dispatcher_serves_listeners(aiohttp_client, running):
    """A process that only delivers takes connections and answers, and no invoices."""
    client = await aiohttp_client(make_health_application(running.dependencies))
    async with listening_to(client) as events:
        await events.next("connected")

    assert 409 == (await client.post(PLACE, json=OK)).status
    assert 404 == (await client.post("/listen-keys")).status


@pytest.mark.parametrize("path", ["/invoices/", "/api/docs", "/nowhere"])
async def test_a_dispatcher_says_what_it_serves(aiohttp_client, running, path):
    """A path of the other role is told about that role, and not about documents without one."""
    client = await aiohttp_client(make_health_application(running.dependencies))

    answer = await client.get(path)

    assert 404 == answer.status
    assert "--role dispatcher" in (await answer.json())["detail"]


async def test_a_stop_ends_connections_at_once(aiohttp_server, running):
    """A server that stops says so to its listeners, and does not wait for them."""
    app = make_application(running.dependencies)
    server = await aiohttp_server(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"connected")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await app.shutdown()
        assert b'{"reason":"stopping"}' in await reader.read()
    writer.close()


@pytest.mark.parametrize("query", ["?acknowledge=yes", "?name=x", "?replaces=" + "a" * 201])
async def test_invalid_parameters_are_refused(client, query):
    """An undeclared or invalid parameter is a field error."""
    assert 422 == (await client.get(STREAM + query)).status


@pytest.mark.parametrize("name", ["Laptop", "a" * 65, "%20", "a%0a", "-"])
async def test_invalid_names_are_refused(client, name):
    """A name that no callback URL can have is a field error of every operation."""
    assert 422 == (await client.get(f"/listen/{name}/stream")).status
    assert 422 == (await client.post(f"/listen/{name}/msg_1/1", json=OK)).status


# Answers


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {**OK, "failure": "timeout"},
        {"failure": "other"},
        {**OK, "status": 199},
        {**OK, "status": 600},
        {**OK, "status": "200"},
        {**OK, "status": True},
        {**OK, "body_base64": "="},
        {**OK, "body_base64": "a\n"},
        {**OK, "body_base64": "é"},
        {**OK, "body_base64": None},
        {**OK, "headers": {str(number): "x" for number in range(65)}},
        {**OK, "headers": {"x": "y" * 4097}},
        {**OK, "headers": {"x": "a\r\nb"}},
        {**OK, "headers": {"x": 1}},
        {**OK, "headers": []},
        {**OK, "other": 1},
    ],
)
async def test_an_invalid_answer_is_refused(client, wrong):
    """What is no answer is a field error, and ends no attempt."""
    answer = await client.post(PLACE, json=wrong)

    assert 422 == answer.status, await answer.text()


@pytest.mark.parametrize("path", ["/listen/laptop/msg_1/0", "/listen/laptop/msg_1/x"])
async def test_an_invalid_attempt_is_refused(client, path):
    """The number of an attempt is a whole number from 1."""
    assert 422 == (await client.post(path, json=OK)).status


async def test_an_answer_is_bounded(client):
    """It may be as long as that of a receiver, whatever other requests may be; no longer."""
    longest = b64encode(b"x" * ANSWER_BYTES_MAX).decode()
    headers = {"x": "y" * 1_000, "z": "y" * 1_000}

    answer = await client.post(PLACE, json={**OK, "headers": headers, "body_base64": longest})
    assert 409 == answer.status
    answer = await client.post(PLACE, json={**OK, "body_base64": "A" * 100_000})
    assert 413 == answer.status
    answer = await client.post("/listen/laptop/seen", data=b"x" * 70_000)
    assert 413 == answer.status


async def test_chunks_are_bounded_by_the_limit_of_their_operation(client):
    """A body that does not announce its length may not be larger than one that does."""

    async def chunks():
        for _ in range(70):
            yield b"x" * 1024

    answer = await client.post("/listen/laptop/seen", data=chunks())

    assert 413 == answer.status


# Redelivery


async def test_a_delivery_of_a_listener_is_redelivered(client, store):
    """What came to a listener comes again, whatever became of it."""
    async with listening_to(client) as events:
        await events.next("connected")
        await add_delivery(store, "1", **for_listener("laptop"))
        await events.next("delivery")
        assert 409 == (await client.post("/listen/laptop/msg_1/redeliver")).status
        assert 204 == (await client.post(PLACE, json=OK)).status
        await events.next("settled")

        assert 204 == (await client.post("/listen/laptop/msg_1/redeliver")).status

        assert 2 == (await events.next("delivery"))[1]["attempt"]


@pytest.mark.parametrize(
    "path", ["/listen/other/msg_1", "/listen/laptop/msg_2", "/listen/laptop/x"]
)
async def test_what_is_not_of_the_listener_is_not_redelivered(api, store, path):
    """Deliveries of other listeners and of receivers are not found, and stay as they are."""
    await add_delivery(store, "1", **for_listener("laptop"))
    await add_delivery(store, "2", origin=ONE)
    before = [await store.history.find_delivery("dev", f"msg_{number}") for number in (1, 2)]

    assert 404 == (await api.post(f"{path}/redeliver")).status

    assert before == [
        await store.history.find_delivery("dev", f"msg_{number}") for number in (1, 2)
    ]


async def test_an_answer_to_nothing_is_too_late(client):
    """An unknown attempt is a conflict: it may have ended long ago."""
    assert 409 == (await client.post(PLACE, json=OK)).status


# Keys


class TestWithKeys:
    """Requests of accounts, as in production."""

    @pytest.fixture
    def process(self):
        """A process as in production."""
        return ALONE

    @pytest.fixture
    async def administration(self, store, clock):
        """The administration of accounts."""
        return AccountAdministration(store, SecretCipher([new_encryption_key()]), clock)

    @pytest.fixture
    async def ann(self, administration, client):
        """A client with the key of an account."""
        return Asker(client, f"Bearer {(await administration.add('ann')).key}")

    @pytest.fixture
    async def key(self, ann):
        """A key to listen of that account."""
        answer = await ann.ask("POST", "/listen-keys")
        assert 201 == answer.status
        document = orjson.loads(answer.body)
        assert {"key", "expires_at"} == document.keys()
        return document["key"]

    async def test_a_key_permits_to_listen_alone(self, client, ann, key):
        """A key to listen opens a connection, acknowledges and answers, and does nothing else."""
        headers = {"Authorization": f"Bearer {key}"}
        async with listening_to(client, headers=headers) as events:
            _, connected = await events.next("connected")
            developer = Asker(client, headers["Authorization"])
            seen = {"stream": connected["stream"], "event": 1}

            assert 204 == (await developer.ask("POST", "/listen/laptop/seen", json=seen)).status
            assert 409 == (await developer.ask("POST", PLACE, json=OK)).status
            assert 404 == (await developer.ask("POST", "/listen/laptop/msg_9/redeliver")).status
            listening_paths = {one.path for one in LISTENING_OPERATIONS}
            for one in OPERATIONS:
                if one.path not in listening_paths and one.is_private:
                    path = one.path.replace("{id}", "msg_1")
                    assert 401 == (await developer.ask(one.method, path)).status, one.path

    async def test_the_key_of_the_account_listens_as_well(self, client, ann):
        """An account needs no other key."""
        async with listening_to(client, headers=ann.headers) as events:
            assert (await events.next("connected"))[1]["callback_url"] == LISTENER_URL + "laptop"

    async def test_without_a_key_nobody_listens(self, client, ann):
        """A connection, an answer and a key to listen all need a key."""
        anonymous = Asker(client)

        assert 401 == (await anonymous.ask("GET", STREAM)).status
        assert 401 == (await anonymous.ask("POST", PLACE, json=OK)).status
        assert 401 == (await anonymous.ask("POST", "/listen/laptop/msg_1/redeliver")).status
        assert 401 == (await anonymous.ask("POST", "/listen-keys")).status

    async def test_a_connection_ends_with_its_key(self, client, key, clock, monkeypatch):
        """A connection does not outlive its key."""
        monkeypatch.setattr(listening, "LOOK_SECONDS", 0.01)
        monkeypatch.setattr(listening, "KEY_SECONDS", 0.0)
        async with listening_to(client, headers={"Authorization": f"Bearer {key}"}) as events:
            await events.next("connected")
            clock.jump(LIFETIME)
            assert {"reason": "refused"} == (await events.next("closed"))[1]
            assert b"" == await events.ended()


async def test_in_development_mode_no_key_is_needed(client):
    """Without a key, the account of development mode listens, and gets a key if it asks."""
    assert 201 == (await client.post("/listen-keys")).status
