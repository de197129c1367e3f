from collections import Counter, deque
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.delivery import fairness as origins_module
from service.delivery.fairness import COOLDOWN_FIRST, COOLDOWN_MAX, LEASE_AHEAD, Origins
from tests import rows
from tests.clock import START
from tests.rows import ONE, SECOND, THREE, TWO, a_step, an_event, an_invoice

WIDTH = 4
CONCURRENCY = 12


def a_delivery(id_="1", origin=ONE):
    """A leased delivery; only its origin matters here."""
    step = a_step(an_invoice(origin=origin), event=an_event(delivery_id=id_))
    return rows.a_delivery(step, leased_until=START + SECOND)


def put(origins, origin, *ids):
    """Add leased deliveries that wait for a slot."""
    for id_ in ids:
        origins.reserve(origin)
        origins.wait(a_delivery(id_, origin))


def begun(origins):
    """The slots that are available now."""
    return list(origins.take_slots())


def ids(slots):
    """The ids of the deliveries with a slot, in order."""
    return [slot.delivery.id for slot in slots]


def opened(origins, *names):
    """*origins*, after *names* have answered."""
    for name in names:
        put(origins, name, "opening")
        (slot,) = begun(origins)
        origins.end(slot, START, is_answering=True)
    return origins


def failed(origins, name, times=1, now=START):
    """*origins*, after one of them has failed *times* probes in a row."""
    for _ in range(times):
        put(origins, name, "failing")
        (slot,) = begun(origins)
        origins.end(slot, now, is_answering=False)
    return origins


@pytest.fixture
def origins():
    """No known origins."""
    return Origins(CONCURRENCY, WIDTH)


# Slots


def test_a_new_origin_gets_one_attempt_at_a_time(origins):
    """The first attempt is a probe, and no other attempt begins before it has ended."""
    put(origins, ONE, *"abc")

    (slot,) = begun(origins)

    assert ("a", True) == (slot.delivery.id, slot.is_probe)
    assert [] == begun(origins)


def test_an_origin_that_has_answered_gets_all_its_slots(origins):
    """After its first answer an origin gets slots up to its limit."""
    put(origins, ONE, *"abcdefg")
    (probe,) = begun(origins)

    origins.end(probe, START, is_answering=True)
    slots = begun(origins)

    assert list("bcde") == ids(slots)
    assert [False] * WIDTH == [slot.is_probe for slot in slots]
    assert [] == begun(origins)


def test_a_free_slot_goes_to_the_next_delivery(origins):
    """Waiting deliveries get slots in order, one for each ended attempt."""
    put(opened(origins, ONE), ONE, *"abcdef")
    first, *_ = begun(origins)

    origins.end(first, START, is_answering=True)

    assert ["e"] == ids(begun(origins))


def test_all_slots_together_are_limited():
    """No more attempts are in flight than there are slots, for any number of origins."""
    origins = Origins(5, WIDTH)
    for number in range(9):
        put(origins, f"https://{number}.example:443", str(number))

    assert list("01234") == ids(begun(origins))


def test_origins_take_turns(origins):
    """The deliveries of different origins get slots in turn."""
    opened(origins, ONE, TWO)
    put(origins, ONE, "a", "b")
    put(origins, TWO, "c", "d")

    assert list("acbd") == ids(begun(origins))


def test_an_origin_leaves_slots_for_new_origins():
    """Beside others, an origin uses no more slots than it leaves free."""
    origins = opened(Origins(8, 8), ONE)
    origins.reserve(TWO)
    put(origins, ONE, *"abcdefgh")

    slots = begun(origins)
    assert list("abcd") == ids(slots)

    origins.wait(a_delivery("other", TWO))
    assert ["other"] == ids(begun(origins))


def test_a_single_origin_may_use_every_slot():
    """No slots are kept free if there is only one origin."""
    origins = opened(Origins(8, 8), ONE)
    put(origins, ONE, *"abcdefgh")

    assert list("abcdefgh") == ids(begun(origins))


def test_kept_slots_are_used_after_the_other_origins_have_ended():
    """An origin that is alone again may use all slots."""
    origins = opened(Origins(8, 8), ONE)
    origins.reserve(TWO)
    put(origins, ONE, *"abcdefgh")
    begun(origins)

    origins.give_up(TWO)

    assert list("efgh") == ids(begun(origins))


