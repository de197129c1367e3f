"""
Poolers between the service and PostgreSQL, such as PgBouncer: what they refuse, and the way out.

A pooler in transaction mode gives each transaction any connection of the server. A statement that
was prepared on another one is not there, or is another client's of the same name: it would run
with our values. So a name is used once.
"""

from collections.abc import Iterable
from uuid import uuid4

import asyncpg

_REFUSED_PARAMETER = "unsupported startup parameter"
"""What PgBouncer says, before the name of the first parameter that it does not know."""

_LOST_STATEMENT = ("26000", "42P05")
"""The SQLSTATEs of a prepared statement that is not there, or that is there already."""


def pooler_refuses(error: object, parameters: Iterable[str]) -> str | None:
    """
    What to change if *error* is a pooler's that refuses to connect for good.

    *parameters* are those with which the service connects, and which a pooler may not know.
    """
    if _REFUSED_PARAMETER not in str(error):
        return None
    return (
        f"PostgreSQL: {error}. That is the answer of PgBouncer: in its configuration, set "
        f"ignore_startup_parameters = {','.join(parameters)}"
    )


def statement_was_lost(sqlstate: str | None, error: object) -> str | None:
    """What to change if *error* says that a pooler has changed the connection of the server."""
    if sqlstate not in _LOST_STATEMENT:
        return None
    # The driver adds lines of advice that is not for this service.
    said = str(error).partition("\n")[0]
    return (
        f"PostgreSQL: {said}. A pooler in transaction mode does that: set "
        "INVOICES_DATABASE_PREPARED_STATEMENTS=false, or use PgBouncer 1.21 or newer with "
        "max_prepared_statements"
    )


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection whose prepared statements have names that no other connection uses."""

    def _get_unique_id(self, prefix: str) -> str:
        return f"invoices_{prefix}_{uuid4().hex}"
