"""The database that the settings name: opened, awaited, brought to its schema."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from service.accounts.register import Register
from service.accounts.vault import Vault
from service.clock import SystemClock
from service.errors import ConfigurationError, StorageRefused, StorageUnavailable
from service.rounds import POLL
from service.settings import Settings
from service.storage.commits import TellCount, tell_nobody
from service.storage.engine import Database, open_database
from service.storage.schema import migrate, prepare
from service.storage.store import Store

log = logging.getLogger("invoices")

NO_ENCRYPTION_KEY = """\
INVOICES_ENCRYPTION_KEY is not set, and signing secrets are not kept in the clear.
Make a key with: invoices encryption-key
and keep it as safe as the database, in another place. On a laptop: invoices serve --dev"""


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    """The database, closed at the end of the block; nothing is connected yet."""
    database = open_database(
        settings.database_url, has_prepared_statements=settings.database_prepared_statements
    )
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def store_of(
    settings: Settings, tell_committed: TellCount = tell_nobody
) -> AsyncIterator[Store]:
    """
    What is stored, on the newest schema: SQLite is brought there, PostgreSQL only from nothing.

    Raises:
        SchemaError: if the database is on another one.
    """
    async with database_of(settings) as database:
        await (migrate if settings.is_embedded else prepare)(database)
        yield Store(database, tell_committed)


@asynccontextmanager
async def register_of(settings: Settings) -> AsyncIterator[Register]:
    """
    The accounts of the database, which gets its schema if it has none.

    Raises:
        ConfigurationError: if there is no encryption key.
    """
    if not settings.encryption_key:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    async with store_of(settings) as store:
        yield Register(store, Vault(settings.encryption_key), SystemClock())


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
