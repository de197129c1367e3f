"""One database for each test, of each kind, and the store on it."""

from __future__ import annotations

import shutil

import pytest

from service.database.opening import open_database
from service.storage.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    """The kind of the database."""
    return request.param


@pytest.fixture
def url(kind, request, tmp_path):
    """The URL of a database: on the newest schema if the test uses `database`, else without one."""
    is_migrated = "database" in request.fixturenames
    if kind == "postgresql":
        return request.getfixturevalue("postgres_url" if is_migrated else "empty_postgres_url")
    path = tmp_path / "invoices.db"
    if is_migrated:
        # Migrating is slow.
        shutil.copy(request.getfixturevalue("new_database"), path)
    return f"sqlite:///{path}"


@pytest.fixture
async def empty(url):
    """A database without a schema."""
    database = open_database(url)
    yield database
    await database.close()


@pytest.fixture
def database(empty):
    """A database on the newest schema."""
    return empty


@pytest.fixture
def store(database):
    """The store on that database."""
    return Store(database)
