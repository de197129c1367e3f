"""Where the pending deliveries of a receiver begin, and when a scan of all of them begins."""

from datetime import timedelta

import pytest

from service.delivery.lookout import SCAN_MAX, Lookout
from service.loops import POLL
from service.storage import beginnings
from service.storage.beginnings import KNOWN_MAX, MARGIN, Beginnings
from service.storage.waiting import Waiting
from tests.clock import START, ManualClock

SECOND = timedelta(seconds=1)


def a_look(name, first_due_at):
    """What a look tells of a receiver."""
    return Waiting(name, "https://a", first_due_at, None, None, has_asked=False)


def test_nothing_is_known_at_first():
    """A receiver that was never looked at is looked at from its first delivery on."""
    assert {} == Beginnings().of(["a"], START)


def test_a_look_begins_a_margin_before_what_was_first():
    """What another process commits a little later is found as well."""
    known = Beginnings()

    known.learn(["a", "b"], [a_look("a", START)], START + 9 * SECOND)

    found = known.of(["a", "b", "c"], START + 60 * SECOND)
    assert {"a": START - MARGIN, "b": START + 9 * SECOND - MARGIN} == found


def test_what_is_due_later_does_not_hide_what_comes_before():
    """A receiver whose first delivery is due in an hour is looked at from now on."""
    known = Beginnings()

    known.learn(["a"], [a_look("a", START + 3600 * SECOND)], START)

    assert {"a": START - MARGIN} == known.of(["a"], START + SECOND)


def test_a_clock_that_is_set_back_hides_nothing():
    """What is written after the clock was set back is found."""
    known = Beginnings()
    known.learn(["a"], [], START)

    assert {"a": START - 60 * SECOND - MARGIN} == known.of(["a"], START - 60 * SECOND)


def test_an_earlier_beginning_replaces_a_later_one():
    """A look along all receivers may find what was committed late."""
    known = Beginnings()
    known.learn(["a"], [], START)

    known.learn(["a"], [a_look("a", START - 60 * SECOND)], START)

    assert {"a": START - 60 * SECOND - MARGIN} == known.of(["a"], START)


def test_as_many_receivers_are_known_as_have_room(monkeypatch):
    """Those that were looked at last are kept."""
    assert KNOWN_MAX >= 1000
    monkeypatch.setattr(beginnings, "KNOWN_MAX", 2)
    known = Beginnings()

    for name in ("a", "b", "a", "c"):
        known.learn([name], [], START)

    assert {"a", "c"} == set(known.of("abc", START))


class NobodyWaits:
    """A store without pending deliveries."""

    async def find_accounts(self, _after):
        """No account."""
        return []


@pytest.fixture
def lookout():
    """A lookout on that store."""
    return Lookout(NobodyWaits(), lambda _account_id: 0, lambda *_: 1)


async def scan(lookout, clock, seconds):
    """Scan for so long; how long it waits until the next scan then."""
    began = clock.elapsed()
    await lookout.look(clock.now(), began)
    lookout.pace(began, began + seconds * SECOND)
    return lookout.wait(clock)


async def test_a_quick_scan_is_made_at_each_poll(lookout):
    """Where a scan takes a moment, the next one begins after the time of a poll."""
    assert POLL == await scan(lookout, ManualClock(), 0.01)


async def test_a_scan_uses_a_twentieth_of_the_time(lookout):
    """A scan that takes half a second is made every ten seconds."""
    assert 10 * SECOND == await scan(lookout, ManualClock(), 0.5)


async def test_a_scan_is_made_after_half_a_minute_at_the_latest(lookout):
    """However long a scan takes, what only a scan can find is found."""
    assert SCAN_MAX == await scan(lookout, ManualClock(), 5)


async def test_a_scan_that_is_asked_for_begins_at_once(lookout):
    """Whatever the last scan took, a request for one is not delayed."""
    clock = ManualClock()
    await scan(lookout, clock, 5)

    lookout.scan()

    assert timedelta(0) == lookout.wait(clock)
