"""Fixtures for all tests; in CI a skipped test is a failure."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.rows import a_database
from tests.warm import Warm

pytest_plugins = ["tests.postgres"]


@pytest.fixture(scope="session")
def new_database(tmp_path_factory):
    """The file of a migrated database; tests copy it, because migrating is slow."""
    folder = tmp_path_factory.mktemp("database")

    async def make():
        async with a_database(folder):
            pass

    asyncio.run(make())
    return folder / "invoices.db"


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
