"""One database for each test, of each kind, and the store on it."""

from __future__ import annotations

import pytest

from service.database.opening import open_database
from service.storage.schema import migrate
from service.storage.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    """The kind of the database."""
    return request.param


@pytest.fixture
def url(kind, request, tmp_path):
    """The URL of a database without a schema."""
    if kind == "postgresql":
        return request.getfixturevalue("empty_postgres_url")
    return f"sqlite:///{tmp_path}/invoices.db"


@pytest.fixture
async def empty(url):
    """A database without a schema."""
    database = open_database(url)
    yield database
    await database.close()


@pytest.fixture
async def database(empty):
    """A database on the newest schema."""
    await migrate(empty)
    return empty


@pytest.fixture
def store(database):
    """The store on that database."""
    return Store(database)
