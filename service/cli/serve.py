"""`invoices serve`: the service, in one process or in several workers."""

import asyncio
import gc
import logging
import os
import sys

import click

from service import __version__
from service.app.databases import NO_ENCRYPTION_KEY, migrated_database, with_encryption_key
from service.app.edges import descriptors_needed
from service.app.process import ALONE, Process, Role
from service.app.running import running
from service.cli.accounts import create_first_account, log_key
from service.cli.database import migrate_apart, wait_for_database
from service.cli.event_loop import run, stop_signal
from service.cli.supervisor import supervise
from service.database.transport import may_be_in_clear
from service.development import DEV_ACCOUNT, for_development
from service.errors import ConfigurationError
from service.settings import Settings, read_settings, service_links
from service.telemetry.descriptors import raise_limit
from service.telemetry.logs import configure_logs

log = logging.getLogger("invoices")

ONE_WRITER = """\
SQLite has one writer, so a second process on the same file would only wait for the first.
Set INVOICES_DATABASE_URL to run several, for example to postgresql://invoices@localhost/invoices."""

WORKERS_MAX = 64


@click.command("serve")
@click.option(
    "--dev",
    is_flag=True,
    help="For development: no key is needed, and receivers may be on this machine or network.",
)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.ALL.value,
    show_default=True,
    help="api accepts invoices, dispatcher collects and delivers them, all does both.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, WORKERS_MAX),
    default=1,
    show_default=True,
    help="How many processes share the port. More than one needs PostgreSQL.",
)
@click.option("--as-worker", type=int, hidden=True, help="The number of this worker, from 0.")
def serve_command(dev: bool, role: str, workers: int, as_worker: int | None) -> None:
    """
    Run the service until SIGTERM or Ctrl-C, then drain it.

    Everything else is set with INVOICES_* variables: `invoices settings` lists them.
    """
    settings = for_development(read_settings()) if dev else read_settings()
    if not dev and not settings.encryption_key and not settings.is_embedded:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    if workers > 1 and settings.is_embedded:
        raise ConfigurationError(ONE_WRITER)
    migrate_apart(settings)
    configure_logs(settings.log_format, settings.log_level)
    _raise_limit(settings)
    _warn_of_clear_text(settings)
    _log_what_is_ignored(settings)
    if workers > 1:
        arguments = ["serve", *(["--dev"] if dev else []), "--role", role]
        sys.exit(run(supervise(settings, arguments, workers, is_development=dev)))
    process = Process(Role(role), is_development=dev, worker_number=as_worker)
    sys.exit(run(serve(settings, process)))


async def serve(settings: Settings, process: Process = ALONE) -> int:
    """
    Run the service until SIGTERM or SIGINT.

    A worker also stops when its standard input ends, which its parent holds open.

    Returns:
        1 if one of its loops ended by itself, which the log explains.
    """
    stop = stop_signal()
    if process.is_worker:
        await _stop_with_parent(stop)
    if not await wait_for_database(settings, stop):
        return 0
    if not process.is_development and not process.is_worker:
        if settings.is_embedded:
            async with migrated_database(settings) as database:
                settings = await with_encryption_key(settings, database, log_key)
        await create_first_account(settings)
    async with running(settings, process) as service:
        _tune_garbage_collection()
        address = {"host": ",".join(settings.host), "port": service.port}
        fields = {"version": __version__, "role": process.role, **address}
        fields["database"] = service.database
        log.info("service.started", extra={"fields": fields})
        if process.is_development:
            _warn_of_development()
            if sys.stdout.isatty():
                _print_urls(settings)
        service.failed.add_done_callback(lambda _: stop.set())
        await stop.wait()
        has_failed = service.failed.done()
        log.info("service.draining")
    log.info("service.stopped")
    return 1 if has_failed else 0


PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def _log_what_is_ignored(settings: Settings) -> None:
    """Log the names of variables that look like settings and have no effect."""
    if links := service_links():
        log.debug("settings.ignored", extra={"fields": {"names": links}})
    proxies = [one for name in PROXY_VARIABLES for one in (name, name.lower()) if one in os.environ]
    if proxies and not settings.callback_proxy:
        meaning = "callbacks do not use it: set INVOICES_CALLBACK_PROXY"
        log.info("proxy.ignored", extra={"fields": {"names": proxies, "meaning": meaning}})


def _raise_limit(settings: Settings) -> None:
    """Allow as many open files as the system permits; warn if they do not suffice."""
    allowed, needed = raise_limit(), descriptors_needed(settings)
    if allowed < needed:
        meaning = (
            "the limit of open files (ulimit -n) is below what INVOICES_CONNECTION_LIMIT and "
            "INVOICES_CALLBACK_CONCURRENCY can need"
        )
        fields = {"allowed": allowed, "needed": needed, "meaning": meaning}
        log.warning("descriptors.few", extra={"fields": fields})


def _warn_of_clear_text(settings: Settings) -> None:
    """Warn if what is stored may travel over the network without encryption."""
    if not settings.is_embedded and may_be_in_clear(settings.database_url):
        meaning = "the connection to PostgreSQL may be read on the network: use sslmode=verify-full"
        log.warning("storage.unencrypted", extra={"fields": {"meaning": meaning}})


def _print_urls(settings: Settings) -> None:
    """Print where the service is, for a click in the terminal."""
    url = settings.public_url
    click.echo(f"\n  Service        {url}/invoices/\n  Documentation  {url}/api/docs\n")


async def _stop_with_parent(stop: asyncio.Event) -> None:
    class Parent(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            stop.set()

    await asyncio.get_running_loop().connect_read_pipe(Parent, sys.stdin)


def _tune_garbage_collection() -> None:
    """
    Exclude what start-up made from garbage collection, and collect less often.

    Modules and tables live as long as the process. Traversing them took a twentieth of the time
    under load; almost all that requests leave behind is freed by reference counting.
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