def test_an_origin_at_its_limit_does_not_delay_others():
    """Other origins get their slots, however often an origin at its limit is skipped."""
    origins = opened(Origins(20, 20), ONE, TWO, THREE)
    put(origins, ONE, *map(str, range(12)))
    assert 12 == len(begun(origins))
    put(origins, ONE, *map(str, range(20)))
    put(origins, TWO, *map(str, range(20)))
    put(origins, THREE, *map(str, range(20)))

    names = Counter(slot.delivery.origin for slot in origins.take_slots())

    assert {TWO: 3, THREE: 3} == names


def test_a_skipped_slot_is_free_again(origins):
    """A skipped slot goes to the next delivery, and the lease of the first still counts."""
    put(opened(origins, ONE), ONE, *"abcde")
    first, *_ = begun(origins)

    origins.skip(first)

    assert ["e"] == ids(begun(origins))
    assert 5 == origins.held_count


def test_a_slot_can_be_skipped_during_the_iteration(origins):
    """A caller that iterates over the slots may skip some of them."""
    put(origins, ONE, *"abc")
    taken = []

    for slot in origins.take_slots():
        taken.append(slot.delivery.id)
        if slot.delivery.id != "c":
            origins.skip(slot)

    assert list("abc") == taken


# The state of an origin


def test_a_failure_closes_an_open_origin(origins):
    """After a failure the next attempt is a probe, which begins after the others have ended."""
    put(opened(origins, ONE), ONE, *"abcdef")
    slots = begun(origins)

    for slot in slots[:-1]:
        origins.end(slot, START, is_answering=False)
        assert [] == begun(origins)
    origins.end(slots[-1], START, is_answering=False)

    (probe,) = begun(origins)
    assert ("e", True) == (probe.delivery.id, probe.is_probe)


def test_an_origin_that_closes_while_it_waits_gets_no_slot():
    """An origin that must be probed first gets no free slot."""
    origins = opened(Origins(8, 8), ONE)
    origins.reserve(TWO)
    put(origins, ONE, *"abcdefgh")
    first, *_ = begun(origins)

    origins.end(first, START, is_answering=False)

    assert [] == begun(origins)


def test_a_failure_that_was_not_a_probe_starts_no_cooldown(origins):
    """After the failure of one of many attempts, the probe begins at once."""
    put(opened(origins, ONE), ONE, "a", "b")
    first, _ = begun(origins)

    origins.end(first, START, is_answering=False)

    assert frozenset() == origins.cooling_down(START)


def test_any_answer_opens_an_origin_again(origins):
    """One answered attempt of many is enough."""
    put(opened(origins, ONE), ONE, *"abcdef")
    first, second, *_ = begun(origins)

    origins.end(first, START, is_answering=False)
    origins.end(second, START, is_answering=True)

    assert list("ef") == ids(begun(origins))


def test_cooldowns_grow_with_each_failed_probe_up_to_a_limit(origins):
    """An origin that keeps failing is probed at growing intervals, up to a maximum."""
    now, cooldowns = START, []
    for _ in range(20):
        failed(origins, ONE, now=now)
        cooldowns.append(origins.ends_of_cooldowns(now)[ONE] - now)
        now += cooldowns[-1]

    assert [COOLDOWN_FIRST * 2**number for number in range(7)] == cooldowns[:7]
    assert [COOLDOWN_MAX] * 13 == cooldowns[7:]


def test_an_answer_resets_the_cooldowns(origins):
    """Failures before the last answer do not count."""
    failed(origins, ONE, 5)
    opened(origins, ONE)
    put(origins, ONE, "a")
    (slot,) = begun(origins)
    later = START + COOLDOWN_MAX

    # The first failure closes the origin, and the second is a failed probe.
    origins.end(slot, later, is_answering=False)
    failed(origins, ONE, now=later)

    assert {ONE: later + COOLDOWN_FIRST} == origins.ends_of_cooldowns(later)


def test_a_cooldown_ends_by_itself(origins):
    """At the end of its cooldown the origin may be called again."""
    origins.cool_down(ONE, START, START + SECOND)

    assert origins.is_cooling_down(ONE, START)
    assert not origins.is_cooling_down(TWO, START)
    assert not origins.is_cooling_down(ONE, START + SECOND)
    assert frozenset() == origins.cooling_down(START + SECOND)
    assert {} == origins.ends_of_cooldowns(START + SECOND)


