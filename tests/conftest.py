"""
Fixtures for all tests, the order of the files, and the place of temporary files.

In CI a skipped test is a failure.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from aiohttp import web_app
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.rows import a_database
from tests.warm import Warm

pytest_plugins = ["tests.compiled", "tests.generated", "tests.postgres"]

TESTS = Path(__file__).parent

LONGEST = (
    "projects",
    "documents",
    "simulation",
    "acceptance",
    "browser",
    "stripe",
    "storage",
    "contract",
    "unit/test_sender.py",
    "unit/test_hostile_receivers.py",
    "unit/test_shared_hosts.py",
    "unit/test_what_receivers_answer.py",
    "unit/test_check_receiver.py",
    "unit/accounts",
)
"""
Folders and files that take long, in this order; all others come after them.

The processes of a run take the files in turn. None of them works alone at the end if the files that
are left then are short.
"""

IN_ONE_PROCESS = ("tests/browser/",)
"""Folders whose files share what is expensive to start: one process of a run takes all of them."""

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 2**30
"""The free memory above which temporary files are in memory; a run needs a part of it."""


HANG_SECONDS = 180
"""A test that takes longer than this hangs."""

REST_SECONDS = 20
"""How much longer it may take until the run ends: its end is set this often at most."""


PROCESSES_PER_CORE = 2
"""How many processes a run has: about half of the tests wait, for other programs or for a time."""

GARBAGE_COUNT = 3_000
"""
After so many new objects, the garbage collector looks at them.

An application and its database are twice as many; by default it looks after 700.
"""


class Watch:
    """
    Ends a run in which a test hangs, and shows where every thread stands.

    The option `faulthandler_timeout` of pytest does the same, with a new thread for each test: that
    is a tenth of the time of short tests.
    """

    def __init__(self) -> None:
        # Later, what tests print is captured.
        self._stderr = os.dup(2)
        self._set_at = -math.inf

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_protocol(self) -> Iterator[object]:
        """Give the next test its time."""
        if time.monotonic() - self._set_at > REST_SECONDS:
            self._set_at = time.monotonic()
            seconds = HANG_SECONDS + REST_SECONDS
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._stderr)
        return (yield)

    def pytest_sessionfinish(self) -> None:
        """All tests have ended."""
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Iterator[int]:
    """What `--numprocesses auto` stands for, unless the environment has a number."""
    count = yield
    return count if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else PROCESSES_PER_CORE * count


class Files(LoadFileScheduling):
    """Gives each process of a run a file, or all files of a folder that one process takes."""

    def _split_scope(self, nodeid: str) -> str:
        folders = (folder for folder in IN_ONE_PROCESS if nodeid.startswith(folder))
        return next(folders, None) or super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files | None:
    """What `--dist loadfile` stands for."""
    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the environment of the run, which all of its processes share."""
    config.pluginmanager.register(Watch())
    # No test needs the authorities of the system, which take 20 ms in each TLS context.
    os.environ["SSL_CERT_FILE"] = os.devnull
    _keep_files_in_memory(config)


def _keep_files_in_memory(config: pytest.Config) -> None:
    """
    Keep temporary files in memory where that is possible: a commit waits for a disk.

    They are removed at the end of the run. With TMPDIR set, they are there, and those of failed
    tests stay.
    """
    if "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    found = os.statvfs(MEMORY)
    # Tests build programs in temporary folders, and run them.
    can_run = not found.f_flag & os.ST_NOEXEC
    if can_run and found.f_bavail * found.f_frsize > MEMORY_BYTES:
        folder = tempfile.mkdtemp(prefix="invoices-tests-", dir=MEMORY)
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
        # PostgreSQL runs as another user if the tests run as root.
        Path(folder).chmod(0o711)
        # The other processes of the run have the same environment.
        os.environ["TMPDIR"] = tempfile.tempdir = folder


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Exclude what is collected from garbage collection: it lives as long as the run."""
    gc.disable()
    try:
        _import_in_turn(session.config)
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(GARBAGE_COUNT)
        gc.enable()


def _import_in_turn(config: pytest.Config) -> None:
    """
    Import all tests; each process of a run begins at another place.

    In a new clone the modules are compiled, and kept for the next import: each process compiles a
    part of them then, and not every process all of them.
    """
    if not hasattr(config, "workerinput") or config.args_source is not config.ArgsSource.TESTPATHS:
        return
    paths = sorted(path for depth in ("*", "*/*") for path in TESTS.glob(f"{depth}/test_*.py"))
    places = [path.relative_to(TESTS.parent).with_suffix("").parts for path in paths]
    # Not those of installed packages.
    names = [".".join(one) for one in places if all(part.isidentifier() for part in one)]
    number = int(config.workerinput["workerid"].removeprefix("gw"))
    start = number * len(names) // config.workerinput["workercount"]
    for name in (*names[start:], *names[:start]):
        # The collection imports it again, and shows what is wrong.
        with suppress(Exception):
            import_module(name)


def pytest_runtest_teardown() -> None:
    """
    Release the applications of the test.

    aiohttp keeps the last thousand of them, with all that they hold: the garbage collector looked
    at 800,000 objects each time.
    """
    web_app._cached_build_middleware.cache_clear()


def pytest_unconfigure() -> None:
    """
    Exclude what is left of the run from garbage collection, once the garbage is collected.

    pytest looks for garbage five times more, and the interpreter several times while it ends: each
    time at all that the run has made, which took a process two seconds.
    """
    for _ in range(2):
        # Twice, because what is collected may leave garbage.
        gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first; the tests of a file keep their order."""
    ranks: dict[Path, int] = {}
    for item in items:
        if not item.nodeid.endswith(item.name):
            # All operations that schemathesis tries in a test have one id: a run with several
            # processes would try one operation.
            item._id = item.id.with_params(item.name.partition("[")[2].removesuffix("]"))
        if item.path not in ranks:
            name = item.path.relative_to(TESTS).as_posix()
            found = (rank for rank, start in enumerate(LONGEST) if name.startswith(start))
            ranks[item.path] = next(found, len(LONGEST))
    items.sort(key=lambda item: ranks[item.path])


@pytest.fixture(scope="session")
def new_database(tmp_path_factory):
    """The file of a migrated database; tests copy it, because migrating is slow."""
    folder = tmp_path_factory.mktemp("database")

    async def make():
        async with a_database(folder):
            pass

    asyncio.run(make())
    return folder / "invoices.db"


@pytest.fixture
def migrated(tmp_path, new_database):
    """A copy of that file is in the folder of this test, where commands look for a database."""
    return shutil.copy(new_database, tmp_path)


@pytest.fixture(scope="session")
def warm():
    """Starts processes of the service quickly."""
    with Warm() as warm:
        yield warm


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true a skipped test, or an expected failure without a reason, fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return
    expected = reporter.stats.get("xfailed", [])
    skipped = [*reporter.stats.get("skipped", []), *filter(_is_unexplained, expected)]
    if not skipped:
        return
    reporter.section("skipped, which CI does not accept", red=True)
    for report in skipped:
        reporter.line(report.nodeid)
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_unexplained(report: pytest.TestReport) -> bool:
    # pytest.xfail() puts a prefix before the reason, the marker does not.
    return not report.wasxfail.removeprefix("reason: ").strip()
