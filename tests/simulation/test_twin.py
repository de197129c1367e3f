"""The statements of the service beside the memory: where they do not agree, it is seen."""

import copy

import pytest
from sqlalchemy import text

from service.database import bulk
from service.database.bulk import given
from service.storage import accounts, attempts, deliveries, leases, steps, tables
from tests import memory
from tests.simulation.runs import run

SEED_COUNT = 40
CHUNK = 10


@pytest.mark.parametrize("first", range(0, SEED_COUNT, CHUNK))
def test_statements_do_what_the_memory_does(first):
    """Every result and every row of SQLite is that of the memory, after every transaction."""
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
    """A process that outlived its lease settles all the same."""
    patch.setattr(attempts, "_settling", without(attempts._settling, "lease_token"))


def move_with_any_token(patch):
    """A process that outlived its lease writes its step all the same."""
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


def record_no_lost_attempt(patch):
    """What was lost with its process is not recorded."""

    def insert_rows(tx, table, rows):
        return bulk.insert_rows(tx, table, [] if table is tables.attempts else rows)

    patch.setattr(deliveries, "insert_rows", insert_rows)


def never_divide(patch):
    """One of several leases had passed on, and it is said of none."""

    def give_up(tx, statement, rows):
        return tx.execute(statement, given(list(rows))).rowcount > 0

    patch.setattr(leases, "give_up", give_up)


def number_by_what_was_read(patch):
    """An event beside the collection is numbered by what its caller knew of the invoice."""
    event_row = steps._event_row
    patch.setattr(
        steps,
        "_event_row",
        lambda invoice, event, _: event_row(invoice, event, invoice.event_count + 1),
    )


def keep_old_secrets(patch):
    """A rotation adds a secret, and the old one never expires."""

    def rotate(tx, account_id, credentials, *, now, until):
        accounts._add_credentials(tx, account_id, credentials, now)

    patch.setattr(memory, "WORK", {**memory.WORK, rotate: memory.WORK[accounts.rotate]})
    patch.setattr(accounts, "rotate", rotate)


PLANTS = {
    settle_with_any_token: 10,
    move_with_any_token: 40,
    lease_what_is_leased: 0,
    collect_what_is_leased: 0,
    lease_in_any_order: 0,
    record_no_lost_attempt: 0,
    never_divide: 25,
    number_by_what_was_read: 20,
    keep_old_secrets: 0,
}
"""Each bug, and from which world on it is looked for: the earlier ones are too peaceful for it."""


@pytest.mark.parametrize(("plant", "first"), PLANTS.items())
def test_a_bug_in_a_statement_is_found(monkeypatch, plant, first):
    """Within a few worlds, and the complaint names the seed and how to see it again."""
    plant(monkeypatch)
    complaints = (run(seed, has_twin=True).complaint for seed in range(first, first + 100))

    found = next(filter(None, complaints))
    assert "sqlite" in found.lower()
    assert "replay: python -m tests.simulation --twin " in found
