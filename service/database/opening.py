"""
Opens the database that a URL names; only the driver of that one is imported.

The driver of PostgreSQL, with the part of SQLAlchemy that it needs, occupies 9 MiB.
"""

from importlib import import_module

from service.database.engine import Database


def open_database(url: str, *, has_prepared_statements: bool = True) -> Database:
    """
    Open the database of *url*, `sqlite:///file` or `postgresql://…`, without connecting yet.

    Some connection poolers in front of PostgreSQL cannot keep prepared statements.
    """
    database: Database
    if url.startswith("sqlite:"):
        database = import_module("service.database.sqlite").SqliteDatabase(url)
    else:
        database = import_module("service.database.postgres").PostgresDatabase(
            url, has_prepared_statements=has_prepared_statements
        )
    return database
