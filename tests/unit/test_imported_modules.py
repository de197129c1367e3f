"""
What a serving process keeps in memory: modules that it does not use are not imported.

The memory itself depends on the machine and on the allocator; the list of modules does not. The
MiB that each of them occupies are in the docstrings of the modules that leave it out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.__main__ import main

ROOT = Path(__file__).parents[2]

COMMON = {
    "aiosmtplib",
    "alembic",
    "cryptography",
    "mako",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "service.cli.check_receiver",
    "service.cli.demo",
    "service.cli.listen",
    "service.cli.receiver",
    "service.cli.why",
    "service.listener",
    "service.receiver.projects",
    "sqlalchemy.orm",
    "stripe",
    "swagger_ui",
    "yaml",
}
"""What no serving process needs before somebody asks for it."""

UNUSED = {
    "sqlite:///unused.db": {*COMMON, "asyncpg", "greenlet"},
    "postgresql://nobody@127.0.0.1/nothing": {*COMMON, "pysqlite3", "sqlite3"},
}
"""The modules that are not imported, by the URL of the database."""

PROGRAM = """
import sys
from service.cli.commands import main
from service.database.opening import open_database

main.commands["serve"]
open_database(sys.argv[1])
print(*sys.modules)
"""
"""Imports what `invoices serve` imports until it is connected."""

STARTING = """
import asyncio, sys
from service.app.process import DEVELOPMENT
from service.app.running import running
from service.cli.commands import main
from service.settings import Settings

async def start():
    async with running(Settings(port=0, database_url=sys.argv[1]), DEVELOPMENT):
        print(*sys.modules)

main.commands["serve"]
asyncio.run(start())
"""


def modules_of(program, folder, url):
    """The names of the modules that *program* prints, in a new process in *folder*."""
    done = subprocess.run(
        [sys.executable, "-c", program, url],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def those_of(modules, unused):
    """The names of *modules* that are one of *unused*, or below one."""
    return {one for one in modules for name in unused if one == name or one.startswith(f"{name}.")}


@pytest.mark.parametrize("url", UNUSED)
def test_a_serving_process_imports_nothing_that_it_does_not_use(url, tmp_path):
    """`invoices serve` leaves out other commands, other databases, and what is needed rarely."""
    assert set() == those_of(modules_of(PROGRAM, tmp_path, url), UNUSED[url])


def test_a_service_that_runs_has_imported_no_more(tmp_path, migrated):
    """A service on a database of the newest schema runs without what migrates and what encrypts."""
    modules = modules_of(STARTING, tmp_path, f"sqlite:///{migrated}")

    assert "service.database.sqlite" in modules
    assert set() == those_of(modules, UNUSED["sqlite:///unused.db"])


MIGRATING = """
import sys
from service.cli.database import migrate_apart
from service.settings import Settings

migrate_apart(Settings(database_url=sys.argv[1]))
print(*sys.modules)
"""


def test_a_migration_leaves_nothing_in_memory(tmp_path):
    """A new file of SQLite gets its schema, and the process that serves it has no Alembic."""
    url = f"sqlite:///{tmp_path}/invoices.db"

    modules = modules_of(MIGRATING, tmp_path, url)

    assert set() == those_of(modules, UNUSED["sqlite:///unused.db"])
    told = CliRunner().invoke(main, ["migrate", "--json"], env={"INVOICES_DATABASE_URL": url})
    revisions = json.loads(told.stdout)
    assert revisions["before"] == revisions["now"]


def test_a_migration_that_fails_apart_says_nothing(tmp_path):
    """The failure is reported once: by the start of the service, which meets it again."""
    url = f"sqlite:///{tmp_path}/missing/invoices.db"

    assert modules_of(MIGRATING, tmp_path, url)
