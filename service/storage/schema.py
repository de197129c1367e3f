"""The schema of a database: its revision, and the migrations to the newest one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from service.database.engine import Database
from service.errors import SchemaError
from service.storage import feed

_MIGRATIONS = Path(__file__).parent / "migrations"


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

    if await database.read(_revision) != _head():
        await database.change_schema(upgrade_if_empty)
    await _rebase(database)


async def _rebase(database: Database) -> None:
    """Prepare the feed if the database was restored from a dump of another server."""
    if await database.read(feed.is_behind):
        await database.write(feed.rebase)


def _upgrade(tx: Connection) -> tuple[str | None, str | None]:
    before = _revision(tx)
    try:
        command.upgrade(_config(connection=tx), "head")
    except CommandError as error:
        raise SchemaError(
            f"The database is on schema {before}, which this version does not know. "
            "A newer version has made it; start that one, or go back to a backup."
        ) from error
    return before, _head()


def _revision(tx: Connection) -> str | None:
    return MigrationContext.configure(tx).get_current_revision()


def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config(**attributes: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes.update(attributes)
    return config
