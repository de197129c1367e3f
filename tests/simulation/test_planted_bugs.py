import pytest

from tests.simulation.plants import PLANTS
from tests.simulation.runs import run

SEED_COUNT = 500
"""The worlds in which each planted bug must be found; a third of them is enough at present."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, monkeypatch):
    """The simulation finds each planted bug in a world that has no failure without it."""
    plant(monkeypatch)
    seed = next((seed for seed in range(SEED_COUNT) if run(seed).failure), None)
    monkeypatch.undo()

    assert seed is not None
    assert "" == run(seed).failure
