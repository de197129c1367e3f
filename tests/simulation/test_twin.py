"""The statements of the service are compared with the memory; each difference is found."""

import copy

import pytest
from sqlalchemy import text

from service.database import bulk
from service.database.bulk import given
from service.domain.states import Acceptance
from service.storage import accepting, accounts, attempts, deliveries, leases, steps, tables
from tests import memory
from tests.simulation.runs import run

SEED_COUNT = 40
CHUNK = 10
PAYING_COUNT = 6


@pytest.mark.parametrize("first", range(0, SEED_COUNT, CHUNK))
def test_statements_have_the_same_results_as_the_memory(first):
    """After every transaction, every result and every row of SQLite equals that of the memory."""
    failures = (run(seed, has_twin=True).failure for seed in range(first, first + CHUNK))

    assert "" == next(filter(None, failures), "")


def test_statements_about_money_have_the_same_results_as_the_memory():
    """The same in worlds with payments."""
    failures = (run(seed, has_twin=True, is_paying=True).failure for seed in range(PAYING_COUNT))

    assert "" == next(filter(None, failures), "")


def without(statement, condition):
    """Return *statement* without one of its conditions."""
    changed = copy.copy(statement)
    changed._where_criteria = tuple(
        one for one in statement._where_criteria if condition not in str(one)
    )
    assert len(changed._where_criteria) < len(statement._where_criteria)
    # Compile the statement again, without its cache.
    return changed.where(text("2 > 1"))


def settle_with_any_token(patch):
    """A process with a stale lease settles the delivery."""
    patch.setattr(attempts, "_settling", without(attempts._settling, "lease_token"))


def move_with_any_token(patch):
    """A process with a stale lease writes its step."""
    patch.setattr(steps, "_moving", without(steps._moving, "lease_token"))


def lease_what_is_leased(patch):
    """A delivery is leased again while its lease holds."""
    patch.setattr(deliveries, "_due", without(deliveries._due, "leased_until"))


def collect_what_is_leased(patch):
    """An invoice is leased again while its lease holds."""
    patch.setattr(steps._due, "due", without(steps._due.due, "leased_until"))


def lease_in_any_order(patch):
    """A later event of an invoice does not wait for an earlier one."""
    patch.setattr(deliveries, "_due", without(deliveries._due, "earlier"))


def record_no_lost_attempt(patch):
    """Lost attempts are not recorded."""

    def insert_rows(tx, table, rows, **options):
        return bulk.insert_rows(tx, table, [] if table is tables.attempts else rows, **options)

    patch.setattr(deliveries, "insert_rows", insert_rows)


def never_divide(patch):
    """If one of several leases is stale, no write is refused."""

    def give_up(tx, statement, rows):
        return tx.execute(statement, given(list(rows))).rowcount > 0

    patch.setattr(leases, "give_up", give_up)


def number_by_what_was_read(patch):
    """An event beside the collection gets its number from what its caller has read."""
    event_row = steps._event_row
    patch.setattr(
        steps,
        "_event_row",
        lambda invoice, event, _, *more: event_row(invoice, event, invoice.event_count + 1, *more),
    )


def tell_of_known_ids(patch):
    """A replay records the event of its first step again."""
    insert_new = accepting.insert_new

    def insert_all(tx, new, rows):
        insert_new(tx, new, rows)
        return [Acceptance.STORED] * len(new)

    patch.setattr(accepting, "insert_new", insert_all)


def keep_old_secrets(patch):
    """A rotation adds a secret, and the old secret never expires."""

    def rotate(tx, account_id, credentials, *, now, until):
        accounts._add_credentials(tx, account_id, credentials, now)

    patch.setattr(memory, "WORK", {**memory.WORK, rotate: memory.WORK[accounts.rotate]})
    patch.setattr(accounts, "rotate", rotate)


PLANTS = {
    settle_with_any_token: 140,
    move_with_any_token: 47,
    lease_what_is_leased: 0,
    collect_what_is_leased: 0,
    lease_in_any_order: 0,
    record_no_lost_attempt: 45,
    never_divide: 45,
    number_by_what_was_read: 38,
    keep_old_secrets: 0,
    tell_of_known_ids: 13,
}
"""Each bug, and the first world that is tried: the earlier ones do not show it."""


@pytest.mark.parametrize(("plant", "first"), PLANTS.items())
def test_a_bug_in_a_statement_is_found(monkeypatch, plant, first):
    """The bug is found within a few worlds; the message has the seed and the command."""
    plant(monkeypatch)
    failures = (run(seed, has_twin=True).failure for seed in range(first, first + 100))

    found = next(filter(None, failures))
    assert "sqlite" in found.lower()
    assert "replay: python -m tests.simulation --twin " in found
