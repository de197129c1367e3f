from collections import Counter, deque
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.delivery import fairness
from service.delivery.fairness import LEASE_AHEAD, NOTE_INTERVAL, Receivers
from service.delivery.health import COOLDOWN_FIRST, COOLDOWN_MAX, REFUSALS_MAX
from service.domain.delivery import Delivered, OriginState, ReceiverState, Retry
from service.domain.outcomes import AttemptOutcome
from tests import rows
from tests.clock import START
from tests.rows import ONE, SECOND, TWO, a_receiver, a_step, an_attempt, an_event, an_invoice

WIDTH = 4
CONCURRENCY = 16
A, B, C = (a_receiver(path=path) for path in ("/a", "/b", "/c"))
ELSEWHERE = a_receiver(TWO, "/a")
OTHER = a_receiver(path="/a", account_id="other")


def a_delivery(id_="1", receiver=A, **changes):
    """A leased delivery; only its receiver and its origin matter here."""
    account_id, _, base = receiver.partition(" ")
    origin = base[: len(ONE)]
    invoice = an_invoice(account_id=account_id, origin=origin, path=base[len(ONE) :])
    step = a_step(invoice, event=an_event(delivery_id=id_))
    return replace(rows.a_delivery(step, leased_until=START + SECOND), **changes)


def put(receivers, receiver, *ids, **changes):
    """Add leased deliveries that wait for a slot."""
    for id_ in ids:
        delivery = a_delivery(id_, receiver, **changes)
        receivers.reserve(receiver, delivery.origin)
        receivers.wait(delivery)


def begun(receivers):
    """The slots that are available now."""
    return list(receivers.take_slots())


def ids(slots):
    """The ids of the deliveries with a slot, in order."""
    return [slot.delivery.id for slot in slots]


def answered(slot, *, at=START, **changes):
    """An attempt that was delivered."""
    values = {"ended_at": at, **changes}
    return an_attempt(slot.delivery, AttemptOutcome.DELIVERED, Delivered(), **values)


def broken(slot, *, at=START, **changes):
    """An attempt that was answered with 500."""
    values = {"status_code": 500, "ended_at": at, **changes}
    return an_attempt(slot.delivery, AttemptOutcome.REFUSED, Retry(SECOND), **values)


def refused(slot, *, at=START):
    """An attempt that was answered with 404."""
    return broken(slot, at=at, status_code=404)


def unconnected(slot, *, at=START):
    """An attempt without a connection."""
    outcome = AttemptOutcome.UNREACHABLE
    return replace(broken(slot, at=at), status_code=None, outcome=outcome, is_connected=False)


def ended(receivers, receiver, *attempts, at=START):
    """What is to be stored after *attempts* of one delivery each."""
    states = []
    for attempt in attempts:
        put(receivers, receiver, "ended")
        (slot,) = begun(receivers)
        states.append(receivers.end(slot, attempt(slot, at=at)))
    return states[-1]


def opened(receivers, *names):
    """*receivers*, after *names* have answered."""
    for name in names:
        ended(receivers, name, answered)
    return receivers


@pytest.fixture
def receivers():
    """No known receivers."""
    return Receivers(CONCURRENCY, WIDTH)


# Slots


def test_a_new_receiver_gets_one_attempt_at_a_time(receivers):
    """The first attempt is a probe, and no other attempt begins before it has ended."""
    put(receivers, A, *"abc")

    (slot,) = begun(receivers)

    assert ("a", True) == (slot.delivery.id, slot.is_probe)
    assert [] == begun(receivers)


def test_a_receiver_that_has_answered_gets_all_connections_of_its_origin(receivers):
    """After its first answer a receiver that is alone gets slots up to the limit of the origin."""
    put(receivers, A, *"abcdefg")
    (probe,) = begun(receivers)

    receivers.end(probe, answered(probe))
    slots = begun(receivers)

    assert list("bcde") == ids(slots)
    assert [False] * WIDTH == [slot.is_probe for slot in slots]


def test_a_free_slot_goes_to_the_next_delivery(receivers):
    """Waiting deliveries get slots in order, one for each ended attempt."""
    put(opened(receivers, A), A, *"abcdef")
    first, *_ = begun(receivers)

    receivers.end(first, answered(first))

    assert ["e"] == ids(begun(receivers))


