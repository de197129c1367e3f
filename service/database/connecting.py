"""
Connections to PostgreSQL, and the translation of its errors.

After a failed connection the next one waits a short and growing time, during which requests fail
at once.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.database.poolers import PooledConnection, pooler_refuses, statement_was_lost
from service.database.transport import with_tls
from service.errors import StorageBusy, StorageRefused, StorageUnavailable

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 5
TRANSACTION_SECONDS = 10
"""A transaction usually takes milliseconds; one that takes longer than this is ended."""

RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""How long no connection is opened after the first, second, … failure in a row."""

SETTINGS = {
    "application_name": "invoices",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    # A process that stops inside a transaction keeps its locks.
    "idle_in_transaction_session_timeout": f"{TRANSACTION_SECONDS}s",
    # Every statement has an index. Plans are cached, and one that was made while a table was
    # small must not scan it when it has grown.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

STARTUP_PARAMETERS = (
    *(name for name in SETTINGS if name != "application_name"),
    "synchronous_commit",
)
"""What a pooler must take, or ignore, when the service connects; the last is for notifications."""

_REFUSALS = (
    asyncpg.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""Raised for a wrong address, user, password or database name."""

_OF_DRIVER = (
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
    # Raised for a statement on a connection that the server is just closing.
    asyncpg.InternalClientError,
)

_TIMED_OUT = "57014"
"""The SQLSTATE of a statement that was ended because it took longer than `STATEMENT_SECONDS`."""

_NO_TLS = "rejected SSL upgrade"
"""What the driver says if the server answers that it speaks no TLS."""

_UNAVAILABLE = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58")
"""Prefixes of the SQLSTATEs that are about the state of the server, not about the statement."""


class Connector:
    """Connects to the server of *url*; a connection keeps *prepared_max* prepared statements."""

    def __init__(self, url: str, prepared_max: int = 0) -> None:
        self._url = with_tls(url)
        self._prepared_max = prepared_max
        self._failure_count = 0
        self._retry_at = 0.0

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """
        Open a connection.

        Raises:
            StorageUnavailable: if it fails, or if one failed less than `RECONNECT_SECONDS` ago.
            StorageRefused: if the server does not accept the address, user or password.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._retry_at:
            raise StorageUnavailable("PostgreSQL: it could not be reached a moment ago")
        try:
            with translated():
                connection = await asyncpg.connect(
                    self._url,
                    timeout=CONNECT_SECONDS,
                    connection_class=PooledConnection,
                    # Those that the driver runs; SQLAlchemy keeps its own.
                    statement_cache_size=self._prepared_max,
                    server_settings={**SETTINGS, **settings},
                )
        except StorageUnavailable:
            delay = RECONNECT_SECONDS[min(self._failure_count, len(RECONNECT_SECONDS) - 1)]
            self._failure_count += 1
            self._retry_at = loop.time() + delay
            raise
        self.is_reached()
        return connection

    def is_reached(self) -> None:
        """Record that the server has answered: the next connection does not wait."""
        self._failure_count, self._retry_at = 0, 0.0


@contextmanager
def translated(*, is_of_statements: bool = False) -> Iterator[None]:
    """
    Translate errors about the server into StorageUnavailable.

    If the block *is_of_statements*, errors about those pass unchanged: they are defects.
    """
    try:
        yield
    except _REFUSALS as error:
        raise StorageRefused(f"PostgreSQL: {error}") from error
    except PoolTimeoutError as error:
        # A server that is away refuses connections, or does not answer in `CONNECT_SECONDS`.
        raise StorageBusy("PostgreSQL: all connections were in use for too long") from error
    except (OSError, DBAPIError, *_OF_DRIVER) as error:
        of_driver = error.orig if isinstance(error, DBAPIError) else error
        if lost := statement_was_lost(_sqlstate(of_driver), of_driver):
            raise StorageUnavailable(lost) from error
        if is_of_statements and _sqlstate(of_driver) == _TIMED_OUT:
            raise StorageBusy(f"PostgreSQL: {of_driver}") from error
        if is_of_statements and not _is_of_the_server(error, of_driver):
            raise
        raise _unavailable(of_driver) from error


def _unavailable(error: object) -> StorageUnavailable:
    if isinstance(error, ConnectionError) and _NO_TLS in str(error):
        return StorageRefused(
            "PostgreSQL: the server does not speak TLS. Switch it on there, or add sslmode=disable "
            "to INVOICES_DATABASE_URL if nobody can listen between the two."
        )
    if refused := pooler_refuses(error, STARTUP_PARAMETERS):
        return StorageRefused(refused)
    return StorageUnavailable(f"PostgreSQL: {str(error) or type(error).__name__}")


def _is_of_the_server(error: Exception, of_driver: object) -> bool:
    code = _sqlstate(of_driver)
    if code is not None:
        return code.startswith(_UNAVAILABLE)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    # A value that the driver cannot send is an error of its interface too.
    return not isinstance(error, ValueError)


def _sqlstate(error: object) -> str | None:
    code: str | None = getattr(error, "sqlstate", None)
    return code
