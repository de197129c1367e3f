"""`invoices migrate`, and how a process waits for its database."""

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any

import click
import orjson

from service.app.databases import database_of
from service.cli.event_loop import wait_until_set
from service.cli.options import AS_JSON
from service.errors import InvoicesError, StorageRefused, StorageUnavailable
from service.loops import POLL
from service.settings import Settings, read_settings
from service.storage.schema import is_newest, migrate
from service.storage.store import Store

log = logging.getLogger("invoices")


@click.command("migrate")
@AS_JSON
def migrate_command(as_json: bool) -> None:
    """Bring the database to the newest schema; on SQLite, `serve` does so by itself."""
    before, now = asyncio.run(_upgrade(read_settings()))
    if as_json:
        click.echo(orjson.dumps({"before": before, "now": now}))
    elif before == now:
        click.echo(f"The database is on the newest schema already, {now}.")
    else:
        click.echo(f"The database is on schema {now}; it was {before or 'empty'}.")


async def _upgrade(settings: Settings) -> tuple[str | None, str | None]:
    async with database_of(settings) as database:
        return await migrate(database)


def migrate_apart(settings: Settings) -> None:
    """
    Migrate an SQLite database in a process that ends behind it, if there is anything to migrate.

    The modules of Alembic, 11 MiB, end with that process. What fails here is not reported: it
    fails again when the service starts, with a message. There may be no other thread yet.
    """
    if not settings.is_embedded:
        return
    logging.disable()
    try:
        if not asyncio.run(_is_newest(settings)):
            _run_in_child(_upgrade(settings))
    except (InvoicesError, OSError):
        return
    finally:
        logging.disable(logging.NOTSET)


def _run_in_child(work: Coroutine[Any, Any, object]) -> None:
    """Run *work* in a fork of this process, whatever comes of it, and wait for its end."""
    child = os.fork()
    if child:
        work.close()
        os.waitpid(child, 0)
        return
    try:
        asyncio.run(work)
    finally:
        try:
            # Ends without the report of a profiler, which would be taken for that of the service.
            os.execv(sys.executable, [sys.executable, "-ISc", ""])  # noqa: S606 -- no shell
        finally:
            # Whatever happens, the child must not go on as a second service.
            os._exit(0)


async def _is_newest(settings: Settings) -> bool:
    async with database_of(settings) as database:
        return await is_newest(database)


async def wait_for_database(settings: Settings, stop: asyncio.Event) -> bool:
    """
    Wait until a database server answers; False if *stop* is set before.

    Services may be started in any order, and a database needs time to start.

    Raises:
        StorageRefused: if it answers and refuses the connection.
    """
    if settings.is_embedded:
        return True
    async with database_of(settings) as database:
        while not stop.is_set():
            try:
                await Store(database).ping()
                return True
            except StorageRefused:
                raise
            except StorageUnavailable as error:
                log.warning("storage.awaited", extra={"fields": {"detail": str(error)}})
            await wait_until_set(stop, POLL.total_seconds())
        return False
