"""The statements of the service beside the memory: where they do not agree, it is seen."""

import copy

import pytest
from sqlalchemy import text

from service.database.bulk import given
from service.storage import deliveries, leases, settlements, steps
from tests.simulation.runs import run

SEED_COUNT = 40
CHUNK = 10


@pytest.mark.parametrize("first", range(0, SEED_COUNT, CHUNK))
def test_statements_do_what_the_memory_does(first):
    """Every answer and every row of SQLite is that of the memory, after every transaction."""
    complaints = (run(seed, has_twin=True).complaint for seed in range(first, first + CHUNK))

    assert "" == next(filter(None, complaints), "")


def without(statement, condition):
    """*statement*, with one of its conditions left out."""
    changed = copy.copy(statement)
    changed._where_criteria = tuple(
        one for one in statement._where_criteria if condition not in str(one)
    )
    assert len(changed._where_criteria) < len(statement._where_criteria)
    # As if it had never been compiled.
    return changed.where(text("2 > 1"))


def settle_with_any_token(patch):
    """Whoever outlived its lease settles all the same."""
    patch.setattr(settlements, "_settling", without(settlements._settling, "lease_token"))


def move_with_any_token(patch):
    """Whoever outlived its lease moves the invoice on all the same."""
    patch.setattr(steps, "_moving", without(steps._moving, "lease_token"))


def lease_what_is_leased(patch):
    """A delivery is leased again while its lease holds."""
    patch.setattr(deliveries, "_due", without(deliveries._due, "leased_until"))


def collect_what_is_leased(patch):
    """An invoice is leased again while its lease holds."""
    patch.setattr(steps, "_due", without(steps._due, "leased_until"))


def lease_in_any_order(patch):
    """A later event of an invoice does not wait for an earlier one."""
    patch.setattr(deliveries, "_due", without(deliveries._due, "earlier"))


def count_no_lost_attempt(patch):
    """What was lost with its process is told to nobody."""
    patch.setattr(deliveries, "insert_attempts", lambda *_: None)


def never_divide(patch):
    """One of several leases had passed on, and all are told that theirs had not."""

    def give_up(tx, statement, rows):
        return tx.execute(statement, given(rows)).rowcount > 0

    patch.setattr(leases, "give_up", give_up)


PLANTS = {
    settle_with_any_token: 50,
    move_with_any_token: 0,
    lease_what_is_leased: 0,
    collect_what_is_leased: 0,
    lease_in_any_order: 0,
    count_no_lost_attempt: 0,
    never_divide: 85,
}
"""Each bug, and from which world on it is looked for: the earlier ones are too peaceful for it."""


@pytest.mark.parametrize(("plant", "first"), PLANTS.items())
def test_a_bug_in_a_statement_is_found(monkeypatch, plant, first):
    """Within a few worlds, and what is told names the seed and how to see it again."""
    plant(monkeypatch)
    complaints = (run(seed, has_twin=True).complaint for seed in range(first, first + 100))

    found = next(filter(None, complaints))
    assert "sqlite" in found.lower()
    assert "replay: python -m tests.simulation --twin " in found
