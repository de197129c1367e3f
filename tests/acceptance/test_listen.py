"""`invoices listen` as a developer uses it: the real command, a real service, a real receiver."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import defaultdict
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from standardwebhooks import Webhook

from service.development import DEV_SECRET
from tests import processes
from tests.processes import (
    DEADLINE_SECONDS,
    command,
    environment,
    free_port,
    receiving,
    serving,
    starting,
)

pytestmark = pytest.mark.usefixtures("migrated")

TWO_EVENTS = ("tests.acceptance.two_events",)
"""The service with a collector that reports two events of each invoice."""

OK = {"status": 200, "headers": {}, "body_base64": "eyJvayI6IHRydWV9"}


class Command:
    """A process of `invoices listen --json`, and what it prints."""

    def __init__(self, process):
        self.process = process
        self.printed = []
        self._has_grown = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    def events(self, name):
        """The lines about events of that name."""
        return [line for line in self.printed if name == line["event"]]

    async def has_printed(self, name, count=1):
        """Wait for so many lines about events of that name; returns the last of them."""
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            while len(self.events(name)) < count:
                self._has_grown.clear()
                await self._has_grown.wait()
        return self.events(name)[count - 1]

    async def ended(self):
        """Wait until it has ended; returns the exit status."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            status = await self.process.wait()
            await self._reading
        return status

    async def _read(self):
        async for line in self.process.stdout:
            self.printed.append(json.loads(line))
            self._has_grown.set()


@asynccontextmanager
async def listening(url, forward_to, *arguments):
    """A running `invoices listen`; it is killed at the end of the block."""
    process = await processes.start_process(
        *("service", "listen", "--json", "--name", "laptop"),
        *("--forward-to", forward_to, *arguments),
        env=environment(API_URL=url),
        stdout=asyncio.subprocess.PIPE,
    )
    running = Command(process)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await running.ended()


@pytest.fixture
async def receiver():
    """The receiver on the developer's machine."""
    async with receiving() as receiver:
        yield receiver


def callback_url(service):
    """The callback URL of the listener."""
    return f"{service.url}/listen/laptop"


async def test_callbacks_come_to_the_laptop(tmp_path, database_url, receiver):
    """A callback arrives as a receiver gets it, and the answer of the laptop is the attempt."""
    async with serving(tmp_path, database_url=database_url) as service:
        assert 202 == (await service.send("before", callback_url(service)))[0]
        waiting = await service.delivery_of("before")
        async with listening(service.url, receiver.url + "/hooks/") as laptop:
            connected = await laptop.has_printed("connected")
            assert 202 == (await service.send("a/b", callback_url(service)))[0]
            await laptop.has_printed("delivery", 2)
            delivered = await service.delivery_of("before", is_settled=True)
            laptop.process.terminate()
            assert 0 == await laptop.ended()

    assert ("pending", "listener", 0) == (
        waiting["status"],
        waiting["waiting_for"],
        waiting["attempt_count"],
    )
    assert (callback_url(service), receiver.url + "/hooks/") == (
        connected["callback_url"],
        connected["forward_to"],
    )
    assert [("delivered", 200)] * 2 == [
        (line["outcome"], line["status_code"]) for line in laptop.events("delivery")
    ]
    assert "delivered" == delivered["status"]
    for method, path, headers, body in receiver.arrived.entries:
        assert ("POST", "/hooks/invoices/") == (method, path[:16])
        Webhook(DEV_SECRET).verify(body, {name.lower(): text for name, text in headers.items()})


async def test_once_exits_with_the_outcome(tmp_path, receiver):
    """With --once the command exits after one delivery: 0 if it was delivered, else 1."""
    statuses = []
    async with serving(tmp_path) as service:
        for number, status in ((1, 500), (2, 200)):
            receiver.answer(status=status)
            async with listening(service.url, receiver.url, "--once") as laptop:
                await laptop.has_printed("connected")
                await service.send(f"{number}", callback_url(service))
                statuses.append(await laptop.ended())

    assert [1, 0] == statuses


async def test_a_newer_listener_displaces(tmp_path, receiver):
    """Of two commands with one name the newer one gets the callbacks, and the older one ends."""
    async with (
        serving(tmp_path) as service,
        listening(service.url, "http://127.0.0.1:1") as old,
    ):
        await old.has_printed("connected")
        async with listening(service.url, receiver.url) as new:
            assert (await new.has_printed("connected"))["has_displaced"]
            assert 1 == await old.ended()
            await service.send("1", callback_url(service))
            assert "delivered" == (await new.has_printed("delivery"))["status"]

    assert "laptop" == (await old.has_printed("displaced"))["name"]
    assert [] == old.events("delivery")


async def test_the_command_survives_a_kill_of_the_service(tmp_path, receiver):
    """After kill -9 and a restart it connects again; nothing is lost, and the order is kept."""
    port = free_port()
    options = {"port": port, "program": TWO_EVENTS, "RETRY_SCHEDULE": ",".join(["100ms"] * 9)}
    async with serving(tmp_path, **options) as service:
        url = callback_url(service)
        async with listening(service.url, receiver.url) as laptop:
            await laptop.has_printed("connected")
            for number in range(40):
                assert 202 == (await service.send(f"{number}", url))[0]
            await receiver.arrived.reaches(10)
            service.signal(signal.SIGKILL)
            await service.ended()
            await laptop.has_printed("disconnected")
            async with serving(tmp_path, **options) as restarted:
                await laptop.has_printed("connected", 2)
                await restarted.at_rest()
                deliveries = await delivered(restarted)

    assert_all_came(receiver, deliveries, 40)