def test_all_slots_together_are_limited():
    """No more attempts are in flight than there are slots, for any number of receivers."""
    names = [a_receiver(f"https://{n}{n}{n}.example:443", account_id=str(n)) for n in range(9)]
    receivers = opened(Receivers(5, WIDTH), *names)
    for name in names:
        put(receivers, name, name)

    assert 5 == len(begun(receivers))


def test_the_receivers_of_an_origin_share_its_connections(receivers):
    """Beside a neighbour a receiver takes no more connections than it leaves free."""
    opened(receivers, A, B)
    put(receivers, A, *"abcdef")
    put(receivers, B, *"ghijkl")

    slots = begun(receivers)

    assert {A: 2, B: 1} == Counter(slot.delivery.receiver for slot in slots)


def test_a_free_connection_goes_to_the_neighbour(receivers):
    """A receiver that waits for a connection gets the next one, before others have a second."""
    opened(receivers, A, B, C)
    for name in (A, B, C):
        put(receivers, name, *(f"{name}{number}" for number in range(5)))
    slots = begun(receivers)

    first = next(slot for slot in slots if slot.delivery.receiver == A)
    receivers.end(first, answered(first))

    assert {A, B, C} == {slot.delivery.receiver for slot in [*slots, *begun(receivers)]}


def test_accounts_share_before_receivers_do():
    """Many receivers of one account get no more connections than one receiver of another."""
    receivers = Receivers(64, 16)
    many = [a_receiver(path=f"/{number}") for number in range(40)]
    opened(receivers, *many, OTHER)
    put(receivers, OTHER, "waits")
    for name in many:
        put(receivers, name, name)

    slots = begun(receivers)

    assert {"dev": 8, "other": 1} == Counter(slot.delivery.account_id for slot in slots)


def test_accounts_take_turns(receivers):
    """The slots go to the accounts in turn, and to the receivers of an account in turn."""
    opened(receivers, A, ELSEWHERE, OTHER)
    put(receivers, A, "a", "b")
    put(receivers, ELSEWHERE, "c", "d")
    put(receivers, OTHER, "e")

    assert list("aec") == ids(begun(receivers))[:3]


def test_receivers_that_hang_leave_slots_to_those_that_answer(receivers):
    """New receivers never get more than their part, whatever their number."""
    opened(receivers, A)
    for number in range(100):
        put(receivers, a_receiver(f"https://{number:03}.example:443"), str(number))

    probes = begun(receivers)
    put(receivers, A, "healthy")

    assert CONCURRENCY // 2 // 4 == len(probes)
    assert ["healthy"] == ids(begun(receivers))


def test_receivers_that_hang_leave_connections_to_those_that_answer(receivers):
    """On a shared host, new receivers get half of its connections."""
    opened(receivers, A)
    neighbours = [a_receiver(path=f"/{n}", account_id=str(n)) for n in range(20)]
    for name in neighbours:
        put(receivers, name, name)

    probes = begun(receivers)
    put(receivers, A, "healthy")

    assert len(probes) <= WIDTH // 2
    assert ["healthy"] == ids(begun(receivers))


def test_one_that_has_never_failed_is_probed_before_those_that_have(receivers):
    """A new receiver does not wait for all those that fail."""
    receivers = Receivers(CONCURRENCY, 2)
    failing = [a_receiver(path=f"/{number}") for number in range(9)]
    for name in failing:
        ended(receivers, name, broken)
        put(receivers, name, name)
    (slot,) = begun(receivers)

    put(receivers, B, "new")
    receivers.end(slot, broken(slot))

    assert ["new"] == ids(begun(receivers))


def test_a_skipped_slot_is_free_again(receivers):
    """A skipped slot goes to the next delivery, and the lease of the first still counts."""
    put(opened(receivers, A), A, *"abcde")
    first, *_ = begun(receivers)

    receivers.skip(first)

    assert ["e"] == ids(begun(receivers))
    assert 5 == receivers.held_count


def test_a_slot_can_be_skipped_during_the_iteration(receivers):
    """A caller that iterates over the slots may skip some of them."""
    put(receivers, A, *"abc")
    taken = []

    for slot in receivers.take_slots():
        taken.append(slot.delivery.id)
        if slot.delivery.id != "c":
            receivers.skip(slot)

    assert list("abc") == taken


