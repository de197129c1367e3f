import random
from dataclasses import replace

import pytest

from tests.acceptance.evidence import Arrival, Evidence
from tests.acceptance.kills import kill_again_and_again

KILL_COUNT = 10


async def test_random_kills_lose_nothing(warm, database_url):
    """Whenever a busy process is killed, every event arrives, in order, and is settled once."""
    chance = random.Random(KILL_COUNT)
    _, evidence = await kill_again_and_again(warm, database_url, KILL_COUNT, chance)

    assert [] == list(evidence.violations())
    assert KILL_COUNT <= len(evidence.accepted)
    # The kills have hit something.
    assert 0 < evidence.counts()["attempts told as lost"]


WHOLE = Evidence(
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
    "accepted and gone": {"accepted": WHOLE.accepted | {"i2"}},
    "there without a caller": {"accepted": frozenset()},
    "an event missing": {"deliveries": WHOLE.deliveries[:1], "arrivals": WHOLE.arrivals[:3]},
    "out of order": {"arrivals": [*WHOLE.arrivals[:2], WHOLE.arrivals[3], WHOLE.arrivals[2]]},
    "never taken": {"arrivals": WHOLE.arrivals[:3]},
    "refused alone": {"arrivals": [WHOLE.arrivals[0], WHOLE.arrivals[3]]},
    "other bytes": {
        "arrivals": [replace(WHOLE.arrivals[0], body=b"?"), *WHOLE.arrivals[1:]],
    },
    "an attempt not told": {
        "attempts": WHOLE.attempts[1:],
    },
    "settled twice": {
        "attempts": [*WHOLE.attempts, ("two", 2, "delivered")],
        "deliveries": [WHOLE.deliveries[0], ("i1", "two", 2, "delivered", 2)],
    },
    "more requests than attempts": {"arrivals": [*WHOLE.arrivals, WHOLE.arrivals[3]]},
    "not settled": {"deliveries": [WHOLE.deliveries[0], ("i1", "two", 2, "pending", 1)]},
    "unknown": {"arrivals": [Arrival("i1", "three", b"3", 200), *WHOLE.arrivals]},
}


def test_whole_evidence_is_found_whole():
    """Attempts that were refused or lost break no promise."""
    assert [] == list(WHOLE.violations())


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_broken_promises_are_found(change):
    """What looks for broken promises finds each kind of them."""
    assert 1 == len(list(replace(WHOLE, **change).violations()))
