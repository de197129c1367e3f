import os
import subprocess
import sys
import time
from functools import cache

import pytest

from tests.processes import starved, starved_since
from tests.simulation.__main__ import main
from tests.simulation.mail_server import MailReaction
from tests.simulation.paying import Action
from tests.simulation.plan import draw
from tests.simulation.plants import order_is_not_kept
from tests.simulation.receivers import Reaction
from tests.simulation.runs import run

SEED_COUNT = int(os.environ.get("INVOICES_TEST_SIMULATIONS", "700"))
"""The number of worlds; the seeds are always the same, so that a test run is repeatable."""

CHUNK = 100

GREEDY_COUNT = 12
"""The number of worlds with a greedy account."""

PAYING_COUNT = 90
"""The number of worlds with payments."""

PAID = (
    *("payment.mismatched", "checkout.unanswered", "payment.unanswered", "checkout.lost"),
    *("'Refunded: ", "'Partly refunded: ", "'Payment disputed'", "'Dispute won'", "'Invoice void'"),
    *("'Invoice paid'", "'Payment failed: Your card", "'Payment failed: The debit was returned"),
    *("session.expired", "async_payment_succeeded", "async_payment_failed", "is killed"),
    *(action.value for action in Action),
)
"""Events that must happen in some world with payments."""

SEEN = (
    *("is killed", "is asked to drain", "drain.timed_out", "the clock of", "is cut off"),
    *("the memory is unavailable", "learns that the memory was lost during the commit"),
    *("): the settlement of", "): a step of", "has a stale lease"),
    *("accepts inv_1: replayed", "releases msg_", "a lost attempt of msg_", "sent", "exhausted"),
    "is pending again after a redelivery",
    "cancels msg_",
    "cannot attempt: StorageUnavailable",
    *("invoice_copy", "beside b'", "removes msg_", "rotates the secret of account 1"),
    *("mail.paused", "): the attempt of mail_", "): the last attempt of mail_"),
    *("accepted, sent", "rejected, undeliverable", "deferred, pending", "deferred, undeliverable"),
    *(reaction.value for reaction in (*Reaction, *MailReaction)),
)
"""Events that must happen in some world: a promise that is never tested cannot be broken."""


SEEN_COUNT = 350
"""The number of worlds in which they happen."""


@cache
def result_of(seed):
    """The failure of the world, and what of SEEN happens in it if it is one of the first."""
    done = run(seed)
    lines = "\n".join(done.log.lines()) if seed < SEEN_COUNT else ""
    return done.failure, frozenset(one for one in SEEN if one in lines)


@cache
def paid_in(seed):
    """The failure of the world with payments, and what of PAID happens in it."""
    done = run(seed, is_paying=True)
    lines = "\n".join(done.log.lines())
    return done.failure, frozenset(one for one in PAID if one in lines)


@pytest.mark.parametrize("first", range(0, SEED_COUNT, CHUNK))
def test_every_promise_is_kept_in_every_world(first):
    """Under all faults in any order, nothing is lost and nothing is done twice."""
    failures = (result_of(seed)[0] for seed in range(first, min(first + CHUNK, SEED_COUNT)))

    assert "" == next(filter(None, failures), "")


def test_a_greedy_account_delays_nobody():
    """In worlds with a greedy account, the attempts of another one begin at once."""
    failures = (run(seed, is_greedy=True).failure for seed in range(GREEDY_COUNT))

    assert "" == next(filter(None, failures), "")


def test_no_payment_is_lost_or_told_twice_in_any_world():
    """In worlds with payments, none is lost or told twice, and nobody can pay an invoice twice."""
    failures = (paid_in(seed)[0] for seed in range(PAYING_COUNT))

    assert "" == next(filter(None, failures), "")


def test_the_worlds_with_payments_contain_every_kind_of_payment():
    """Customers, API users, banks and people at the dashboard do all that they can."""
    seen = frozenset().union(*(paid_in(seed)[1] for seed in range(PAYING_COUNT)))

    assert [] == [one for one in PAID if one not in seen]


def test_the_worlds_contain_every_fault():
    """Each kind of fault happens in the first worlds."""
    seen = frozenset().union(*(result_of(seed)[1] for seed in range(SEEN_COUNT)))

    assert [] == [one for one in SEEN if one not in seen]


def test_there_are_worlds_of_each_kind():
    """There are calm worlds, worlds with faults, and worlds with clock errors, of each size."""
    plans = [draw(seed) for seed in range(200)]

    kinds = {(one.is_calm, one.is_skewed, len(one.offsets) > 1) for one in plans}
    assert 6 == len(kinds)


def test_a_seed_has_the_same_events_in_every_interpreter():
    """No event depends on the order of sets, which differs between runs of Python."""
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


def test_virtual_time_takes_little_real_time():
    """Minutes of virtual time take less than seconds."""
    begun_at, before = time.perf_counter(), starved()
    virtual_seconds = sum(run(seed).seconds for seed in range(20))
    seconds = time.perf_counter() - begun_at

    # Time without a processor is that of other programs on this machine.
    assert virtual_seconds > 20 * (seconds - starved_since(before))


def test_a_broken_promise_is_printed_with_its_seed(monkeypatch, capsys):
    """The output has the seed, the broken promise, and the command that repeats the run."""
    order_is_not_kept(monkeypatch)

    assert 1 == main(["--runs", "30"])
    output = capsys.readouterr().out
    seed = output.split()[1].rstrip(",")
    assert "was settled" in output
    assert f"replay: python -m tests.simulation {seed}\n" in output

    assert 1 == main([seed])
    assert f"seed {seed}, after" in capsys.readouterr().out
