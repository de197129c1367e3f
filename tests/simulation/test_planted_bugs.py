from functools import cache

import pytest

from tests.simulation.paying_plants import PAYING_PLANTS
from tests.simulation.plants import GREEDY_PLANTS, PLANTS
from tests.simulation.runs import run

SEED_COUNT = 1000
"""The worlds in which each planted bug must be found; seven hundred are enough at present."""

GREEDY_COUNT = 12
"""The worlds with a greedy account in which each of their bugs must be found."""

PAYING_COUNT = 80
"""The worlds with payments in which each of their bugs must be found."""

FIRST = {
    "release_needs_no_lease": 130,
    "settling_is_tried_once": 76,
    "draining_abandons_attempts": 445,
    "release_signals_nothing": 675,
    "probes_take_every_slot": 496,
    "steps_move_from_what_was_leased": 86,
    "early_webhooks_are_forgotten": 53,
    "sessions_are_replaced_while_they_can_be_paid": 12,
    "voiding_expires_nothing": 15,
    "payments_are_recorded_twice": 13,
    "declines_are_told_each_time": 10,
    "refunds_are_told_twice": 35,
    "refunds_have_a_new_key_each_time": 29,
    "refunds_are_not_looked_for": 30,
    "settling_needs_no_lease": 6,
    "steps_need_no_lease": 6,
    "attempts_outlast_their_leases": 137,
    "lost_attempts_are_not_recorded": 6,
    "order_checks_one_event": 15,
    "one_callback_is_fired": 10,
    "events_leave_the_lease": 6,
    "lost_events_count_as_recorded": 6,
    "lost_settlements_count_as_written": 7,
    "failures_on_our_side_are_attempts": 12,
    "sweeping_removes_pending_deliveries": 9,
    "signals_are_lost_before_waiting": 31,
    "slots_leak": 12,
    "neighbours_pay": 7,
    "holds_are_not_remembered": 14,
    "holds_are_not_shared": 3,
    "paused_receivers_are_leased": 3,
    "resuming_signals_nothing": 3,
    "attempts_outlive_their_cancellation": 17,
    "cancelled_deliveries_are_told_as_exhausted": 17,
    "mails_need_no_lease": 6,
    "mails_are_composed_for_each_step": 3,
    "mails_are_not_announced": 3,
    "deferred_mails_are_forgotten": 3,
    "refusals_of_the_service_are_attempts": 11,
    "undeliverable_mails_are_not_told": 3,
    "holds_are_not_told": 11,
    "unknown_sessions_are_not_asked_about": 6,
    "sessions_are_not_asked_about": 5,
    "webhooks_make_nothing_due": 3,
    "stored_failures_are_final": 6,
    "amounts_are_not_compared": 4,
}
"""The world that is tried first for a rare bug; those before it are tried last."""


@cache
def failure_of(seed, **kind):
    """What is broken in a world without a planted bug: nothing, and the same each time."""
    return run(seed, **kind).failure


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, monkeypatch):
    """The simulation finds each planted bug in a world that has no failure without it."""
    plant(monkeypatch)
    seeds = _in_order(plant, SEED_COUNT)
    seed = next((seed for seed in seeds if run(seed).failure), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == failure_of(seed)


@pytest.mark.parametrize("plant", GREEDY_PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_beside_a_greedy_account(plant, monkeypatch):
    """Each bug by which one account delays another is found in a world that has no failure."""
    plant(monkeypatch)
    seeds = range(GREEDY_COUNT)
    seed = next((seed for seed in seeds if run(seed, is_greedy=True).failure), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == failure_of(seed, is_greedy=True)


@pytest.mark.parametrize("plant", PAYING_PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_where_invoices_are_paid(plant, monkeypatch):
    """Each bug by which money is lost, told twice or taken twice is found in a world without it."""
    plant(monkeypatch)
    seeds = _in_order(plant, PAYING_COUNT)
    seed = next((seed for seed in seeds if run(seed, is_paying=True).failure), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == failure_of(seed, is_paying=True)


def _in_order(plant, count):
    """The worlds in which *plant* is looked for, those in which it is found first."""
    first = FIRST.get(plant.__name__, 0)
    return (*range(first, count), *range(first))