def test_a_receiver_whose_turn_is_given_up_does_not_stop_its_neighbours(receivers):
    """If the next for a connection has nothing left to send, the one behind it gets it."""
    receivers = opened(Receivers(CONCURRENCY, 1), A, B, C)
    for name in (A, B, C):
        put(receivers, name, name)
    (slot,) = begun(receivers)
    waiting = [name for name in (A, B, C) if name != slot.delivery.receiver]

    receivers.take_back(waiting[0])
    receivers.take_back(waiting[1])
    put(receivers, waiting[1], "last")
    receivers.end(slot, answered(slot))

    assert ["last"] == ids(begun(receivers))


# What is asked for by hand


def test_what_is_asked_for_goes_before_the_others(receivers):
    """A delivery that was asked for gets the next slot of its receiver."""
    receivers = opened(Receivers(CONCURRENCY, 1), A)
    put(receivers, A, "a", "b")
    (slot,) = begun(receivers)

    put(receivers, A, "asked", is_asked=True)
    receivers.end(slot, answered(slot))

    assert ["asked"] == ids(begun(receivers))


def test_what_is_asked_for_does_not_wait_for_a_probe(receivers):
    """It is attempted although a probe is in flight, and although the receiver cools down."""
    ended(receivers, A, broken)
    put(receivers, A, "probe", "asked", is_asked=True)

    slots = begun(receivers)

    assert {"probe", "asked"} == set(ids(slots))
    assert not receivers.is_cooling_down(slots[0].delivery, START)
    assert receivers.is_cooling_down(replace(slots[0].delivery, is_asked=False), START)


def test_what_is_asked_for_is_not_taken_back(receivers):
    """It keeps its lease when the receiver begins to cool down."""
    put(receivers, A, "a", "b")
    put(receivers, A, "asked", is_asked=True)

    assert ["a", "b"] == [one.id for one in receivers.take_back(A)]
    assert ["asked"] == ids(begun(receivers))


# What answers show


def test_a_failure_closes_a_receiver(receivers):
    """After a failure the next attempt is a probe, which begins after the others have ended."""
    put(opened(receivers, A), A, *"abcdef")
    slots = begun(receivers)

    for slot in slots[:-1]:
        receivers.end(slot, broken(slot))
        assert [] == begun(receivers)
    receivers.end(slots[-1], broken(slots[-1]))

    (probe,) = begun(receivers)
    assert ("e", True) == (probe.delivery.id, probe.is_probe)


def test_any_answer_opens_a_receiver_again(receivers):
    """One answered attempt of many is enough."""
    put(opened(receivers, A), A, *"abcdef")
    first, second, *_ = begun(receivers)

    receivers.end(first, broken(first))
    receivers.end(second, answered(second))

    assert list("ef") == ids(begun(receivers))


def test_what_a_receiver_answers_concerns_no_neighbour(receivers):
    """After 5xx, and after Retry-After, the neighbours of the host are called as before."""
    opened(receivers, A, B, OTHER)
    ended(receivers, A, broken, broken)
    put(receivers, B, "b")
    put(receivers, OTHER, "other")

    slots = begun(receivers)

    assert {"b", "other"} == set(ids(slots))
    assert receivers.is_cooling_down(a_delivery(receiver=A), START)
    assert not any(receivers.is_cooling_down(slot.delivery, START) for slot in slots)


def test_a_hold_is_a_cooldown_of_the_receiver(receivers):
    """Until the end of a Retry-After, only this receiver is left alone."""
    put(receivers, A, "a")
    (slot,) = begun(receivers)
    until = START + 60 * SECOND

    state, _ = receivers.end(slot, broken(slot, status_code=503, held_until=until))

    assert until == receivers.cooldowns.end_of(A, START)
    assert None is receivers.cooldowns.end_of(B, START)
    assert until == state.held_until


def test_one_that_refuses_everything_is_called_less_and_less(receivers):
    """After many refusals in a row a receiver cools down like one that fails."""
    opened(receivers, A)
    ended(receivers, A, *[refused] * (REFUSALS_MAX - 1))
    assert not receivers.is_cooling_down(a_delivery(), START)

    ended(receivers, A, refused, refused)

    assert receivers.is_cooling_down(a_delivery(), START)


def test_a_delivery_between_refusals_keeps_a_receiver_open(receivers):
    """Refusals count from the last delivery on."""
    for _ in range(5):
        ended(receivers, A, *[refused] * (REFUSALS_MAX - 1), answered)

    assert not receivers.is_cooling_down(a_delivery(), START)


