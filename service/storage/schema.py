"""Brings a database to the newest schema, through the migrations of this room."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from service.errors import SchemaError
from service.storage.engine import Database

_MIGRATIONS = Path(__file__).parent / "migrations"


async def migrate(database: Database) -> tuple[str | None, str | None]:
    """
    Apply what is missing, in one transaction; on the newest schema it changes nothing.

    Processes that do so at the same time wait for each other.

    Returns:
        The revision before and the revision now; None stands for an empty database.

    Raises:
        SchemaError: if a newer version has made the database.
    """

    def upgrade(tx: object) -> tuple[str | None, str | None]:
        before = MigrationContext.configure(tx).get_current_revision()  # type: ignore[arg-type]
        try:
            command.upgrade(_config(connection=tx), "head")
        except CommandError as error:
            raise SchemaError(
                f"The database is on schema {before}, which this version does not know. "
                "A newer version has made it; start that one, or go back to a backup."
            ) from error
        return before, ScriptDirectory.from_config(_config()).get_current_head()

    return await database.change_schema(upgrade)


def _config(**attributes: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes.update(attributes)
    return config
