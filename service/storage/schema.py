"""
The schema of a database: its revision, and the migrations to the newest one.

A database that is on the newest schema is recognised without Alembic, whose modules occupy 11 MiB
for as long as the process lasts. They are imported only to migrate.
"""

from importlib import import_module
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from service.database.engine import Database
from service.errors import SchemaError
from service.storage import feed

VERSIONS = Path(__file__).parent / "migrations" / "versions"
REVISION_DIGITS = 4
"""With which the file name of a migration begins: its revision."""

_APPLIED = table("alembic_version", column("version_num"))


async def is_newest(database: Database) -> bool:
    """Whether there is nothing to migrate."""
    return await database.read(_revision) == _head()


async def migrate(database: Database) -> tuple[str | None, str | None]:
    """
    Apply the missing migrations in one transaction; on the newest schema, change nothing.

    Processes that migrate at the same time wait for each other.

    Returns:
        The revision before and the revision now; None stands for an empty database.

    Raises:
        SchemaError: if a newer version has made the database.
    """
    revisions = await database.change_schema(_upgrade)
    await _rebase(database)
    return revisions


async def prepare(database: Database) -> None:
    """
    Give an empty database its schema, and accept no other than the newest.

    Raises:
        SchemaError: if the database has another one. Several processes may use it: the operator
            decides when it changes.
    """

    def upgrade_if_empty(tx: Connection) -> None:
        revision = _revision(tx)
        if revision is None:
            _upgrade(tx)
        elif revision != _head():
            raise SchemaError(
                f"The database is on schema {revision}, and this version needs {_head()}. "
                "Bring it there with: invoices migrate"
            )

    if not await is_newest(database):
        await database.change_schema(upgrade_if_empty)
    await _rebase(database)


async def _rebase(database: Database) -> None:
    """Prepare the feed if the database was restored from a dump of another server."""
    if await database.read(feed.is_behind):
        await database.write(feed.rebase)


def _upgrade(tx: Connection) -> tuple[str | None, str | None]:
    before, head = _revision(tx), _head()
    if before != head:
        import_module("service.storage.migrating").upgrade(tx, before)
    return before, head


def _revision(tx: Connection) -> str | None:
    """The revision of the schema; None if the database has none."""
    if not inspect(tx).has_table(_APPLIED.name):
        return None
    revision: str | None = tx.execute(select(_APPLIED.c.version_num)).scalar()
    return revision


def _head() -> str:
    """The newest revision; that of a migration follows the one of the file before."""
    return max(file.name[:REVISION_DIGITS] for file in VERSIONS.glob("*.py"))
