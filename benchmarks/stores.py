"""
The databases that the service is measured on.

For each measurement a store makes a new database, empty or filled. What is to be in it is made
once, and copied every time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.errors import BenchmarkError
from benchmarks.postgres import Server, serving
from benchmarks.rows import Rows, fill
from service.database.sqlite_library import LIBRARY

SQLITE = "SQLite"
POSTGRES = "PostgreSQL"
STORES = (SQLITE, POSTGRES)
"""Each is a row of the first table and a column of the second."""

NO_STORE = "none"


class Store(Protocol):
    """Makes databases, each gone after the block; *description* says what they are."""

    @property
    def description(self) -> str:
        """What a reader has to know of it."""
        ...

    def empty(self, folder: Path) -> AbstractContextManager[str]:
        """The URL of a new and empty database, for a measurement with a *folder* of its own."""
        ...

    def filled(self, rows: Rows, folder: Path) -> AbstractContextManager[str]:
        """The URL of a new database that holds *rows*."""
        ...

    def cpu_seconds(self) -> float:
        """The processor time used outside of the service; 0 where there is none to tell."""
        ...


@dataclass(frozen=True, slots=True)
class Nothing:
    """For services that store nothing."""

    description: str = "nothing is stored"

    def empty(self, folder: Path) -> AbstractContextManager[str]:
        """A URL that nobody opens."""
        return nullcontext("sqlite:///unused")

    def filled(self, rows: Rows, folder: Path) -> AbstractContextManager[str]:
        """There is nothing to fill."""
        raise BenchmarkError(self.description)

    def cpu_seconds(self) -> float:
        """None."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A store that cannot be had here: each of its measurements fails with *description*."""

    description: str

    def empty(self, folder: Path) -> AbstractContextManager[str]:
        """Say why not."""
        raise BenchmarkError(self.description)

    def filled(self, rows: Rows, folder: Path) -> AbstractContextManager[str]:
        """Say why not."""
        raise BenchmarkError(self.description)

    def cpu_seconds(self) -> float:
        """None."""
        return 0.0


class SqliteStore:
    """A file in the folder of the measurement; what is copied lies in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.description = f"SQLite {LIBRARY.sqlite_version}, a file in WAL mode"
        self._folder = folder
        self._made: dict[Rows, Path] = {}

    @contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        """A file that the service makes when it starts."""
        yield _url(folder / "benchmark.db")

    @contextmanager
    def filled(self, rows: Rows, folder: Path) -> Iterator[str]:
        """A copy of a file that holds *rows*."""
        copy = folder / "benchmark.db"
        shutil.copyfile(self._made.get(rows) or self._make(rows), copy)
        _synchronise(copy)
        yield _url(copy)

    def cpu_seconds(self) -> float:
        """None: all of it happens in the service's own process."""
        return 0.0

    def _make(self, rows: Rows) -> Path:
        file = self._folder / f"made-{len(self._made)}.db"
        fill(_url(file), rows)
        # A copy is one file: nothing may be left beside it.
        with closing(LIBRARY.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._made[rows] = file
        return file


class PostgresStore:
    """Databases on one *server*."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._made: dict[Rows, str] = {}

    @property
    def description(self) -> str:
        """The server's own words, and where it runs."""
        return self._server.description

    @contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        """A database without a table."""
        with self._new() as url:
            yield url

    @contextmanager
    def filled(self, rows: Rows, folder: Path) -> Iterator[str]:
        """A copy of a database that holds *rows*."""
        with self._new(self._made.get(rows) or self._make(rows)) as url:
            yield url

    def cpu_seconds(self) -> float:
        """What all processes of the server have used."""
        return self._server.cpu_seconds()

    def forget(self) -> None:
        """Drop what was kept to be copied."""
        for url in self._made.values():
            self._server.drop(url)

    @contextmanager
    def _new(self, like: str | None = None) -> Iterator[str]:
        url = self._server.create(like)
        try:
            yield url
        finally:
            self._server.drop(url)

    def _make(self, rows: Rows) -> str:
        url = self._made[rows] = self._server.create()
        fill(url, rows)
        self._server.settle(url)
        return url


@contextmanager
def opened_stores(folder: Path) -> Iterator[Mapping[str, Store]]:
    """Every store by its name, with what it needs in *folder*; servers end with the block."""
    stores: dict[str, Store] = {NO_STORE: Nothing(), SQLITE: SqliteStore(folder)}
    with ExitStack() as stack:
        try:
            store = PostgresStore(stack.enter_context(serving(folder)))
            stack.callback(store.forget)
            stores[POSTGRES] = store
        except BenchmarkError as error:
            stores[POSTGRES] = Missing(f"there is no PostgreSQL: {error}")
        yield stores


def _url(file: Path) -> str:
    return f"sqlite:///{file}"


def _synchronise(file: Path) -> None:
    """Wait for the disk now, so that nobody who is measured has to."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
