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
    """A delivery that is leased, whose origin alone matters here."""
    step = a_step(an_invoice(origin=origin), event=an_event(delivery_id=id_))
    return rows.a_delivery(step, leased_until=START + SECOND)


def put(origins, origin, *ids):
    """Deliveries that are leased and wait for a slot."""
    for id_ in ids:
        origins.reserve(origin)
        origins.wait(a_delivery(id_, origin))


def begun(origins):
    """The slots that can be had now."""
    return list(origins.take_slots())


def ids(slots):
    """Which deliveries have a slot, in order."""
    return [slot.delivery.id for slot in slots]


def opened(origins, *names):
    """*origins*, of which those named have just answered."""
    for name in names:
        put(origins, name, "opening")
        (slot,) = begun(origins)
        origins.end(slot, START, is_answering=True)
    return origins


def failed(origins, name, times=1, now=START):
    """*origins*, of which one has failed so many probes in a row."""
    for _ in range(times):
        put(origins, name, "failing")
        (slot,) = begun(origins)
        origins.end(slot, now, is_answering=False)
    return origins


@pytest.fixture
def origins():
    """No origin is known yet."""
    return Origins(CONCURRENCY, WIDTH)


# Slots


def test_an_origin_that_is_new_gets_one_attempt_at_a_time(origins):
    """The first attempt is a probe, and nothing else goes there until it has ended."""
    put(origins, ONE, *"abc")

    (slot,) = begun(origins)

    assert ("a", True) == (slot.delivery.id, slot.is_probe)
    assert [] == begun(origins)


def test_an_origin_that_has_answered_gets_as_many_as_it_may(origins):
    """The first answer opens an origin, up to its cap and no further."""
    put(origins, ONE, *"abcdefg")
    (probe,) = begun(origins)

    origins.end(probe, START, is_answering=True)
    slots = begun(origins)

    assert list("bcde") == ids(slots)
    assert [False] * WIDTH == [slot.is_probe for slot in slots]
    assert [] == begun(origins)


def test_a_slot_that_falls_free_goes_to_the_next(origins):
    """What waits is begun in its order, one for each attempt that ended."""
    put(opened(origins, ONE), ONE, *"abcdef")
    first, *_ = begun(origins)

    origins.end(first, START, is_answering=True)

    assert ["e"] == ids(begun(origins))


def test_all_slots_together_are_as_many_as_were_given():
    """However many origins there are, no more is in flight than was said."""
    origins = Origins(5, WIDTH)
    for number in range(9):
        put(origins, f"https://{number}.example:443", str(number))

    assert list("01234") == ids(begun(origins))


def test_origins_take_turns(origins):
    """What came for one origin alone does not come before what another waits for."""
    opened(origins, ONE, TWO)
    put(origins, ONE, "a", "b")
    put(origins, TWO, "c", "d")

    assert list("acbd") == ids(begun(origins))


def test_beside_others_an_origin_leaves_slots_for_new_ones():
    """One takes no more than it leaves free, so that the next can begin at once."""
    origins = opened(Origins(8, 8), ONE)
    origins.reserve(TWO)
    put(origins, ONE, *"abcdefgh")

    slots = begun(origins)
    assert list("abcd") == ids(slots)

    origins.wait(a_delivery("other", TWO))
    assert ["other"] == ids(begun(origins))


def test_alone_an_origin_may_have_every_slot():
    """Nothing is kept for others while there are none."""
    origins = opened(Origins(8, 8), ONE)
    put(origins, ONE, *"abcdefgh")

    assert list("abcdefgh") == ids(begun(origins))


def test_what_was_kept_for_others_is_had_once_they_are_gone():
    """An origin that is alone again goes on with all slots."""
    origins = opened(Origins(8, 8), ONE)
    origins.reserve(TWO)
    put(origins, ONE, *"abcdefgh")
    begun(origins)

    origins.give_up(TWO)

    assert list("efgh") == ids(begun(origins))


def test_an_origin_that_has_enough_holds_up_no_other():
    """Others get all that is theirs, however often one that has enough is passed over."""
    origins = opened(Origins(20, 20), ONE, TWO, THREE)
    put(origins, ONE, *map(str, range(12)))
    assert 12 == len(begun(origins))
    put(origins, ONE, *map(str, range(20)))
    put(origins, TWO, *map(str, range(20)))
    put(origins, THREE, *map(str, range(20)))

    names = Counter(slot.delivery.origin for slot in origins.take_slots())

    assert {TWO: 3, THREE: 3} == names


