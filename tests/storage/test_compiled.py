"""Statements that SQLAlchemy compiles once, and the driver runs: on both databases."""

import pytest
from sqlalchemy import BigInteger, Engine, Text, event, select, update

from service.database.bulk import Given, insert_rows
from service.database.compiled import ROWS_MAX, fetch_given, run_given
from service.storage.tables import origins

moved = Given(origin=Text(), held_until=BigInteger())
MOVING = (
    update(origins)
    .where(origins.c.origin == moved.c.origin, origins.c.origin.not_in(["never"]))
    .values(held_until=moved.c.held_until)
)
FINDING = select(origins.c.origin, moved.c.held_until).join(
    moved, origins.c.origin == moved.c.origin
)
COUNT = 2 * ROWS_MAX + 7


def rows(tx):
    """The stored rows, as the database holds them."""
    return sorted(map(tuple, tx.exec_driver_sql("SELECT origin, held_until FROM origins").all()))


def stored(tx):
    """Store rows; what is to be done with them."""
    insert_rows(tx, origins, [(f"o{n}", n) for n in range(COUNT)])
    return [{"origin": f"o{n}", "held_until": 1000 + n} for n in range(COUNT)]


@pytest.mark.parametrize("count", [1, 2, 3, ROWS_MAX, COUNT])
async def test_a_statement_changes_all_given_rows(database, count):
    """However many rows are given, each is changed once, with its own values."""

    def work(tx):
        given = stored(tx)
        return run_given(tx, MOVING, given[:count]), rows(tx)

    changed, found = await database.write(work)

    assert count == changed
    expected = [(f"o{n}", 1000 + n if n < count else n) for n in range(COUNT)]
    assert sorted(expected) == found


async def test_rows_that_are_not_there_are_not_counted(database):
    """The count is that of the rows that were changed."""

    def work(tx):
        given = stored(tx)[:5]
        return run_given(tx, MOVING, [*given, {"origin": "other", "held_until": 1}])

    assert 5 == await database.write(work)


async def test_values_go_by_their_names(database):
    """The order of the names in a row does not matter."""

    def work(tx):
        stored(tx)
        run_given(tx, MOVING, [{"held_until": 77, "origin": "o0"}])
        return rows(tx)[0]

    assert ("o0", 77) == await database.write(work)


async def test_a_query_finds_for_all_given_rows(database):
    """The rows of all pieces are found."""

    def work(tx):
        return sorted(map(tuple, fetch_given(tx, FINDING, stored(tx))))

    assert sorted((f"o{n}", 1000 + n) for n in range(COUNT)) == await database.write(work)


async def test_who_listens_to_statements_sees_these_too(database):
    """A tracer of SQLAlchemy is told of each statement, and the result is the same."""
    seen = []

    def listen(_connection, _cursor, statement, *_):
        seen.append(statement.partition(" ")[0])

    def work(tx):
        given = stored(tx)[:1]
        seen.clear()
        return run_given(tx, MOVING, given), [tuple(one) for one in fetch_given(tx, FINDING, given)]

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        result = await database.write(work)
    finally:
        event.remove(Engine, "before_cursor_execute", listen)

    assert (1, [("o0", 1000)]) == result
    assert ["UPDATE", "SELECT"] == seen


async def test_a_value_that_cannot_be_stored_is_a_defect_and_no_outage(database):
    """The error of the driver is not reported as an unavailable database; the next write works."""

    def fail(tx):
        insert_rows(tx, origins, [("twice", 1), ("twice", 2)])

    with pytest.raises(Exception, match=r"(?i)unique"):
        await database.write(fail)
    with pytest.raises(Exception, match=r"(?i)not.null"):
        await database.write(lambda tx: insert_rows(tx, origins, [("bad", None)]))

    assert [] == await database.read(rows)
