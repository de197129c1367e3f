"""PostgreSQL servers that a test may do anything to, and databases of other times."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from service.storage import schema
from service.storage.postgres import PostgresDatabase
from tests.postgres import PostgresServer


@pytest.fixture
def own_server():
    """A server of this test's own, with nothing in its database."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def older_postgres_url(empty_postgres_url):
    """A database as an older version has left it."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))

    def make(tx):
        config.attributes["connection"] = tx
        command.upgrade(config, "0001")

    database = PostgresDatabase(empty_postgres_url)
    await database.change_schema(make)
    await database.close()
    return empty_postgres_url
