"""
What a process of the test run compiles once: statements of SQLAlchemy, and the templates of pages.

A process of the service has one database and one renderer of each kind in its life, and compiles
each statement and template once. Tests make a database and an application each, whose statements
and templates are the same: compiling them again took more of a processor than the tests themselves.
"""

from __future__ import annotations

from functools import partial

import pytest
from jinja2 import BytecodeCache, Environment
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

from service.collection import invoice_mail
from service.pages import rendering

STATEMENT_COUNT = 2_000
"""More than there are."""


class CompiledTemplates(BytecodeCache):
    """The code of templates, by their file and its content."""

    def __init__(self):
        self._codes = {}

    def load_bytecode(self, bucket):
        """Give *bucket* the code of its template, if it was compiled before."""
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket):
        """Keep the code of the template of *bucket*."""
        self._codes[bucket.key, bucket.checksum] = bucket.code


@pytest.fixture(scope="session", autouse=True)
def compiled_once():
    """Share compiled statements among engines, and compiled templates among renderers."""
    statements = LRUCache(STATEMENT_COUNT)
    environment = partial(Environment, bytecode_cache=CompiledTemplates())
    with pytest.MonkeyPatch.context() as patch:
        shared = property(lambda _: statements, _keep)
        patch.setattr(Engine, "_compiled_cache", shared, raising=False)
        for dialect in (SQLiteDialect_pysqlite, PGDialect_asyncpg):
            # Their text is compiled for a dialect; that of another engine is a different object.
            patch.setattr(dialect, "__eq__", _is_same)
            patch.setattr(dialect, "__hash__", lambda self: hash(type(self)))
        for module in (invoice_mail, rendering):
            patch.setattr(module, "Environment", environment)
        yield


def _keep(_engine, _own_cache):
    """Discard the cache that an engine makes for itself."""


def _is_same(dialect, other):
    """Whether two dialects of SQLAlchemy compile a statement into the same text."""
    return _facts(dialect) == _facts(other)


def _facts(dialect):
    return (
        type(dialect),
        getattr(dialect, "dbapi", None),
        getattr(dialect, "server_version_info", None),
    )
