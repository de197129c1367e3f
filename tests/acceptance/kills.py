"""
Kills a busy service again and again: `python -m tests.acceptance.kills --kills 1000`.

Invoices keep coming in while the process is ended by SIGKILL at random moments, starts included,
and another is started at the same address. In the end everything that was accepted is looked for
at the receiver. Ends with 1 if a promise was broken, and says which.
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
from tests.acceptance.telling import EVENT_COUNT
from tests.acceptance.traffic import traffic
from tests.acceptance.warm import Warm
from tests.processes import Receiver, Service, environment, free_port, receiving

PAUSE_SECONDS = 0.01
"""How long a caller rests after each invoice: what arrives is kept in memory until the end."""

BUSY_SECONDS = 0.4
"""A kill comes at some moment within so long after the first invoice was accepted."""

START_SECONDS = 0.4
"""A kill that is to hit a start comes within so long after it began."""

START_SHARE = 0.1
SHORTENED_SHARE = 0.5
"""How often leases are made to run out with a kill; otherwise they take their time."""

REFUSED_SHARE = 0.02
ANSWER_SECONDS = 0.03
"""How long the receiver takes at most, so that every kill finds attempts in flight."""

SETTINGS = {
    "SANDBOX_DELAY": "20ms",
    "CALLBACK_TIMEOUT": "2s",
    # Long enough that none is ever given up.
    "RETRY_SCHEDULE": ",".join(["50ms"] * 50),
    "LOG_FORMAT": "json",
}


class HastyReceiver(Receiver):
    """Answers after a random moment, now and then with a refusal; keeps what arrived."""

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


class Lives:
    """A service that is killed and started again at one address."""

    def __init__(self, warm, database_url, session):
        self._warm = warm
        self._session = session
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._settings = {**SETTINGS, "PORT": str(self._port), "DATABASE_URL": database_url}
        self._service = None

    async def begin(self):
        """Begin to start."""
        process = await self._warm.start(
            "tests.acceptance.telling", "serve", "--dev", env=environment(**self._settings)
        )
        self._service = Service(process, self._url, self._session)
        return self._service

    async def end(self, number=signal.SIGKILL):
        """End by a signal; the exit status."""
        self._service.signal(number)
        return await self._service.ended()

    async def send(self, id_, receiver_url):
        """Send an invoice to whichever process runs now; status and headers of the answer."""
        async with asyncio.timeout(10):
            return await self._service.send(id_, receiver_url)


async def kill_again_and_again(warm, database_url, kill_count, chance, show=lambda _: None):
    """Kill so often; how often unheard callers had to repeat themselves, and the evidence."""
    async with (
        # Each request on a connection of its own, as in tests.processes.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        receiving(receiver=HastyReceiver(chance)) as receiver,
    ):
        lives = Lives(warm, database_url, session)
        await lives.begin()
        async with traffic([lives], receiver, pause_seconds=PAUSE_SECONDS) as callers:
            for number in range(1, kill_count + 1):
                await pass_a_life(callers, chance)
                assert -signal.SIGKILL == await lives.end()
                if chance.random() < SHORTENED_SHARE:
                    let_leases_run_out(database_url)
                await lives.begin()
                show(number)
        await finish(lives, database_url)
        found = await gather_evidence(
            database_url, callers.accepted, receiver.arrivals, EVENT_COUNT
        )
    return callers.repeated_count, found


async def pass_a_life(callers, chance):
    """Wait until the moment of the next kill."""
    if chance.random() < START_SHARE:
        await asyncio.sleep(chance.uniform(0, START_SECONDS))
    else:
        await callers.accepts(1)
        await asyncio.sleep(chance.uniform(0, BUSY_SECONDS))


async def finish(lives, database_url):
    """One more kill, after which all leases run out, and a life that comes to rest."""
    await lives.end()
    let_leases_run_out(database_url)
    service = await lives.begin()
    await service.logged("service.started")
    await service.at_rest()
    assert 0 == await lives.end(signal.SIGTERM)


@click.command()
@click.option("--kills", "kill_count", default=1000, show_default=True)
@click.option("--database", "database_url", help="Without it a file that is thrown away.")
@click.option("--seed", type=int, help="Of the moments; without it another each time.")
def main(kill_count, database_url, seed):
    """Kill a busy service again and again, and look for what was lost."""
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
            kill_again_and_again(
                warm,
                database_url or f"sqlite:///{folder}/invoices.db",
                kill_count,
                random.Random(seed),
                show,
            )
        )
    for name, number in {**evidence.counts(), "accepted unheard": repeated_count}.items():
        click.echo(f"{number:>9,}  {name}")
    violations = list(evidence.violations())
    for violation in violations:
        click.echo(f"BROKEN: {violation}")
    click.echo(f"{len(violations):>9,}  promises broken")
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