def test_an_origin_without_connections_is_probed_once_for_all_its_receivers(receivers):
    """While no connection can be made, one attempt at a time is made, whoever the receiver is."""
    ended(receivers, A, unconnected)
    assert receivers.is_cooling_down(a_delivery(receiver=OTHER), START)
    assert not receivers.is_cooling_down(a_delivery(receiver=ELSEWHERE), START)

    for name in (A, B, OTHER, ELSEWHERE):
        put(receivers, name, name)

    slots = begun(receivers)
    assert 1 == sum(slot.delivery.origin == ONE for slot in slots)
    assert ELSEWHERE in ids(slots)


def test_a_connection_ends_the_probing_of_an_origin(receivers):
    """Whatever is answered, its receivers are called again, each as its own answers allow."""
    ended(receivers, A, unconnected)
    for name in (A, B, OTHER):
        put(receivers, name, name)
    (slot,) = begun(receivers)

    _, origin_state = receivers.end(slot, broken(slot, at=START + SECOND))

    assert OriginState(ONE, START + SECOND) == origin_state
    assert 2 == len(begun(receivers))


def test_a_lost_connection_says_nothing_about_receivers(receivers):
    """A receiver that answered before its host was away needs no probe of its own afterwards."""
    opened(receivers, A)

    receiver_state, _ = ended(receivers, A, unconnected)
    ended(receivers, B, answered)
    put(receivers, A, *"abc")

    assert None is receiver_state
    assert [False] * 3 == [slot.is_probe for slot in begun(receivers)]


