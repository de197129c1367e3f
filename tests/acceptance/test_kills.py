import random
from dataclasses import replace

import pytest

from tests.acceptance.evidence import Arrival, Evidence
from tests.acceptance.kills import kill_repeatedly

KILL_COUNT = 10


async def test_random_kills_lose_nothing(warm, database_url):
    """After random kills of a busy process, every event arrives in order and is settled once."""
    chance = random.Random(KILL_COUNT)
    _, evidence = await kill_repeatedly(warm, database_url, KILL_COUNT, chance)

    assert [] == list(evidence.violations())
    assert KILL_COUNT <= len(evidence.accepted)
    # The kills have interrupted attempts.
    assert 0 < evidence.counts()["attempts recorded as lost"]


COMPLETE = Evidence(
    accepted=frozenset({"i1"}),
    arrivals=[
        Arrival("i1", "one", b"1", 500),
        Arrival("i1", "one", b"1", 200),
        Arrival("i1", "one", b"1", 200),
        Arrival("i1", "two", b"2", 200),
    ],
    deliveries=[("i1", "one", 1, "delivered", 3), ("i1", "two", 2, "delivered", 1)],
    attempts=[
        ("one", 1, "refused"),
        ("one", 2, "lost"),
        ("one", 3, "delivered"),
        ("two", 1, "delivered"),
    ],
    event_count=2,
)
BROKEN = {
    "accepted and not stored": {"accepted": COMPLETE.accepted | {"i2"}},
    "stored and not accepted": {"accepted": frozenset()},
    "an event missing": {"deliveries": COMPLETE.deliveries[:1], "arrivals": COMPLETE.arrivals[:3]},
    "out of order": {
        "arrivals": [*COMPLETE.arrivals[:2], COMPLETE.arrivals[3], COMPLETE.arrivals[2]]
    },
    "never acknowledged": {"arrivals": COMPLETE.arrivals[:3]},
    "only refused": {"arrivals": [COMPLETE.arrivals[0], COMPLETE.arrivals[3]]},
    "other bytes": {
        "arrivals": [replace(COMPLETE.arrivals[0], body=b"?"), *COMPLETE.arrivals[1:]],
    },
    "an attempt not recorded": {
        "attempts": COMPLETE.attempts[1:],
    },
    "settled twice": {
        "attempts": [*COMPLETE.attempts, ("two", 2, "delivered")],
        "deliveries": [COMPLETE.deliveries[0], ("i1", "two", 2, "delivered", 2)],
    },
    "more requests than attempts": {"arrivals": [*COMPLETE.arrivals, COMPLETE.arrivals[3]]},
    "not settled": {"deliveries": [COMPLETE.deliveries[0], ("i1", "two", 2, "pending", 1)]},
    "unknown": {"arrivals": [Arrival("i1", "three", b"3", 200), *COMPLETE.arrivals]},
}


def test_evidence_without_violations_is_accepted():
    """Refused and lost attempts break no promise."""
    assert [] == list(COMPLETE.violations())


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_broken_promises_are_found(change):
    """The check of the evidence finds each kind of broken promise."""
    assert 1 == len(list(replace(COMPLETE, **change).violations()))
