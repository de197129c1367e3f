"""What a process can be: the service, or a receiver of its callbacks."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any

import click
import orjson
import uvloop

from service import __version__
from service.accounts.administration import Shown
from service.app import ALONE, Process, register_of, running
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.database import reach_database
from service.development import DEV_ACCOUNT
from service.receiver.sample import Received, make_receiver
from service.settings import Settings
from service.web.server import Server

log = logging.getLogger("invoices")


def run(role: Coroutine[Any, Any, int]) -> int:
    """Run *role* on uvloop and return the exit status that it answers."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(role)


async def serve(settings: Settings, process: Process = ALONE) -> int:
    """
    The service, until it is told to stop.

    A worker also stops once its standard input ends, as it does with its parent.

    Returns:
        1 if one of its loops ended by itself, which the log explains.
    """
    stop = stop_signal()
    if process.is_worker:
        await _stop_with_parent(stop)
    if not await reach_database(settings, stop):
        return 0
    if not process.is_development and not process.is_worker:
        await welcome(settings)
    async with running(settings, process) as service:
        _spare_the_collector()
        address = {"host": settings.host, "port": service.port}
        fields = {"version": __version__, "role": process.role, **address}
        log.info("service.started", extra={"fields": fields})
        if process.is_development:
            _warn_of_development()
        service.failed.add_done_callback(lambda _: stop.set())
        await stop.wait()
        has_failed = service.failed.done()
        log.info("service.draining")
    log.info("service.stopped")
    return 1 if has_failed else 0


async def welcome(settings: Settings) -> None:
    """Make a first account where there is none, and show its key: once, and not in the log."""
    async with register_of(settings) as register:
        shown = await register.add_first()
    if shown:
        click.echo(f"This is the first start, so there is an account now: {shown.name}")
        show_credentials(shown)


def show_credentials(shown: Shown) -> None:
    """Show a person what is shown once."""
    if shown.key:
        click.echo(f"  key     {shown.key}")
    if shown.secret:
        click.echo(f"  secret  {shown.secret}")
    click.echo("Keep them now: they are not shown again.")


async def receive(host: str, port: int, secret: str | None, *, as_json: bool) -> int:
    """A receiver that shows what arrives, until it is told to stop."""
    stop = stop_signal()
    show = show_as_json if as_json else show_as_text
    server = Server(make_receiver(INVOICE_NOTIFICATION, secret, show))
    bound_port = await server.start(host, port)
    if not as_json:
        click.echo(f"Receiving at http://{host}:{bound_port}: use that as the callback_url.")
    await stop.wait()
    await server.stop()
    return 0


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; a second one ends the process as it always would."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    return stop


async def _stop_with_parent(stop: asyncio.Event) -> None:
    class Parent(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            stop.set()

    await asyncio.get_running_loop().connect_read_pipe(Parent, sys.stdin)


def show_as_text(received: Received) -> None:
    """Show a callback to a person."""
    click.echo(f"\nPOST {received.path}")
    click.echo(f"  webhook-id  {received.webhook_id}")
    click.echo(f"  signature   {received.signature}")
    click.echo(f"  body        {received.body}")
    click.echo(f"  answered    {received.status_code} {received.answer}")


def show_as_json(received: Received) -> None:
    """Show a callback to a program: one line of JSON, flushed."""
    click.echo(orjson.dumps(asdict(received)))


def _spare_the_collector() -> None:
    """
    Keep the garbage collector from looking at what start-up made, again and again.

    Modules and tables live as long as the process. Walking them took a twentieth of the time
    under load; what requests leave behind is freed without the collector, or by it a bit later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _warn_of_development() -> None:
    log.warning(
        "development.enabled",
        extra={
            "fields": {
                "account": DEV_ACCOUNT,
                "meaning": "no key is needed; receivers on this machine and network may be "
                "called, over http:// too",
            }
        },
    )
