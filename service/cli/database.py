"""`invoices migrate`, and how a process waits for its database."""

import asyncio
import logging

import click
import orjson

from service.app import database_of
from service.cli.event_loop import wait_until_set
from service.cli.options import AS_JSON
from service.errors import StorageRefused, StorageUnavailable
from service.loops import POLL
from service.settings import Settings, read_settings
from service.storage.schema import migrate
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
