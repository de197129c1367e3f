"""The database of a service, and the accounts in it, for the service and for commands."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from service.accounts.administration import AccountAdministration
from service.accounts.encryption import SecretCipher, make_key_file
from service.accounts.signing_secrets import SigningSecrets
from service.clock import SystemClock
from service.database.engine import Database
from service.database.opening import open_database
from service.errors import ConfigurationError
from service.settings import Settings, parse_encryption_keys
from service.storage.schema import migrate, prepare
from service.storage.store import Store

NO_ENCRYPTION_KEY = """\
INVOICES_ENCRYPTION_KEY is not set, and signing secrets are not stored unencrypted.
Make a key with: invoices encryption-key
Keep it as safe as the database, in another place. On a laptop: invoices serve --dev"""


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
async def migrated_database(settings: Settings) -> AsyncIterator[Database]:
    """
    The database on the newest schema: SQLite is migrated, PostgreSQL only if it is empty.

    Raises:
        SchemaError: if the database is on another schema.
    """
    async with database_of(settings) as database:
        await (migrate if settings.is_embedded else prepare)(database)
        yield database


@asynccontextmanager
async def administration_of(
    settings: Settings, report_key: Callable[[Path], None]
) -> AsyncIterator[AccountAdministration]:
    """
    The administration of accounts, on the newest schema.

    An empty database is given its schema; any other is not changed, since the service may be using
    it. *report_key* is called as by `with_encryption_key`.

    Raises:
        SchemaError: if the database is on another schema.
        ConfigurationError: if there is no encryption key.
    """
    if not settings.encryption_key and not settings.is_embedded:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    async with database_of(settings) as database:
        await prepare(database)
        settings = await with_encryption_key(settings, database, report_key)
        cipher = SecretCipher(settings.encryption_key)
        yield AccountAdministration(Store(database), cipher, SystemClock())


async def with_encryption_key(
    settings: Settings, database: Database, report_key: Callable[[Path], None]
) -> Settings:
    """
    *settings* with an encryption key: that of INVOICES_ENCRYPTION_KEY, or of the key file.

    Beside an SQLite *database* without signing secrets, the file is made if it does not exist, and
    *report_key* is called with it.

    Raises:
        ConfigurationError: if there is no key, or none that can be used.
    """
    if settings.encryption_key:
        return settings
    if not settings.is_embedded:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    file = settings.key_file
    if not file.exists():
        # This fails if the database has secrets: the key that encrypted them is missing.
        await SigningSecrets(Store(database), None, SystemClock()).check()
        make_key_file(file)
        report_key(file.absolute())
    try:
        keys = parse_encryption_keys(file.read_text(encoding="ascii"))
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    if not keys:
        raise ConfigurationError(f"{file}: there is no key in this file.")
    return replace(settings, encryption_key=keys)
