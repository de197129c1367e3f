"""Real processes of the service, and real receivers in the process of the test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web

from tests.fakes import Journal
from tests.samples import samples_in

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 60
"""The time that a test waits for another process before it fails."""

POLL_SECONDS = 0.02
POLL_SECONDS_MAX = 0.1
"""The first pause between two questions, and the longest: each takes milliseconds of processors."""

UNFINISHED = (
    "/invoices/?status=received&limit=1",
    "/invoices/?status=sent&limit=1",
    "/deliveries/?status=pending&limit=1",
)
"""The lists that are empty when everything has been collected and delivered."""


def free_port() -> int:
    """
    A port of 127.0.0.1 on which nothing listens, for the caller alone.

    Linux gives it to nobody else until the tests end, because it stays bound: other processes of
    the run ask for free ports all the time, and may get this one before it is listened on. It can
    be listened on in spite of that, since servers set SO_REUSEADDR too.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        if sys.platform == "linux":
            bound.detach()
        return port


def starved():
    """
    How long this process and those below it were ready to run without a processor, by thread.

    In seconds; empty on a system that does not tell.
    """
    here = psutil.Process()
    found = {}
    for process in (here, *here.children(recursive=True)):
        # A process may end while it is looked at, and so may each of its threads.
        with suppress(OSError):
            for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
                with suppress(OSError):
                    found[path] = int(path.read_text().split()[1]) / 10**9
    return found


def starved_since(before):
    """How much longer all these threads had no processor since `starved` gave *before*."""
    return sum(seconds - before.get(thread, 0) for thread, seconds in starved().items())


async def until(ask, deadline_seconds=DEADLINE_SECONDS):
    """Poll another process until its answer is true, ever more slowly; returns the answer."""
    pause = POLL_SECONDS
    async with asyncio.timeout(deadline_seconds):
        # Another process sets no event here.
        while not (found := await ask()):
            await asyncio.sleep(pause)
            pause = min(1.2 * pause, POLL_SECONDS_MAX)
    return found


class Service:
    """A process of the service with its child processes, their log and their API."""

    def __init__(self, process, url, session):
        self.process = process
        self.url = url
        self.log = Journal()
        self.output = b""
        self._session = session
        self._has_grown = asyncio.Event()
        self._reading = asyncio.create_task(self._read_log())

    def lines(self, event):
        """The lines of *event* in the log so far."""
        return [line for line in self.log.entries if event == line["event"]]

    async def logged(self, event, count=1):
        """Wait until *event* is in the log *count* times; returns the last of these lines."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while len(self.lines(event)) < count:
                    assert not self._reading.done(), self.output.decode()
                    self._has_grown.clear()
                    await self._has_grown.wait()
        except TimeoutError:
            raise AssertionError(f"{event} is too rare in:\n{self.output.decode()}") from None
        return self.lines(event)[count - 1]

    async def ask(self, path):
        """Status, headers and document of the response for *path*."""
        async with self._session.get(self.url + path) as response:
            return response.status, response.headers, await response.json(content_type=None)

    async def figures(self):
        """The samples of `/metrics`, by their names."""
        async with self._session.get(self.url + "/metrics") as response:
            assert 200 == response.status
            return samples_in(await response.text())

    async def get(self, path):
        """The document at *path*."""
        status, _, document = await self.ask(path)
        assert 200 == status, document
        return document

    async def send(self, id_, receiver_url=None, *, headers=None, **changes):
        """Send an invoice; the status and headers of the answer."""
        body = {"id": id_, "customer": "Mr. Richie Rich", "total": "9999", **changes}
        params = {"callback_url": receiver_url} if receiver_url else {}
        async with self._session.post(
            f"{self.url}/invoices/", json=body, params=params, headers=headers
        ) as response:
            await response.read()
            return response.status, response.headers

    async def delivery_of(self, id_, *, is_settled=False):
        """Wait for the delivery of an invoice, or until it is settled; returns the delivery."""

        async def ask():
            found = (await self.get(f"/invoices/{id_}/deliveries"))["items"]
            return found and (not is_settled or found[0]["settled_at"]) and found[0]

        delivery = await until(ask)
        return await self.get(f"/deliveries/{delivery['id']}")

    async def at_rest(self):
        """Wait until nothing is left to be collected or delivered."""

        async def ask():
            try:
                pages = [await self.get(path) for path in UNFINISHED]
            except aiohttp.ClientConnectionError:
                # It waited at a worker that was killed, which shares the port with the others.
                return False
            return not any(page["items"] for page in pages)

        await until(ask)

    async def deliveries(self):
        """All deliveries, by the id of their invoice."""
        found, page = {}, await self.get("/deliveries/?limit=200")
        while True:
            for listed in page["items"]:
                # A list has the newest attempt alone.
                has_all = listed["attempt_count"] == len(listed["attempts"])
                one = listed if has_all else await self.get(f"/deliveries/{listed['id']}")
                found[listed["invoice_id"]] = one
            if not page["next"]:
                return found
            page = await self.get(f"/deliveries/?limit=200&after={page['next']}")

    def workers(self):
        """The running child processes."""
        return psutil.Process(self.process.pid).children()

    def signal(self, number):
        """Send a signal to the process."""
        self.process.send_signal(number)

    async def ended(self):
        """Wait until the process and its children have ended; returns the exit status."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            status = await self.process.wait()
            # The log ends when the last process that writes to it ends.
            await self._reading
        return status

    async def _read_log(self):
        try:
            async for line in self.process.stderr:
                self.output += line
                if line.startswith(b"{"):
                    self.log.add(json.loads(line))
                self._has_grown.set()
        finally:
            self._has_grown.set()


