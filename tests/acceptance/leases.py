"""Makes leases expire, so that a test does not have to wait."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.postgres import execute

_STATEMENTS = tuple(
    f"UPDATE {table} SET leased_until = 1 WHERE leased_until IS NOT NULL"
    for table in ("invoices", "deliveries", "mails")
)


def let_leases_run_out(url):
    """Make all leases expire now: a delivery in flight at a kill can be leased again."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            for statement in _STATEMENTS:
                connection.execute(statement)
    else:
        execute(url, *_STATEMENTS)