def test_the_longer_of_two_cooldowns_applies(origins):
    """A hold of an hour is not shortened by a short cooldown."""
    origins.cool_down(ONE, START, START + 2 * SECOND)
    origins.cool_down(ONE, START, START + SECOND)

    assert {ONE: START + 2 * SECOND} == origins.ends_of_cooldowns(START)


# Capacity for leases


def test_a_cooldown_that_begins_during_a_round_is_known_after_it():
    """A round asks for the cooldowns since its start, and no later cooldown is lost."""
    origins = Origins(CONCURRENCY, WIDTH)
    origins.cool_down(ONE, START + SECOND, START + 2 * SECOND)

    assert {ONE: START + 2 * SECOND} == origins.ends_of_cooldowns(START)
    assert origins.is_cooling_down(ONE, START + SECOND)


def test_a_clock_that_is_set_back_prolongs_no_cooldown():
    """A cooldown applies only between its beginning and its end."""
    origins = Origins(CONCURRENCY, WIDTH)
    origins.cool_down(ONE, START, START + SECOND)

    assert origins.is_cooling_down(ONE, START)
    assert not origins.is_cooling_down(ONE, START - SECOND)
    assert frozenset() == origins.cooling_down(START - SECOND)


def test_a_new_origin_has_the_capacity_of_one_slot(origins):
    """A new origin gets one lease, because it may not answer."""
    assert LEASE_AHEAD == origins.capacity_of(ONE) == origins.capacity_of_new
    put(origins, ONE, *"abc")
    assert LEASE_AHEAD - 3 == origins.capacity_of(ONE)
    assert {ONE: LEASE_AHEAD - 3} == origins.capacities()


def test_an_open_origin_has_capacity_for_its_slots(origins):
    """An open origin has enough leases that a free slot never waits for a commit."""
    put(opened(origins, ONE), ONE, *"abc")

    assert WIDTH * LEASE_AHEAD - 3 == origins.capacity_of(ONE)


def test_a_failing_origin_has_capacity_for_one_probe(origins):
    """All deliveries of a failing origin except one stay in the database."""
    failed(origins, ONE)

    assert 1 == origins.capacity_of(ONE)
    origins.reserve(ONE)
    assert 0 == origins.capacity_of(ONE)
    assert {ONE: 0} == origins.capacities()


def test_an_origin_leaves_capacity_for_new_origins():
    """An origin gets no more leases than it leaves to others, whatever its number of slots."""
    origins = opened(Origins(4, 4), ONE)
    for number in range(LEASE_AHEAD * 2):
        put(origins, ONE, str(number))
    assert LEASE_AHEAD * 2 == origins.capacity_of(ONE)

    origins.reserve(TWO)

    assert 0 == origins.capacity_of(ONE)
    assert LEASE_AHEAD - 1 == origins.capacity_of(TWO)


def test_the_capacity_of_all_origins_is_limited():
    """The number of all leases together is limited."""
    origins = Origins(1, 1)
    for number in range(LEASE_AHEAD - 1):
        put(origins, f"https://{number}.example:443", "a")

    assert (1, 1) == (origins.capacity, origins.capacity_of(ONE))
    origins.reserve(ONE)
    assert (0, 0, 0) == (origins.capacity, origins.capacity_of(ONE), origins.capacity_of(TWO))


def test_an_origin_has_no_more_capacity_than_all_slots_have():
    """The capacity of one origin is limited by the number of all slots."""
    origins = opened(Origins(1, 4), ONE)

    assert LEASE_AHEAD == origins.capacity == origins.capacity_of(ONE)


def test_ended_and_released_leases_free_capacity(origins):
    """An attempt that ends, and a lease that is released, free capacity."""
    put(origins, ONE, "a")
    origins.reserve(ONE)
    origins.give_up(ONE)
    (slot,) = begun(origins)
    origins.end(slot, START, is_answering=True)

    assert (0, CONCURRENCY * LEASE_AHEAD, {}) == (
        origins.held_count,
        origins.capacity,
        origins.capacities(),
    )


def test_another_round_starts_after_half_of_the_capacity_is_free(origins):
    """A round leases many deliveries at a time, and does not run after each attempt."""
    failed(origins, TWO)
    assert origins.wants_more(ONE)
    put(origins, ONE, *"abcd")
    assert origins.wants_more(ONE)
    put(origins, ONE, "e")
    assert not origins.wants_more(ONE)

    assert origins.wants_more(TWO)
    origins.reserve(TWO)
    assert not origins.wants_more(TWO)


