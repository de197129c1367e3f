import os
import subprocess
import sys
import time

import pytest

from tests.simulation.__main__ import main
from tests.simulation.plan import draw
from tests.simulation.plants import order_is_not_kept
from tests.simulation.receivers import Deed
from tests.simulation.runs import run

SEED_COUNT = int(os.environ.get("INVOICES_TEST_SIMULATIONS", "700"))
"""How many worlds are tried; always the same ones, so that a run of the tests is repeatable."""

CHUNK = 100

SEEN = (
    *("is killed", "is asked to drain", "drain.timed_out", "the clock of", "is cut off"),
    *("the memory is away", "learns that the memory was lost during the commit"),
    *("): the settlement of", "): a step of", "outlived its lease", "is pending again, as asked"),
    *("accepts inv_1: replayed", "gives msg_", "a lost attempt of msg_", "sent", "exhausted"),
    "cannot attempt: StorageUnavailable",
    *("invoice_copy", "beside b'", "removes msg_", "rotates the secret of account 1"),
    *(deed.value for deed in Deed),
)
"""What has to happen somewhere: a promise that is never tried is kept in any case."""


@pytest.mark.parametrize("first", range(0, SEED_COUNT, CHUNK))
def test_every_promise_is_kept_in_every_world(first):
    """Whatever fails in whatever order, nothing is lost, and nothing is done twice by two."""
    complaints = (run(seed).complaint for seed in range(first, min(first + CHUNK, SEED_COUNT)))

    assert "" == next(filter(None, complaints), "")


def test_the_worlds_are_in_enough_trouble():
    """Each kind of failure comes about in the first worlds already."""
    lines = "\n".join(line for seed in range(150) for line in run(seed).story.lines())

    assert [] == [one for one in SEEN if one not in lines]


def test_there_are_worlds_of_each_kind():
    """Calm ones, ones in trouble, and ones whose clocks differ; with one process and with more."""
    plans = [draw(seed) for seed in range(200)]

    kinds = {(one.is_calm, one.is_skewed, len(one.offsets) > 1) for one in plans}
    assert 6 == len(kinds)


def test_a_seed_has_one_story_in_every_interpreter():
    """Nothing depends on the order of sets, which differs from one start of Python to the next."""
    seeds = [str(seed) for seed in range(25)]
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", *seeds],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]

    assert outputs[0] == outputs[1]
    assert 25 == outputs[0].count(b"every promise was kept")


def test_no_time_passes():
    """Minutes of virtual time take moments."""
    begun_at = time.perf_counter()
    virtual_seconds = sum(run(seed).seconds for seed in range(20))

    assert virtual_seconds > 20 * (time.perf_counter() - begun_at)


def test_a_broken_promise_is_printed_with_its_seed(monkeypatch, capsys):
    """The output has the seed, the promise in words, and how to see it again."""
    order_is_not_kept(monkeypatch)

    assert 1 == main(["--runs", "30"])
    output = capsys.readouterr().out
    seed = output.split()[1].rstrip(",")
    assert "was settled" in output
    assert f"replay: python -m tests.simulation {seed}\n" in output

    assert 1 == main([seed])
    assert f"seed {seed}, after" in capsys.readouterr().out
