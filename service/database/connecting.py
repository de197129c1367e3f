"""
Connections to PostgreSQL, and what it means when there are none.

A server that is away is tried again after a short and growing rest, so that requests meanwhile
fail at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.errors import StorageRefused, StorageUnavailable

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 5
TRANSACTION_SECONDS = 10
"""A transaction of ours takes milliseconds; whatever takes this long is not going to end."""

REST_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""How long a server that could not be reached is left alone, each time longer."""

SETTINGS = {
    "application_name": "invoices",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    # A process that stands still in a transaction holds rows; others want them.
    "idle_in_transaction_session_timeout": f"{TRANSACTION_SECONDS}s",
    # Every statement here has an index to go by. Plans are kept, and one that was made while a
    # table was small must not walk through it when it has grown.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_REFUSALS = (
    asyncpg.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""What a server, or the driver, says to an address, user, password or name that is wrong."""

_UNAVAILABLE = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58")
"""SQLSTATEs, by their beginning, that speak of the server's state and not of our statement."""


class Connector:
    """Connects to the server of *url*."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._failure_count = 0
        self._rest_until = 0.0

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """A new connection; one that failed a moment ago is not tried again yet."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._rest_until:
            raise StorageUnavailable("PostgreSQL: it could not be reached a moment ago")
        try:
            with translated():
                connection = await asyncpg.connect(
                    self._url,
                    timeout=CONNECT_SECONDS,
                    # SQLAlchemy keeps the prepared statements.
                    statement_cache_size=0,
                    server_settings={**SETTINGS, **settings},
                )
        except StorageUnavailable:
            rest = REST_SECONDS[min(self._failure_count, len(REST_SECONDS) - 1)]
            self._failure_count += 1
            self._rest_until = loop.time() + rest
            raise
        self.is_reached()
        return connection

    def is_reached(self) -> None:
        """The server has answered: the next connection need not wait."""
        self._failure_count, self._rest_until = 0, 0.0


@contextmanager
def translated() -> Iterator[None]:
    """Errors that speak of the server become StorageUnavailable; those of our work stay."""
    try:
        yield
    except _REFUSALS as error:
        raise StorageRefused(f"PostgreSQL: {error}") from error
    except (OSError, PoolTimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise StorageUnavailable(f"PostgreSQL: {str(error) or type(error).__name__}") from error
    except DBAPIError as error:
        if not _is_of_the_server(error):
            raise
        raise StorageUnavailable(f"PostgreSQL: {error.orig}") from error


def _is_of_the_server(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated if code is None else code.startswith(_UNAVAILABLE)