def test_a_slot_that_was_not_used_is_free_again(origins):
    """A slot that is skipped goes to the next delivery; the lease is still counted."""
    put(opened(origins, ONE), ONE, *"abcde")
    first, *_ = begun(origins)

    origins.skip(first)

    assert ["e"] == ids(begun(origins))
    assert 5 == origins.held_count


def test_a_slot_can_be_skipped_while_others_are_taken(origins):
    """Whoever takes the slots one by one may skip some of them meanwhile."""
    put(origins, ONE, *"abc")
    taken = []

    for slot in origins.take_slots():
        taken.append(slot.delivery.id)
        if slot.delivery.id != "c":
            origins.skip(slot)

    assert list("abc") == taken


# What is learnt of an origin


def test_a_failure_closes_an_open_origin(origins):
    """After an attempt without an answer the next one is a probe, once the others have ended."""
    put(opened(origins, ONE), ONE, *"abcdef")
    slots = begun(origins)

    for slot in slots[:-1]:
        origins.end(slot, START, is_answering=False)
        assert [] == begun(origins)
    origins.end(slots[-1], START, is_answering=False)

    (probe,) = begun(origins)
    assert ("e", True) == (probe.delivery.id, probe.is_probe)


def test_an_origin_that_closes_while_it_waits_for_its_turn_begins_nothing():
    """Slots that fall free are of no use to an origin that is to be probed first."""
    origins = opened(Origins(8, 8), ONE)
    origins.reserve(TWO)
    put(origins, ONE, *"abcdefgh")
    first, *_ = begun(origins)

    origins.end(first, START, is_answering=False)

    assert [] == begun(origins)


def test_a_failure_that_was_no_probe_begins_no_cooldown(origins):
    """One bad answer among many is looked into at once."""
    put(opened(origins, ONE), ONE, "a", "b")
    first, _ = begun(origins)

    origins.end(first, START, is_answering=False)

    assert frozenset() == origins.cooling_down(START)


def test_any_answer_opens_an_origin_again(origins):
    """One attempt of many that is answered is enough."""
    put(opened(origins, ONE), ONE, *"abcdef")
    first, second, *_ = begun(origins)

    origins.end(first, START, is_answering=False)
    origins.end(second, START, is_answering=True)

    assert list("ef") == ids(begun(origins))


def test_cooldowns_grow_with_each_failed_probe_up_to_a_bound(origins):
    """An origin that stays away is asked ever less often, and never given up."""
    now, cooldowns = START, []
    for _ in range(20):
        failed(origins, ONE, now=now)
        cooldowns.append(origins.ends_of_cooldowns(now)[ONE] - now)
        now += cooldowns[-1]

    assert [COOLDOWN_FIRST * 2**number for number in range(7)] == cooldowns[:7]
    assert [COOLDOWN_MAX] * 13 == cooldowns[7:]


def test_an_answer_makes_cooldowns_short_again(origins):
    """What an origin did before its last answer is forgotten."""
    failed(origins, ONE, 5)
    opened(origins, ONE)
    put(origins, ONE, "a")
    (slot,) = begun(origins)
    later = START + COOLDOWN_MAX

    # The first failure closes it, the second one is a probe that fails.
    origins.end(slot, later, is_answering=False)
    failed(origins, ONE, now=later)

    assert {ONE: later + COOLDOWN_FIRST} == origins.ends_of_cooldowns(later)


def test_a_cooldown_ends_by_itself(origins):
    """At the instant that was said, the origin is not left alone any more."""
    origins.cool_down(ONE, START, START + SECOND)

    assert origins.is_cooling_down(ONE, START)
    assert not origins.is_cooling_down(TWO, START)
    assert not origins.is_cooling_down(ONE, START + SECOND)
    assert frozenset() == origins.cooling_down(START + SECOND)
    assert {} == origins.ends_of_cooldowns(START + SECOND)


def test_of_two_cooldowns_the_longer_counts(origins):
    """A receiver that asked for an hour is not called after a short cooldown of ours."""
    origins.cool_down(ONE, START, START + 2 * SECOND)
    origins.cool_down(ONE, START, START + SECOND)

    assert {ONE: START + 2 * SECOND} == origins.ends_of_cooldowns(START)


# Capacity for leases


