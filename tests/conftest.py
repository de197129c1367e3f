"""
Fixtures for all tests, the order of the files, and the place of temporary files.

In CI a skipped test is a failure.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.rows import a_database
from tests.warm import Warm

pytest_plugins = ["tests.postgres"]

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

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 2**30
"""The free memory above which temporary files are in memory; a run needs a part of it."""


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the environment of the run, which all of its processes share."""
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
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


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
