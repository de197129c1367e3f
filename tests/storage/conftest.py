"""A database of its own for every test, and the store on it."""

from __future__ import annotations

import pytest

from service.storage.store import Store
from tests.rows import a_database


@pytest.fixture
async def database(tmp_path):
    """A database on the newest schema."""
    async with a_database(tmp_path) as database:
        yield database


@pytest.fixture
def store(database):
    """The store on that database."""
    return Store(database)
