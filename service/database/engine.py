"""
The database: opened by its URL, written to, read, listened to, closed.

Work on it is an ordinary function of a connection and its arguments. The database decides in
which thread or loop it runs.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from service.database.postgres import PostgresDatabase
from service.database.sqlite import SqliteDatabase

P = ParamSpec("P")
T = TypeVar("T")


class Database(Protocol):
    """What the service stores in."""

    has_one_writer: bool
    """Whether transactions that write wait for each other, whatever they write."""

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """
        Run *work* in a transaction and commit it; an exception rolls all of it back.

        Raises:
            StorageUnavailable: if the database cannot be written to now. Where the
                connection was lost during the commit, it may have been written all the same.
        """
        ...

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """
        Run *work* on one consistent state of what has been committed.

        Raises:
            StorageUnavailable: if the database cannot be read now.
        """
        ...

    async def check(self) -> None:
        """
        Return if the database can be read, and written to if that has failed lately.

        Raises:
            StorageUnavailable: otherwise.
        """
        ...

    async def change_schema(self, work: Callable[[Connection], T]) -> T:
        """
        As `write`, without a time limit, and in one process at a time.

        Raises:
            StorageUnavailable: as `write` does.
        """
        ...

    def listen(self, signals: Mapping[str, asyncio.Event]) -> None:
        """Set the signal of a name whenever another process notifies that name."""
        ...

    def notify(self, name: str) -> None:
        """
        Wake the other processes soon.

        A notification may be lost: the loops also poll.
        """
        ...

    async def close(self) -> None:
        """Finish what was begun, then close every connection."""
        ...


def open_database(url: str, *, has_prepared_statements: bool = True) -> Database:
    """
    Open the database of *url*, `sqlite:///file` or `postgresql://…`, without connecting yet.

    Some connection poolers in front of PostgreSQL cannot keep prepared statements.
    """
    if url.startswith("sqlite:"):
        return SqliteDatabase(url)
    return PostgresDatabase(url, has_prepared_statements=has_prepared_statements)