def test_a_cooldown_that_begins_during_a_round_is_known_at_its_end():
    """A round asks for the cooldowns since it began, which forgets none that began later."""
    origins = Origins(CONCURRENCY, WIDTH)
    origins.cool_down(ONE, START + SECOND, START + 2 * SECOND)

    assert {ONE: START + 2 * SECOND} == origins.ends_of_cooldowns(START)
    assert origins.is_cooling_down(ONE, START + SECOND)


def test_a_clock_that_goes_back_prolongs_no_cooldown():
    """A cooldown has a beginning and an end; before it began, there is none."""
    origins = Origins(CONCURRENCY, WIDTH)
    origins.cool_down(ONE, START, START + SECOND)

    assert origins.is_cooling_down(ONE, START)
    assert not origins.is_cooling_down(ONE, START - SECOND)
    assert frozenset() == origins.cooling_down(START - SECOND)


def test_a_new_origin_has_the_capacity_of_one_slot(origins):
    """Of an origin that may not be there at all little is leased."""
    assert LEASE_AHEAD == origins.capacity_of(ONE) == origins.capacity_of_new
    put(origins, ONE, *"abc")
    assert LEASE_AHEAD - 3 == origins.capacity_of(ONE)
    assert {ONE: LEASE_AHEAD - 3} == origins.capacities()


def test_an_open_origin_has_the_capacity_of_its_slots(origins):
    """So much is leased that a slot which falls free never waits for a commit."""
    put(opened(origins, ONE), ONE, *"abc")

    assert WIDTH * LEASE_AHEAD - 3 == origins.capacity_of(ONE)


def test_a_failing_origin_has_capacity_for_its_probe_alone(origins):
    """What waits behind a failing origin keeps its attempts, in the database."""
    failed(origins, ONE)

    assert 1 == origins.capacity_of(ONE)
    origins.reserve(ONE)
    assert 0 == origins.capacity_of(ONE)
    assert {ONE: 0} == origins.capacities()


def test_beside_others_an_origin_leaves_capacity_for_new_ones():
    """An origin has no more leases than it leaves to others, however many slots it has."""
    origins = opened(Origins(4, 4), ONE)
    for number in range(LEASE_AHEAD * 2):
        put(origins, ONE, str(number))
    assert LEASE_AHEAD * 2 == origins.capacity_of(ONE)

    origins.reserve(TWO)

    assert 0 == origins.capacity_of(ONE)
    assert LEASE_AHEAD - 1 == origins.capacity_of(TWO)


def test_no_origin_has_more_capacity_than_is_left():
    """All leases together are bounded, whoever asks."""
    origins = Origins(1, 1)
    for number in range(LEASE_AHEAD - 1):
        put(origins, f"https://{number}.example:443", "a")

    assert (1, 1) == (origins.capacity, origins.capacity_of(ONE))
    origins.reserve(ONE)
    assert (0, 0, 0) == (origins.capacity, origins.capacity_of(ONE), origins.capacity_of(TWO))


def test_an_origin_has_no_more_capacity_than_all_slots_have():
    """What one may have is bounded by what there is."""
    origins = opened(Origins(1, 4), ONE)

    assert LEASE_AHEAD == origins.capacity == origins.capacity_of(ONE)


def test_capacity_is_free_again_for_leases_that_are_given_up(origins):
    """An attempt that ends, and a lease that is given back, free capacity."""
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


def test_another_round_is_worth_it_once_half_of_the_capacity_is_free(origins):
    """Rounds are made for many deliveries at a time, and not for each that ended."""
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


def test_what_is_taken_back_waits_no_more(origins):
    """Leases that are to be given back stay counted until they are, and get no slot."""
    put(opened(origins, ONE, TWO), ONE, *"abcdef")
    put(origins, TWO, "other")
    begun(origins)

    taken = origins.take_back(ONE)

    assert list("ef") == [delivery.id for delivery in taken]
    assert ([], [], 7) == (origins.take_back(ONE), begun(origins), origins.held_count)


def test_everything_can_be_taken_back(origins):
    """A dispatcher that is to end gives back what has no slot, of every origin."""
    put(origins, ONE, "a", "b")
    put(origins, TWO, "c", "d")
    begun(origins)

    assert {"b", "d"} == {delivery.id for delivery in origins.take_back_all()}
    assert [] == origins.take_back_all()


def test_an_origin_goes_on_after_its_deliveries_were_taken_back(origins):
    """What is leased later gets a slot as if nothing had been."""
    put(origins, ONE, "a", "b")
    (slot,) = begun(origins)
    origins.take_back(ONE)
    origins.give_up(ONE)

    put(origins, ONE, "c")
    assert [] == begun(origins)
    origins.end(slot, START, is_answering=True)

    assert ["c"] == ids(begun(origins))


