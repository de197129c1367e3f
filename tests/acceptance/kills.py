"""
Kills a busy service many times: `python -m tests.acceptance.kills --kills 1000`.

Clients send invoices while the process is killed by SIGKILL at random moments, also during its
start, and another is started at the same address. At the end the rows and the requests at the
receiver are checked. The exit status is 1 if a promise was broken, and the output says which.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from tempfile import TemporaryDirectory

import aiohttp
import click
from aiohttp import web

from tests.acceptance.evidence import Arrival, gather_evidence
from tests.acceptance.leases import let_leases_run_out
from tests.acceptance.traffic import traffic
from tests.acceptance.two_events import EVENT_COUNT
from tests.processes import Receiver, Service, environment, free_port, receiving
from tests.warm import Warm

PAUSE_SECONDS = 0.01
"""The pause of a client after each invoice, because every request is kept in memory."""

BUSY_SECONDS = 0.4
"""A kill comes within this time after the first accepted invoice."""

START_SECONDS = 0.4
"""A kill during a start comes within this time after the start began."""

START_SHARE = 0.1
SHORTENED_SHARE = 0.5
"""The share of kills after which the leases are made to expire; otherwise they expire in time."""

REFUSED_SHARE = 0.02
ANSWER_SECONDS = 0.03
"""The longest delay of an answer, so that every kill finds attempts in flight."""

SETTINGS = {
    "SANDBOX_DELAY": "20ms",
    "CALLBACK_TIMEOUT": "2s",
    # Long enough that no delivery becomes dead.
    "RETRY_SCHEDULE": ",".join(["50ms"] * 50),
    "LOG_FORMAT": "json",
}


class RandomReceiver(Receiver):
    """Answers after a random delay, sometimes with a refusal, and keeps the requests."""

    def __init__(self, chance):
        super().__init__()
        self.arrivals = []
        self._chance = chance

    async def receive(self, request):
        """Keep the request, and answer it."""
        body = await request.read()
        status = 500 if self._chance.random() < REFUSED_SHARE else 200
        id_ = request.path.removeprefix("/invoices/")
        self.arrivals.append(Arrival(id_, request.headers["webhook-id"], body, status))
        await asyncio.sleep(self._chance.uniform(0, ANSWER_SECONDS))
        return web.Response(status=status, text='{"ok": true}')


class RestartedService:
    """A service that is killed and started again at one address."""

    def __init__(self, warm, database_url, session):
        self._warm = warm
        self._session = session
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._settings = {**SETTINGS, "PORT": str(self._port), "DATABASE_URL": database_url}
        self._service = None

    async def begin(self):
        """Start a process."""
        process = await self._warm.start(
            "tests.acceptance.two_events", "serve", "--dev", env=environment(**self._settings)
        )
        self._service = Service(process, self._url, self._session)
        return self._service

    async def end(self, number=signal.SIGKILL):
        """End the process by a signal, and return its exit status."""
        self._service.signal(number)
        return await self._service.ended()

    async def send(self, id_, receiver_url):
        """Send an invoice to the running process; return status and headers of the response."""
        async with asyncio.timeout(10):
            return await self._service.send(id_, receiver_url)


async def kill_repeatedly(warm, database_url, kill_count, chance, show=lambda _: None):
    """Kill the service *kill_count* times; return the repeated requests and the evidence."""
    async with (
        # Each request has a connection of its own, as in tests.processes.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        receiving(receiver=RandomReceiver(chance)) as receiver,
    ):
        restarted = RestartedService(warm, database_url, session)
        await restarted.begin()
        async with traffic([restarted], receiver, pause_seconds=PAUSE_SECONDS) as callers:
            for number in range(1, kill_count + 1):
                await wait_for_the_kill(callers, chance)
                assert -signal.SIGKILL == await restarted.end()
                if chance.random() < SHORTENED_SHARE:
                    let_leases_run_out(database_url)
                await restarted.begin()
                show(number)
        await finish(restarted, database_url)
        found = await gather_evidence(
            database_url, callers.accepted, receiver.arrivals, EVENT_COUNT
        )
    return callers.repeated_count, found


async def wait_for_the_kill(callers, chance):
    """Wait until the moment of the next kill."""
    if chance.random() < START_SHARE:
        await asyncio.sleep(chance.uniform(0, START_SECONDS))
    else:
        await callers.accepts(1)
        await asyncio.sleep(chance.uniform(0, BUSY_SECONDS))


async def finish(restarted, database_url):
    """Kill once more, let all leases expire, and run a process until no work is left."""
    await restarted.end()
    let_leases_run_out(database_url)
    service = await restarted.begin()
    await service.logged("service.started")
    await service.at_rest()
    assert 0 == await restarted.end(signal.SIGTERM)


@click.command()
@click.option("--kills", "kill_count", default=1000, show_default=True)
@click.option("--database", "database_url", help="By default a temporary file.")
@click.option("--seed", type=int, help="Of the random moments; by default a new one.")
def main(kill_count, database_url, seed):
    """Kill a busy service many times, and check that nothing was lost."""
    seed = random.randrange(2**32) if seed is None else seed
    click.echo(f"seed {seed}")
    began_at = time.monotonic()

    def show(number):
        if sys.stdout.isatty() or number % 50 == 0:
            ending = "\r" if sys.stdout.isatty() and number < kill_count else "\n"
            seconds = time.monotonic() - began_at
            click.echo(f"{number} of {kill_count} kills in {seconds:.0f} s{ending}", nl=False)

    with TemporaryDirectory() as folder, Warm() as warm:
        repeated_count, evidence = asyncio.run(
            kill_repeatedly(
                warm,
                database_url or f"sqlite:///{folder}/invoices.db",
                kill_count,
                random.Random(seed),
                show,
            )
        )
    for name, number in {
        **evidence.counts(),
        "accepted without a response": repeated_count,
    }.items():
        click.echo(f"{number:>9,}  {name}")
    violations = list(evidence.violations())
    for violation in violations:
        click.echo(f"BROKEN: {violation}")
    click.echo(f"{len(violations):>9,}  promises broken")
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