def test_many_failed_connections_at_once_are_one_failure(receivers):
    """An origin that was not known cools down for as long as after a single failure."""
    for number in range(WIDTH // 2):
        put(receivers, a_receiver(path=f"/{number}", account_id=str(number)), str(number))
    slots = begun(receivers)

    states = [receivers.end(slot, unconnected(slot))[1] for slot in slots]

    assert OriginState(ONE, START + COOLDOWN_FIRST) == states[0]
    assert [None] * (len(slots) - 1) == states[1:]


# What is stored


def test_the_first_answer_is_stored_and_then_one_in_an_hour(receivers):
    """A receiver that goes on answering is not written to with each attempt."""
    at = [START, START + SECOND, START + NOTE_INTERVAL]

    states = [ended(receivers, A, answered, at=now)[0] for now in at]

    assert [START, None, START + NOTE_INTERVAL] == [one and one.answered_at for one in states]
    assert (A, ONE) == (states[0].receiver, states[0].origin)


def test_failures_are_stored(receivers):
    """Every process knows since when a receiver fails, and when it is probed again."""
    opened(receivers, A)

    first, _ = ended(receivers, A, broken)
    second, _ = ended(receivers, A, broken)

    assert (None, START, None) == (first.answered_at, first.failing_since, first.cooldown_until)
    assert START + COOLDOWN_FIRST == second.cooldown_until


def test_receivers_that_were_stored_as_answering_are_not_probed(receivers):
    """After a restart, a receiver that answered lately has its part of the slots."""
    receivers.remember([ReceiverState(receiver=A, origin=ONE, answered_at=START)])
    put(receivers, A, *"abc")

    assert [False] * 3 == [slot.is_probe for slot in begun(receivers)]


# Capacity for leases


def test_a_new_receiver_gets_one_lease(receivers):
    """All deliveries of a receiver that may not answer, except one, stay in the database."""
    assert 1 == receivers.capacity_of(A)

    receivers.reserve(A, ONE)

    assert 0 == receivers.capacity_of(A)
    assert receivers.has_all_its_leases(A)


def test_an_open_receiver_has_capacity_for_its_slots(receivers):
    """A receiver that answers has enough leases that a free slot never waits for a commit."""
    put(opened(receivers, A), A, *"abc")

    assert WIDTH * LEASE_AHEAD - 3 == receivers.capacity_of(A)


def test_an_account_leaves_leases_to_others(receivers):
    """Beside another account, an account takes no more leases than it leaves free."""
    names = [a_receiver(f"https://{n:03}.example:443") for n in range(40)]
    opened(receivers, *names)
    receivers.reserve(OTHER, ONE)

    for name in names:
        receivers.reserve(name, name.partition(" ")[2], receivers.capacity_of(name))

    assert CONCURRENCY * LEASE_AHEAD // 2 >= receivers.held_count - 1
    assert receivers.capacity >= CONCURRENCY * LEASE_AHEAD // 2 - 1


def test_the_receivers_that_hang_leave_leases_to_those_that_answer(receivers):
    """However many receivers are new, the leases of probes are few, and fewer of one account."""
    opened(receivers, A)
    for number in range(1000):
        name = a_receiver(f"https://{number:03}.example:443")
        receivers.reserve(name, name.partition(" ")[2], receivers.capacity_of(name))

    assert 0 == receivers.capacity_of(a_receiver("https://new.example:443"))
    assert 1 == receivers.capacity_of(OTHER)
    assert not receivers.has_all_its_leases(a_receiver("https://999.example:443"))
    assert receivers.capacity_of(A) >= WIDTH


def test_ended_and_released_leases_free_capacity(receivers):
    """An attempt that ends, and a lease that is released, free capacity."""
    put(receivers, A, "a")
    receivers.reserve(A, ONE)
    receivers.give_up(A)
    (slot,) = begun(receivers)
    receivers.end(slot, answered(slot))

    assert (0, CONCURRENCY * LEASE_AHEAD) == (receivers.held_count, receivers.capacity)


def test_another_round_starts_after_half_of_the_capacity_is_free(receivers):
    """A round leases many deliveries at a time, and does not run after each attempt."""
    opened(receivers, A)
    half = WIDTH * LEASE_AHEAD // 2
    receivers.reserve(A, ONE, half)
    assert receivers.wants_more(A)

    receivers.reserve(A, ONE)

    assert not receivers.wants_more(A)


# Taking back


def test_a_taken_back_delivery_gets_no_slot(receivers):
    """A lease that was taken back is counted until it is released, and gets no slot."""
    put(opened(receivers, A), A, *"abcdef")
    begun(receivers)

    taken = receivers.take_back(A)

    assert list("ef") == [delivery.id for delivery in taken]
    assert ([], [], 6) == (receivers.take_back(A), begun(receivers), receivers.held_count)


def test_all_deliveries_can_be_taken_back(receivers):
    """A dispatcher that drains takes back all deliveries without a slot, of every receiver."""
    put(receivers, A, "a", "b")
    put(receivers, ELSEWHERE, "c", "d")
    put(receivers, ELSEWHERE, "asked", is_asked=True)
    begun(receivers)

    taken = {delivery.id for delivery in receivers.take_back_all()}

    assert {"b", "c", "d"} - taken <= {"c"}
    assert [] == receivers.take_back_all()


# Forgetting


def test_those_that_do_not_answer_are_forgotten_first(monkeypatch, receivers):
    """The number of known receivers is limited, and an attacker's do not push out the others."""
    monkeypatch.setattr(fairness, "KNOWN_MAX", 10)
    opened(receivers, A)
    for number in range(100):
        ended(receivers, a_receiver(path=f"/{number}"), broken)

    put(receivers, A, "a")

    assert len(receivers._known) <= 11
    assert [False] == [slot.is_probe for slot in begun(receivers)]


def test_a_receiver_with_a_lease_is_never_forgotten(monkeypatch, receivers):
    """The receiver of an attempt in flight stays known, however many new ones come."""
    monkeypatch.setattr(fairness, "KNOWN_MAX", 10)
    put(receivers, A, "a")
    (slot,) = begun(receivers)
    for number in range(100):
        ended(receivers, a_receiver(TWO, f"/{number}", account_id="other"), answered)

    receivers.end(slot, answered(slot))

    assert 0 == receivers.held_count


# Any sequence


class AnySequence(RuleBasedStateMachine):
    """
    The operations of a dispatcher in any order, and the invariants that must hold.

    Leases are *reserved* before they are written, then they are *waiting*, then *in_flight*;
    those that are *returning* were taken back, and count until they are released.
    """

    names = (A, B, ELSEWHERE, OTHER, a_receiver(TWO, "/b", account_id="other"))

    def __init__(self):
        super().__init__()
        self.receivers = Receivers(1, 1)
        self.concurrency = self.width = 1
        self.now = START
        self.numbers = count(1)
        self.reserved = deque()
        self.waiting = {name: [] for name in self.names}
        self.in_flight = []
        self.returning = []

    @initialize(concurrency=strategies.integers(1, 12), width=strategies.integers(1, 8))
    def make(self, concurrency, width):
        """The number of slots, and the limit for one origin."""
        self.concurrency, self.width = concurrency, width
        self.receivers = Receivers(concurrency, width)

    @rule(name=strategies.sampled_from(names), number=strategies.integers(1, 40))
    def reserve(self, name, number):
        """Reserve leases if there is capacity, many at once as a round does."""
        number = min(number, self.receivers.capacity_of(name))
        self.receivers.reserve(name, a_delivery(receiver=name).origin, number)
        self.reserved.extend([name] * number)

    @precondition(lambda self: self.reserved)
    @rule(number=strategies.integers(1, 40), is_written=strategies.booleans())
    def write(self, number, is_written):
        """A reserved lease is written and waits for a slot, or its write fails."""
        for _ in range(min(number, len(self.reserved))):
            name = self.reserved.popleft()
            if is_written:
                delivery = a_delivery(str(next(self.numbers)), name)
                self.waiting[name].append(delivery)
                self.receivers.wait(delivery)
            else:
                self.receivers.give_up(name)

    @rule(name=strategies.sampled_from(names))
    def ask(self, name):
        """A delivery that was asked for is leased beyond the capacity."""
        delivery = a_delivery(str(next(self.numbers)), name, is_asked=True)
        self.receivers.reserve(name, delivery.origin)
        self.waiting[name].append(delivery)
        self.receivers.wait(delivery)

    @rule()
    def begin(self):
        """Slots are given within all limits."""
        for slot in self.receivers.take_slots():
            self.waiting[slot.delivery.receiver].remove(slot.delivery)
            self.in_flight.append(slot)
            assert len(self.in_flight) <= self.concurrency
            origins = Counter(one.delivery.origin for one in self.in_flight)
            assert max(origins.values()) <= self.width

    @precondition(lambda self: self.in_flight)
    @rule(
        which=strategies.integers(0, 99),
        attempt=strategies.sampled_from([answered, broken, refused, unconnected]),
    )
    def end(self, which, attempt):
        """An attempt ends, with or without an answer."""
        slot = self.in_flight.pop(which % len(self.in_flight))
        self.receivers.end(slot, attempt(slot, at=self.now))

    @precondition(lambda self: self.in_flight)
    @rule(which=strategies.integers(0, 99))
    def skip(self, which):
        """A slot that comes too late is skipped, and its lease is taken back."""
        slot = self.in_flight.pop(which % len(self.in_flight))
        self.receivers.skip(slot)
        self.returning.append(slot.delivery)

    @rule(name=strategies.sampled_from(names))
    def take_back(self, name):
        """The waiting deliveries of one receiver are taken back, but those that were asked for."""
        if self.waiting[name]:
            taken = self.receivers.take_back(name)
            assert [one for one in self.waiting[name] if not one.is_asked] == taken
            self.returning += taken
            self.waiting[name] = [one for one in self.waiting[name] if one.is_asked]

    @precondition(lambda self: self.returning)
    @rule()
    def release(self):
        """A released lease is no longer counted."""
        self.receivers.give_up(self.returning.pop().receiver)

    @rule(milliseconds=strategies.integers(1, 20_000))
    def pass_time(self, milliseconds):
        """Cooldowns are never longer than their maximum."""
        for name in (*self.names, ONE, TWO):
            end = self.receivers.cooldowns.end_of(name, self.now)
            assert end is None or self.now < end <= self.now + COOLDOWN_MAX
        self.now += milliseconds * SECOND / 1000

    @invariant()
    def leases_are_counted(self):
        """The counts are those of the leases that exist."""
        held = self.held()
        assert held.total() == self.receivers.held_count
        assert self.concurrency * LEASE_AHEAD - held.total() == self.receivers.capacity
        for name in self.names:
            assert 0 <= self.receivers.capacity_of(name)

    def teardown(self):
        """After all attempts have ended, every delivery had a slot and every count is zero."""
        while any(self.waiting.values()) or self.in_flight:
            self.begin()
            assert self.in_flight
            self.end(0, broken)
        for name in [*self.reserved, *(delivery.receiver for delivery in self.returning)]:
            self.receivers.give_up(name)
        assert (0, self.concurrency * LEASE_AHEAD) == (
            self.receivers.held_count,
            self.receivers.capacity,
        )
        for division in (self.receivers._leases, self.receivers._slots):
            assert (0, 0) == (division.account_count, division.receiver_count)
        for account in self.receivers._accounts.values():
            for taken in (account.slots, account.leases):
                assert (0, 0, 0) == (taken.count, taken.probe_count, taken.busy_count)

    def held(self):
        """The leases of each receiver that has any."""
        leased = [*self.returning, *(slot.delivery for slot in self.in_flight)]
        leased += [delivery for waiting in self.waiting.values() for delivery in waiting]
        return Counter([*self.reserved, *(delivery.receiver for delivery in leased)])


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