# Forgetting


def test_the_origin_known_longest_is_forgotten_for_a_new_one(monkeypatch):
    """However many receivers there are, only so many are remembered."""
    monkeypatch.setattr(origins_module, "KNOWN_MAX", 2)
    origins = opened(Origins(CONCURRENCY, WIDTH), ONE, TWO)

    origins.reserve(THREE)

    assert LEASE_AHEAD == origins.capacity_of(ONE)
    assert WIDTH * LEASE_AHEAD == origins.capacity_of(TWO)


def test_an_origin_with_a_lease_is_never_forgotten(monkeypatch):
    """An attempt that ends finds its origin, however many came meanwhile."""
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
    What a dispatcher may do, in any order, beside what has to come of it.

    Leases are *reserved* before they are written, then they are *waiting*, then *in_flight*;
    those that are *returning* were taken back, and are counted until they are released.
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
        """So many slots, and so many of them for one."""
        self.concurrency, self.width = concurrency, width
        self.origins = Origins(concurrency, width)

    @rule(name=strategies.sampled_from(names), number=strategies.integers(1, 40))
    def reserve(self, name, number):
        """Take leases for which there is capacity."""
        for _ in range(min(number, self.origins.capacity_of(name))):
            self.origins.reserve(name)
            self.reserved.append(name)

    @precondition(lambda self: self.reserved)
    @rule(number=strategies.integers(1, 40), is_written=strategies.booleans())
    def write(self, number, is_written):
        """What was reserved waits for a slot, or came to nothing."""
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
        """Every origin's deliveries begin in their order, as far as slots go, and no slot idles."""
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
        """An attempt ends, with an answer or without."""
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
        """A slot that would come too late is given back."""
        slot = self.in_flight.pop(which % len(self.in_flight))
        self.origins.skip(slot)
        self.returning.append(slot.delivery)

    @rule(name=strategies.sampled_from(names))
    def take_back(self, name):
        """What waits for one origin is given back."""
        if self.waiting[name]:
            self.returning += self.waiting[name]
            assert list(self.waiting[name]) == self.origins.take_back(name)
            self.waiting[name].clear()

    @precondition(lambda self: self.returning)
    @rule()
    def release(self):
        """A lease that was given back is counted no more."""
        self.origins.give_up(self.returning.pop().origin)

    @rule(milliseconds=strategies.integers(1, 20_000))
    def pass_time(self, milliseconds):
        """Cooldowns end when they are over, and are never longer than they may be."""
        self.now += timedelta(milliseconds=milliseconds)
        for at in self.origins.ends_of_cooldowns(self.now).values():
            assert self.now < at <= self.now + COOLDOWN_MAX

    @invariant()
    def leases_are_counted(self):
        """Exactly what was reserved and not given up is counted, within the bounds."""
        held = self.held()
        limit = self.concurrency * LEASE_AHEAD
        assert held.total() == self.origins.held_count <= limit
        assert limit - held.total() == self.origins.capacity
        assert set(held) <= set(self.origins.capacities())

    @invariant()
    def capacity_is_within_bounds(self):
        """No origin has more than there is; one that wants more has some if there is any."""
        for name in self.names:
            capacity = self.origins.capacity_of(name)
            assert 0 <= capacity <= self.origins.capacity
            assert capacity or not self.origins.capacity or not self.origins.wants_more(name)

    def teardown(self):
        """Once attempts go on ending, all that waits is begun, and every count is zero again."""
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
        # Nothing is leased: what is named has failed, and gets one lease for its next probe.
        assert {1} >= set(self.origins.capacities().values())

    def held(self):
        """The leases of each origin that has any."""
        leased = [*self.returning, *(slot.delivery for slot in self.in_flight)]
        leased += [delivery for waiting in self.waiting.values() for delivery in waiting]
        return Counter([*self.reserved, *(delivery.origin for delivery in leased)])

    def width_of(self, name):
        """How many attempts an origin may have in flight."""
        return self.width if name in self.open else 1

    def in_flight_of(self, name):
        """How many it has."""
        return sum(name == slot.delivery.origin for slot in self.in_flight)

    def may_begin(self, name):
        """Whether the rule gives one more slot to an origin."""
        free = self.concurrency - len(self.in_flight)
        in_flight = self.in_flight_of(name)
        is_alone = 1 == len(self.held())
        return free > 0 and in_flight < self.width_of(name) and (is_alone or in_flight < free)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
