import pytest

from tests.simulation.plants import GREEDY_PLANTS, PLANTS
from tests.simulation.runs import run

SEED_COUNT = 1000
"""The worlds in which each planted bug must be found; seven hundred are enough at present."""

GREEDY_COUNT = 12
"""The worlds with a greedy account in which each of their bugs must be found."""

FIRST = {
    "release_needs_no_lease": 49,
    "settling_is_tried_once": 147,
    "settling_needs_no_lease": 34,
    "draining_abandons_attempts": 444,
    "release_signals_nothing": 674,
    "probes_take_every_slot": 495,
    "signals_are_lost_before_waiting": 30,
    "lost_settlements_count_as_written": 23,
    "steps_move_from_what_was_leased": 93,
}
"""The world that is tried first for a rare bug; those before it are tried last."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, monkeypatch):
    """The simulation finds each planted bug in a world that has no failure without it."""
    plant(monkeypatch)
    first = FIRST.get(plant.__name__, 0)
    seeds = (*range(first, SEED_COUNT), *range(first))
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
