"""The database of a process before it serves: awaited, and brought to its schema."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from service.app import database_of
from service.errors import StorageRefused, StorageUnavailable
from service.loops import POLL
from service.settings import Settings
from service.storage.schema import migrate
from service.storage.store import Store

log = logging.getLogger("invoices")


async def upgrade(settings: Settings) -> tuple[str | None, str | None]:
    """Bring the database to the newest schema; the revisions before and now."""
    async with database_of(settings) as database:
        return await migrate(database)


async def reach_database(settings: Settings, stop: asyncio.Event) -> bool:
    """
    Wait until a database that is a server answers; False if *stop* was set before it did.

    Services are started in any order, and a database takes its time.

    Raises:
        StorageRefused: if it answers, and does not let us in.
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
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL.total_seconds()):
                    await stop.wait()
        return False
