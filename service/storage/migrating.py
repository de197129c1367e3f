"""Applies migrations with Alembic; imported only by a process that has some to apply."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from service.errors import SchemaError

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(tx: Connection, before: str | None) -> None:
    """
    Apply to the schema of revision *before* all migrations that follow it.

    Raises:
        SchemaError: if no migration has this revision.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = tx
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaError(
            f"The database is on schema {before}, which this version does not know. "
            "A newer version has made it; start that one, or go back to a backup."
        ) from error