# Taking back


def test_a_taken_back_delivery_gets_no_slot(origins):
    """A lease that was taken back is counted until it is released, and gets no slot."""
    put(opened(origins, ONE, TWO), ONE, *"abcdef")
    put(origins, TWO, "other")
    begun(origins)

    taken = origins.take_back(ONE)

    assert list("ef") == [delivery.id for delivery in taken]
    assert ([], [], 7) == (origins.take_back(ONE), begun(origins), origins.held_count)


def test_all_deliveries_can_be_taken_back(origins):
    """A dispatcher that drains takes back all deliveries without a slot, of every origin."""
    put(origins, ONE, "a", "b")
    put(origins, TWO, "c", "d")
    begun(origins)

    assert {"b", "d"} == {delivery.id for delivery in origins.take_back_all()}
    assert [] == origins.take_back_all()


def test_an_origin_continues_after_its_deliveries_were_taken_back(origins):
    """A delivery that is leased later gets a slot as usual."""
    put(origins, ONE, "a", "b")
    (slot,) = begun(origins)
    origins.take_back(ONE)
    origins.give_up(ONE)

    put(origins, ONE, "c")
    assert [] == begun(origins)
    origins.end(slot, START, is_answering=True)

    assert ["c"] == ids(begun(origins))


# Forgetting


def test_the_oldest_origin_is_forgotten_for_a_new_one(monkeypatch):
    """The number of known origins is limited."""
    monkeypatch.setattr(origins_module, "KNOWN_MAX", 2)
    origins = opened(Origins(CONCURRENCY, WIDTH), ONE, TWO)

    origins.reserve(THREE)

    assert LEASE_AHEAD == origins.capacity_of(ONE)
    assert WIDTH * LEASE_AHEAD == origins.capacity_of(TWO)


def test_an_origin_with_a_lease_is_never_forgotten(monkeypatch):
    """The origin of an attempt in flight stays known, however many new origins come."""
    monkeypatch.setattr(origins_module, "KNOWN_MAX", 1)
    origins = Origins(CONCURRENCY, WIDTH)
    put(origins, ONE, "a")
    (slot,) = begun(origins)
    origins.reserve(TWO)
    opened(origins, THREE)

    origins.end(slot, START, is_answering=True)

    assert {TWO: LEASE_AHEAD - 1} == origins.capacities()


# Any sequence