@pytest.mark.slow
async def test_a_stopped_listener_loses_nothing(tmp_path, receiver):
    """A command that is stopped in the middle of many events goes on where it was."""
    options = {"program": TWO_EVENTS, "CALLBACK_TIMEOUT": "15s", "RETRY_SCHEDULE": "1s,1s,1s"}
    async with (
        serving(tmp_path, **options) as service,
        listening(service.url, receiver.url) as laptop,
    ):
        await laptop.has_printed("connected")
        for number in range(60):
            assert 202 == (await service.send(f"{number}", callback_url(service)))[0]
        await receiver.arrived.reaches(20)
        laptop.process.send_signal(signal.SIGSTOP)
        for number in range(60, 80):
            assert 202 == (await service.send(f"{number}", callback_url(service)))[0]
        ended = await service.logged("listener.ended")
        laptop.process.send_signal(signal.SIGCONT)
        await laptop.has_printed("connected", 2)
        await service.at_rest()
        deliveries = await delivered(service)

    assert "silent" == ended["reason"]
    assert_all_came(receiver, deliveries, 80)


async def delivered(service):
    """The deliveries of all invoices, by the id of their invoice."""
    found, after = defaultdict(list), ""
    while True:
        page = await service.get(f"/deliveries/?limit=200{after}")
        for delivery in page["items"]:
            found[delivery["invoice_id"]].append(delivery)
        if not page["next"]:
            return found
        after = f"&after={page['next']}"


def assert_all_came(receiver, deliveries, count):
    """Check that both events of each invoice came, in their order, and that none was given up."""
    assert count == len(deliveries)
    for id_, calls in receiver.calls().items():
        # Newest first.
        second, first = deliveries[id_]
        ids = [webhook_id for webhook_id, _ in calls]
        assert {"delivered"} == {first["status"], second["status"]}
        assert {first["id"], second["id"]} == set(ids)
        assert ids == sorted(ids, key=[first["id"], second["id"]].index), id_
    assert count == len(receiver.calls())


async def test_an_answer_may_reach_another_process(tmp_path, database_url):
    """Connection and answer at two processes of one service: the answer is the attempt."""
    async with (
        starting(tmp_path, database_url=database_url) as one,
        starting(tmp_path, database_url=database_url, PUBLIC_URL=one.url) as other,
        aiohttp.ClientSession() as session,
    ):
        await asyncio.gather(*(process.logged("service.started") for process in (one, other)))
        async with session.get(
            f"{one.url}/listen/laptop/stream", params={"acknowledge": "true"}
        ) as stream:
            connected = await event(stream, "connected")
            seen = {"stream": connected["stream"], "event": 1}
            async with session.post(f"{other.url}/listen/laptop/seen", json=seen) as noted:
                assert 204 == noted.status
            # Accepted and collected by the other process, too.
            await other.send("1", callback_url(one))
            delivery = await event(stream, "delivery")
            path = f"/listen/laptop/{delivery['id']}/{delivery['attempt']}"
            statuses = []
            for process in (other, other, one):
                async with session.post(process.url + path, json=OK) as answer:
                    statuses.append(answer.status)
            settled = await event(stream, "settled")

    assert [204, 409, 409] == statuses
    assert ("delivered", delivery["id"]) == (settled["status"], settled["id"])


async def test_a_connection_at_another_process_displaces(tmp_path, database_url):
    """The newest connection has the name, at whichever process it is."""
    async with (
        starting(tmp_path, database_url=database_url) as one,
        starting(tmp_path, database_url=database_url, PUBLIC_URL=one.url) as other,
        aiohttp.ClientSession() as session,
    ):
        await asyncio.gather(*(process.logged("service.started") for process in (one, other)))
        async with session.get(f"{one.url}/listen/laptop/stream") as old:
            await event(old, "connected")
            async with session.get(f"{other.url}/listen/laptop/stream") as new:
                assert (await event(new, "connected"))["has_displaced"]
                await event(old, "displaced")
                await one.send("1", callback_url(one))

                assert "/invoices/1" == (await event(new, "delivery"))["path"]


async def test_workers_share_the_listeners(tmp_path, postgres_url, receiver):
    """With several workers on one port, every request of the command may reach another one."""
    async with (
        starting(tmp_path, "--workers", "2", database_url=postgres_url) as service,
        listening(service.url, receiver.url) as laptop,
    ):
        await service.logged("service.started", 2)
        await laptop.has_printed("connected")
        for number in range(20):
            assert 202 == (await service.send(f"{number}", callback_url(service)))[0]
        await laptop.has_printed("delivery", 20)

    assert dict.fromkeys(map(str, range(20)), 1) == {
        id_: len(calls) for id_, calls in receiver.calls().items()
    }
    assert {"delivered"} == {line["status"] for line in laptop.events("delivery")}


async def test_a_process_that_does_not_deliver_refuses_in_words(tmp_path):
    """The command says why it is not connected, and goes on trying."""
    async with (
        serving(tmp_path, "--role", "api") as service,
        listening(service.url, "http://127.0.0.1:1") as laptop,
    ):
        lost = await laptop.has_printed("disconnected", 2)

    assert lost["reason"].startswith("503: This process does not deliver")


async def test_a_wrong_key_ends_the_command(tmp_path):
    """Outside of development mode a key is needed, and the command says so."""
    async with serving(tmp_path) as service:
        status, _, errors = await command(
            *("listen", "--forward-to", "http://10.0.0.1"), API_URL=service.url
        )

    assert 2 == status
    assert "--allow-host" in errors


async def event(stream, name):
    """The data of the next event of that name in a response."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            lines = (await stream.content.readuntil(b"\n\n")).decode().split("\n")
            if lines[1] == f"event: {name}":
                return json.loads(lines[2].removeprefix("data: "))
