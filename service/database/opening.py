"""
Opens the database that a URL names; only the driver of that one is imported.

The driver of PostgreSQL, with the part of SQLAlchemy that it needs, occupies 8 MiB.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

from service.database.engine import Database

ASYNCHRONOUS = "sqlalchemy.ext.asyncio"


def open_database(url: str, *, has_prepared_statements: bool = True) -> Database:
    """
    Open the database of *url*, `sqlite:///file` or `postgresql://…`, without connecting yet.

    Some connection poolers in front of PostgreSQL cannot keep prepared statements.
    """
    database: Database
    if url.startswith("sqlite:"):
        database = import_module("service.database.sqlite").SqliteDatabase(url)
    else:
        leave_out_orm()
        database = import_module("service.database.postgres").PostgresDatabase(
            url, has_prepared_statements=has_prepared_statements
        )
    return database


def leave_out_orm() -> None:
    """
    Let the asynchronous engine of SQLAlchemy be imported without its ORM, which nobody uses here.

    Its package imports sessions, and those the ORM: 6 MiB. Until somebody asks for a name of the
    package itself, it is there with its modules and is not executed.
    """
    if ASYNCHRONOUS in sys.modules or not (spec := find_spec(ASYNCHRONOUS)) or not spec.loader:
        return
    package, loader = module_from_spec(spec), spec.loader

    def execute(name: str) -> Any:
        if name.startswith("__") or find_spec(f"{ASYNCHRONOUS}.{name}"):
            # One of its modules, which Python then imports by itself.
            raise AttributeError(name)
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__getattr__"] = execute
    sys.modules[ASYNCHRONOUS] = package