async def start_process(module, *arguments, env, stdout=None):
    """Run a module as a process, as `python -m` does; its standard error is a pipe."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=ROOT,
        env=env,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        # The process and its children are one group, which can be killed together.
        start_new_session=True,
    )


@asynccontextmanager
async def starting(
    folder, *arguments, database_url=None, port=None, program=("service",), start=None, **settings
):
    """
    A service in development mode that is starting; it is killed at the end of the block.

    Without *database_url* its database is a file in *folder*. *program* is a module that runs the
    command line, with its own first arguments; *start* starts it if `start_process` should not.
    """
    port = port or free_port()
    process = await (start or start_process)(
        *(*program, "serve", "--dev", *arguments),
        env=environment(
            PORT=str(port),
            DATABASE_URL=database_url or f"sqlite:///{folder}/invoices.db",
            SANDBOX_DELAY=settings.pop("SANDBOX_DELAY", "0ms"),
            LOG_FORMAT="json",
            **settings,
        ),
    )
    # Each request has its own connection, because a process may have been killed.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        service = Service(process, f"http://127.0.0.1:{port}", session)
        try:
            yield service
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await service.ended()


@asynccontextmanager
async def serving(folder, *arguments, **settings):
    """A running service in development mode; it is killed at the end of the block."""
    async with starting(folder, *arguments, **settings) as service:
        await service.logged("service.started")
        yield service


async def command(*arguments, **settings):
    """Run a command until it ends; returns exit status, standard output and standard error."""
    process = await start_process(
        "service", *arguments, env=environment(**settings), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


def environment(**settings):
    """The environment of the tests, with *settings* as the only settings of the service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INVOICES_")}
    # Workers do not look for modules in their working directory.
    kept["PYTHONPATH"] = str(ROOT)
    return kept | {f"INVOICES_{name}": value for name, value in settings.items()}


class Receiver:
    """A receiver that gives the set answers, and keeps the requests."""

    def __init__(self):
        self.url = ""
        self.arrived = Journal()
        self.answers = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def answer(self, *, status=200, text='{"ok": true}', **headers):
        """Add an answer to the queue; after the last one, every request is acknowledged."""
        self.answers.append(
            {"status": status, "text": text, "headers": headers.pop("headers", None)}
        )

    async def receive(self, request):
        """Keep the request, and give the next answer of the queue."""
        body = await request.read()
        given = self.answers.pop(0) if self.answers else {"text": '{"ok": true}'}
        self.arrived.add((request.method, request.path, dict(request.headers), body))
        await self.may_answer.wait()
        return web.Response(**given)

    def calls(self):
        """The requests for each invoice: the id and the bytes of every attempt."""
        found = defaultdict(list)
        for _, path, headers, body in self.arrived.entries:
            found[path.removeprefix("/invoices/")].append((headers["webhook-id"], body))
        return found


@asynccontextmanager
async def receiving(port=0, receiver=None):
    """Serve *receiver*, or a new one, on *port* or on a free port."""
    receiver = receiver or Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        receiver.may_answer.set()
        await runner.cleanup()
