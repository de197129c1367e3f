import pytest

from tests.simulation.plants import PLANTS
from tests.simulation.runs import run

SEED_COUNT = 500
"""Worlds in which a planted bug has to be found; all are found in a third of them."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, monkeypatch):
    """A bug in what keeps the promises breaks one of them soon, in a world that is sound."""
    plant(monkeypatch)
    seed = next((seed for seed in range(SEED_COUNT) if run(seed).complaint), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == run(seed).complaint
