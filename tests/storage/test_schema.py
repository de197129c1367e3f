from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from service.errors import SchemaError
from service.storage import schema
from service.storage.sqlite import SqliteDatabase
from service.storage.schema import migrate
from service.storage.tables import invoices, metadata
from tests.rows import a_database, an_invoice, rows_of

MIGRATIONS = Path(schema.__file__).parent / "migrations"


@pytest.fixture
async def empty(tmp_path):
    """A database without a schema."""
    database = SqliteDatabase(f"sqlite:///{tmp_path}/empty.db")
    yield database
    await database.close()


def config(tx=None):
    """Alembic's configuration, on the transaction *tx*."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["connection"] = tx
    return made


def tables(tx):
    """How every table and index is declared in the database."""
    declared = text("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")
    return {name: sql for name, sql in tx.execute(declared) if sql}


def head():
    """The newest revision there is."""
    return ScriptDirectory.from_config(config()).get_current_head()


async def test_an_empty_database_is_brought_to_the_newest_schema(empty):
    """The first start makes every table, and says where it came from."""
    assert (None, head()) == await migrate(empty)

    assert {*metadata.tables, "alembic_version"} == set(
        await empty.read(lambda tx: inspect(tx).get_table_names())
    )


async def test_migrating_again_changes_nothing(empty):
    """Every start may migrate: on the newest schema that does nothing."""
    await migrate(empty)
    before = await empty.read(tables)

    assert (head(), head()) == await migrate(empty)

    assert before == await empty.read(tables)


async def test_migrating_again_keeps_what_is_stored(store, database):
    """A restart loses no row."""
    await store.accept(an_invoice())
    before = await rows_of(database, invoices)

    await migrate(database)

    assert before == await rows_of(database, invoices)


async def test_tables_are_what_the_migrations_make(database):
    """The tables in the code and those in the database are the same, index by index."""

    def differences(tx):
        return compare_metadata(MigrationContext.configure(tx), metadata)

    assert [] == await database.read(differences)


async def test_partial_indexes_are_what_the_migrations_make(database, empty):
    """The conditions of indexes, which the comparison cannot see, are the same too."""

    def indexes(tx):
        return {
            name: " ".join(sql.split())
            for name, sql in tables(tx).items()
            if sql.startswith("CREATE") and "INDEX" in sql.split("(")[0]
        }

    await empty.write(metadata.create_all)

    assert await empty.read(indexes) == await database.read(indexes)


async def test_migrations_lead_down_and_up_again(empty):
    """Each revision can be undone and made again, to the same schema."""
    await migrate(empty)
    before = await empty.read(tables)

    await empty.write(lambda tx: command.downgrade(config(tx), "base"))
    assert {"alembic_version"} == set(await empty.read(tables))

    await migrate(empty)
    assert before == await empty.read(tables)


async def test_a_migration_that_fails_leaves_the_database_as_it_was(empty):
    """All of it is one transaction: there is no half a schema."""

    def make_in_the_way(tx):
        tx.exec_driver_sql("CREATE TABLE attempts (other TEXT)")

    await empty.write(make_in_the_way)
    before = await empty.read(tables)

    with pytest.raises(Exception, match="attempts"):
        await migrate(empty)

    assert before == await empty.read(tables)


def test_there_is_one_newest_revision():
    """Revisions stand in one line, so that there is only one way up."""
    assert 1 == len(ScriptDirectory.from_config(config()).get_heads())


async def test_a_database_of_a_newer_version_is_told(tmp_path):
    """A schema that this version does not know stops the start with words, and changes nothing."""
    async with a_database(tmp_path) as database:
        newer = text("UPDATE alembic_version SET version_num = '9999'")
        await database.write(lambda tx: tx.execute(newer).close())

        with pytest.raises(SchemaError, match=r"9999.*newer version"):
            await migrate(database)
