"""Real processes of the service, and real receivers in the process of the test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.fakes import Journal

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 60
"""How long a test waits for another process before it fails."""

POLL_SECONDS = 0.02


def free_port():
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def until(ask, deadline_seconds=DEADLINE_SECONDS):
    """Ask another process again and again until it answers something true."""
    async with asyncio.timeout(deadline_seconds):
        while not (found := await ask()):  # noqa: ASYNC110 -- another process sets no event here
            await asyncio.sleep(POLL_SECONDS)
    return found


class Service:
    """A process of the service, its log and its API."""

    def __init__(self, process, url, session):
        self.process = process
        self.url = url
        self.log = Journal()
        self.output = b""
        self._session = session
        self._has_ended = asyncio.Event()
        self._reading = asyncio.create_task(self._read_log())

    async def logged(self, event):
        """Wait for *event* in the log and give its first line."""
        count = 0
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                for line in self.log.entries[count:]:
                    if event == line["event"]:
                        return line
                count = len(self.log)
                assert not self._reading.done(), self.output.decode()
                await self.log.reaches(count + 1)

    async def get(self, path):
        """The document at *path*."""
        async with self._session.get(self.url + path) as response:
            assert 200 == response.status, await response.text()
            return await response.json()

    async def send(self, id_, receiver_url=None, **changes):
        """Send an invoice; the status and headers of the answer."""
        body = {"id": id_, "customer": "Mr. Richie Rich", "total": "9999", **changes}
        params = {"callback_url": receiver_url} if receiver_url else {}
        async with self._session.post(
            f"{self.url}/invoices/", json=body, params=params
        ) as response:
            await response.read()
            return response.status, response.headers

    async def delivery_of(self, id_, *, is_settled=False):
        """The delivery of an invoice, once there is one, or once it is settled."""

        async def ask():
            found = (await self.get(f"/invoices/{id_}/deliveries"))["items"]
            return found and (not is_settled or found[0]["settled_at"]) and found[0]

        delivery = await until(ask)
        return await self.get(f"/deliveries/{delivery['id']}")

    def signal(self, number):
        """Send a signal to the process."""
        self.process.send_signal(number)

    async def ended(self):
        """Wait until the process has ended; its exit status."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            status = await self.process.wait()
            await self._reading
        return status

    async def _read_log(self):
        async for line in self.process.stderr:
            self.output += line
            if line.startswith(b"{"):
                self.log.add(json.loads(line))


@asynccontextmanager
async def serving(folder, **settings):
    """A service for development with a database in *folder*; ended at the end of the block."""
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("INVOICES_")},
        "INVOICES_PORT": str(port),
        "INVOICES_DATABASE_URL": f"sqlite:///{folder}/invoices.db",
        "INVOICES_SANDBOX_DELAY": "0ms",
        "INVOICES_LOG_FORMAT": "json",
        **{f"INVOICES_{name}": value for name, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "serve", "--dev"),
        cwd=ROOT,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    async with aiohttp.ClientSession() as session:
        service = Service(process, f"http://127.0.0.1:{port}", session)
        try:
            await service.logged("service.started")
            yield service
        finally:
            if process.returncode is None:
                service.signal(signal.SIGKILL)
            await service.ended()


class Receiver:
    """A receiver that answers as told and keeps what arrived."""

    def __init__(self):
        self.url = ""
        self.arrived = Journal()
        self.answers = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def answer(self, *, status=200, text='{"ok": true}', **headers):
        """Put one more answer into the row; after the last, everything is acknowledged."""
        self.answers.append(
            {"status": status, "text": text, "headers": headers.pop("headers", None)}
        )

    async def receive(self, request):
        """Keep the request and answer the next in the row."""
        body = await request.read()
        given = self.answers.pop(0) if self.answers else {"text": '{"ok": true}'}
        self.arrived.add((request.method, request.path, dict(request.headers), body))
        await self.may_answer.wait()
        return web.Response(**given)


@asynccontextmanager
async def receiving():
    """A receiver on a port of its own."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        receiver.may_answer.set()
        await runner.cleanup()
