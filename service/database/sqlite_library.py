"""
The SQLite library: the one that the package pysqlite3 brings, or that of the system.

SQLite 3.7.0 to 3.51.2 can corrupt a write-ahead log that two connections write to (sqlite.org,
wal.html, "The WAL-reset bug"), and most systems have such a version. So pysqlite3 is installed
where it has wheels. Everything in one process must use the same library: each one releases the
file locks of the other.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

IS_PACKAGED = find_spec("pysqlite3") is not None
"""Whether it is that of the package; the other one, 1 MiB, is not even loaded then."""

LIBRARY: ModuleType = import_module("pysqlite3.dbapi2" if IS_PACKAGED else "sqlite3")
"""The module of the DB-API."""

# Nulls, bytes and truth values are bound as they are. Without an adapter the library looks for
# methods of each value, and fails: for the rows of an invoice, that is 3 % of its whole way.
LIBRARY.register_adapter(type(None), {}.get)
LIBRARY.register_adapter(bytes, bytes)
LIBRARY.register_adapter(bool, int)

STATEMENTS_MAX = 512
"""How many prepared statements a connection keeps: more than there are."""

VERSION: str = LIBRARY.sqlite_version

PRODUCT = f"SQLite {VERSION} ({'pysqlite3' if IS_PACKAGED else 'the system'})"
"""The library and where it comes from."""

_DEFECT_SINCE = (3, 7, 0)
_MENDED_IN = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
"""In three series; each later series is mended from its beginning."""


def may_corrupt(version: str) -> bool:
    """Whether SQLite *version* can corrupt a write-ahead log with several writers."""
    numbers = tuple(map(int, version.split(".")))
    is_mended = numbers >= _MENDED_IN[-1] or any(
        numbers[:2] == mended[:2] and numbers >= mended for mended in _MENDED_IN
    )
    return numbers >= _DEFECT_SINCE and not is_mended


def is_interrupted(error: Any) -> bool:
    """Whether *error* was raised because a statement was ended from outside."""
    return bool(getattr(error, "sqlite_errorcode", None) == LIBRARY.SQLITE_INTERRUPT)


def is_busy(error: Any) -> bool:
    """Whether *error* was raised because another connection has a lock."""
    return bool(error.sqlite_errorcode == LIBRARY.SQLITE_BUSY)