class AnySequence(RuleBasedStateMachine):
    """
    The operations of a dispatcher in any order, and the invariants that must hold.

    Leases are *reserved* before they are written, then they are *waiting*, then *in_flight*;
    those that are *returning* were taken back, and count until they are released.
    """

    names = (ONE, TWO, THREE)

    def __init__(self):
        super().__init__()
        self.origins = Origins(1, 1)
        self.concurrency = self.width = 1
        self.now = START
        self.numbers = count(1)
        self.open = set()
        self.reserved = deque()
        self.waiting = {name: deque() for name in self.names}
        self.in_flight = []
        self.returning = []

    @initialize(concurrency=strategies.integers(1, 12), width=strategies.integers(1, 8))
    def make(self, concurrency, width):
        """The number of slots, and the limit for one origin."""
        self.concurrency, self.width = concurrency, width
        self.origins = Origins(concurrency, width)

    @rule(name=strategies.sampled_from(names), number=strategies.integers(1, 40))
    def reserve(self, name, number):
        """Reserve leases if there is capacity."""
        for _ in range(min(number, self.origins.capacity_of(name))):
            self.origins.reserve(name)
            self.reserved.append(name)

    @precondition(lambda self: self.reserved)
    @rule(number=strategies.integers(1, 40), is_written=strategies.booleans())
    def write(self, number, is_written):
        """A reserved lease is written and waits for a slot, or its write fails."""
        for _ in range(min(number, len(self.reserved))):
            name = self.reserved.popleft()
            if is_written:
                delivery = a_delivery(str(next(self.numbers)), name)
                self.waiting[name].append(delivery)
                self.origins.wait(delivery)
            else:
                self.origins.give_up(name)

    @rule()
    def begin(self):
        """The deliveries of each origin begin in order, and no usable slot stays free."""
        for slot in self.origins.take_slots():
            name = slot.delivery.origin
            assert self.waiting[name].popleft() == slot.delivery
            assert (name not in self.open) == slot.is_probe
            self.in_flight.append(slot)
            assert len(self.in_flight) <= self.concurrency
            assert self.in_flight_of(name) <= self.width_of(name)
        idle = [name for name in self.names if self.waiting[name] and self.may_begin(name)]
        assert not idle

    @precondition(lambda self: self.in_flight)
    @rule(which=strategies.integers(0, 99), is_answering=strategies.booleans())
    def end(self, which, is_answering):
        """An attempt ends, with or without an answer."""
        slot = self.in_flight.pop(which % len(self.in_flight))
        name = slot.delivery.origin
        self.origins.end(slot, self.now, is_answering=is_answering)
        self.open = self.open | {name} if is_answering else self.open - {name}
        if slot.is_probe and not is_answering:
            assert self.origins.is_cooling_down(name, self.now)
            assert self.origins.capacity_of(name) <= 1

    @precondition(lambda self: self.in_flight)
    @rule(which=strategies.integers(0, 99))
    def skip(self, which):
        """A slot that comes too late is skipped, and its lease is taken back."""
        slot = self.in_flight.pop(which % len(self.in_flight))
        self.origins.skip(slot)
        self.returning.append(slot.delivery)

    @rule(name=strategies.sampled_from(names))
    def take_back(self, name):
        """The waiting deliveries of one origin are taken back."""
        if self.waiting[name]:
            self.returning += self.waiting[name]
            assert list(self.waiting[name]) == self.origins.take_back(name)
            self.waiting[name].clear()

    @precondition(lambda self: self.returning)
    @rule()
    def release(self):
        """A released lease is no longer counted."""
        self.origins.give_up(self.returning.pop().origin)

    @rule(milliseconds=strategies.integers(1, 20_000))
    def pass_time(self, milliseconds):
        """Cooldowns end in time, and are never longer than their maximum."""
        self.now += timedelta(milliseconds=milliseconds)
        for at in self.origins.ends_of_cooldowns(self.now).values():
            assert self.now < at <= self.now + COOLDOWN_MAX

    @invariant()
    def leases_are_counted(self):
        """The counts are those of the leases that exist, within the limits."""
        held = self.held()
        limit = self.concurrency * LEASE_AHEAD
        assert held.total() == self.origins.held_count <= limit
        assert limit - held.total() == self.origins.capacity
        assert set(held) <= set(self.origins.capacities())

    @invariant()
    def capacity_is_within_bounds(self):
        """No origin has more than is free; an origin that needs more gets some if any is free."""
        for name in self.names:
            capacity = self.origins.capacity_of(name)
            assert 0 <= capacity <= self.origins.capacity
            assert capacity or not self.origins.capacity or not self.origins.wants_more(name)

    def teardown(self):
        """After all attempts have ended, every delivery had a slot and every count is zero."""
        while any(self.waiting.values()) or self.in_flight:
            self.begin()
            assert self.in_flight
            self.end(0, is_answering=False)
        for name in [*self.reserved, *(delivery.origin for delivery in self.returning)]:
            self.origins.give_up(name)
        assert (0, self.concurrency * LEASE_AHEAD) == (
            self.origins.held_count,
            self.origins.capacity,
        )
        # Nothing is leased: the known origins have failed, and each gets one lease for its probe.
        assert {1} >= set(self.origins.capacities().values())

    def held(self):
        """The leases of each origin that has any."""
        leased = [*self.returning, *(slot.delivery for slot in self.in_flight)]
        leased += [delivery for waiting in self.waiting.values() for delivery in waiting]
        return Counter([*self.reserved, *(delivery.origin for delivery in leased)])

    def width_of(self, name):
        """The limit of attempts in flight of an origin."""
        return self.width if name in self.open else 1

    def in_flight_of(self, name):
        """The number of attempts in flight of an origin."""
        return sum(name == slot.delivery.origin for slot in self.in_flight)

    def may_begin(self, name):
        """Whether the rule allows one more slot for an origin."""
        free = self.concurrency - len(self.in_flight)
        in_flight = self.in_flight_of(name)
        is_alone = 1 == len(self.held())
        return free > 0 and in_flight < self.width_of(name) and (is_alone or in_flight < free)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
