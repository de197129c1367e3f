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
    "release_needs_no_lease": 45,
    "settling_is_tried_once": 70,
    "draining_abandons_attempts": 440,
    "release_signals_nothing": 670,
    "probes_take_every_slot": 360,
    "steps_move_from_what_was_leased": 80,
    "early_webhooks_are_forgotten": 18,
    "sessions_are_replaced_while_they_can_be_paid": 12,
    "voiding_expires_nothing": 12,
    "payments_are_recorded_twice": 13,
    "declines_are_told_each_time": 10,
    "refunds_are_told_twice": 35,
    "refunds_have_a_new_key_each_time": 29,
    "refunds_are_not_looked_for": 30,
}
"""The world that is tried first for a rare bug; those before it are tried last."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, monkeypatch):
    """The simulation finds each planted bug in a world that has no failure without it."""
    plant(monkeypatch)
    seeds = _in_order(plant, SEED_COUNT)
    seed = next((seed for seed in seeds if run(seed).failure), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == run(seed).failure


@pytest.mark.parametrize("plant", GREEDY_PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_beside_a_greedy_account(plant, monkeypatch):
    """Each bug by which one account delays another is found in a world that has no failure."""
    plant(monkeypatch)
    seeds = range(GREEDY_COUNT)
    seed = next((seed for seed in seeds if run(seed, is_greedy=True).failure), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == run(seed, is_greedy=True).failure


@pytest.mark.parametrize("plant", PAYING_PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_where_invoices_are_paid(plant, monkeypatch):
    """Each bug by which money is lost, told twice or taken twice is found in a world without it."""
    plant(monkeypatch)
    seeds = _in_order(plant, PAYING_COUNT)
    seed = next((seed for seed in seeds if run(seed, is_paying=True).failure), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == run(seed, is_paying=True).failure


def _in_order(plant, count):
    """The worlds in which *plant* is looked for, those in which it is found first."""
    first = FIRST.get(plant.__name__, 0)
    return (*range(first, count), *range(first))
