"""PostgreSQL servers that a test may stop, and databases of older versions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from service.database.postgres import PostgresDatabase
from service.storage import schema
from tests import processes
from tests.postgres import PostgresServer


@pytest.fixture
def own_server():
    """A server for this test alone, with an empty database."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def older_postgres_url(empty_postgres_url):
    """A database of an older version."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))

    def make(tx):
        config.attributes["connection"] = tx
        command.upgrade(config, "0001")

    database = PostgresDatabase(empty_postgres_url)
    await database.change_schema(make)
    await database.close()
    return empty_postgres_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """A database for this test alone, once of each kind."""
    if "postgresql" == request.param:
        return request.getfixturevalue("postgres_url")
    copy = shutil.copy(request.getfixturevalue("new_database"), tmp_path)
    return f"sqlite:///{copy}"


@pytest.fixture(autouse=True)
def _quick_starts(warm, monkeypatch):
    """Processes of the service are forked here; other tests start some with a new interpreter."""
    monkeypatch.setattr(processes, "start_process", warm.start)
