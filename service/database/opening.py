"""Opens the database that a URL names."""

from service.database.engine import Database
from service.database.postgres import PostgresDatabase
from service.database.sqlite import SqliteDatabase


def open_database(url: str, *, has_prepared_statements: bool = True) -> Database:
    """
    Open the database of *url*, `sqlite:///file` or `postgresql://…`, without connecting yet.

    Some connection poolers in front of PostgreSQL cannot keep prepared statements.
    """
    if url.startswith("sqlite:"):
        return SqliteDatabase(url)
    return PostgresDatabase(url, has_prepared_statements=has_prepared_statements)
