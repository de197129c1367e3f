import pytest

from service.delivery.shares import ALONE, Division, Taken


class Holder:
    """A receiver of an account, with what it has taken of a division."""

    def __init__(self, division, account=None, *, is_probed=False):
        self.division = division
        self.account = account or Taken()
        self.is_probed = is_probed
        self.count = 0
        division.join(self.account)

    @property
    def capacity(self):
        """How many more it may take."""
        return self.division.capacity_of(self.account, self.count, is_probed=self.is_probed)

    def take(self, at_most=1000):
        """Take as many as it may, one after the other; returns how many."""
        before = self.count
        while self.count - before < at_most and self.division.permits(
            self.account, self.count, is_probed=self.is_probed
        ):
            self.division.take(self.account, is_probed=self.is_probed)
            self.count += 1
        return self.count - before

    def give_back(self, count=1):
        """Give back some."""
        self.division.take(self.account, -count, is_probed=self.is_probed)
        self.count -= count


def divided(limit=16, probes=8, account_probes=2):
    """A division that nobody has taken of."""
    return Division(limit, probes, account_probes)


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 16])
def test_whoever_is_alone_may_take_all_of_a_few(limit):
    """No slot is kept free of a small number."""
    assert limit == Holder(divided(limit)).take()


def test_whoever_is_alone_leaves_some_of_many():
    """The next one finds free slots, however many the first one wants."""
    division = divided(256)

    Holder(division).take()

    assert 256 // (ALONE + 1) == division.free


def test_beside_others_an_account_takes_no_more_than_it_leaves():
    """Of two accounts the first one gets half; the next ones find free slots too."""
    division = divided(8)
    one, two, three = (Holder(division) for _ in range(3))

    assert [4, 2, 1] == [one.take(), two.take(), three.take()]


def test_a_receiver_leaves_slots_to_its_neighbours():
    """One receiver of an account does not take what its neighbours would get."""
    division, account = divided(8), Taken()
    one, two = Holder(division, account), Holder(division, account)

    assert [4, 2] == [one.take(), two.take()]


def test_an_account_shares_with_others_before_its_receivers_do():
    """Many receivers of one account get no more than one receiver of another."""
    division, account = divided(16), Taken()
    other = Holder(division)
    many = [Holder(division, account) for _ in range(40)]

    assert 8 == sum(one.take(1) for one in many)
    assert 4 == other.take()


def test_what_is_given_back_can_be_taken():
    """A holder that waits may take what another one gives back."""
    division = divided(2)
    one, two, three = (Holder(division) for _ in range(3))
    assert [1, 1, 0] == [one.take(), two.take(), three.take()]

    one.give_back()

    assert 1 == three.take()


def test_whoever_leaves_is_beside_nobody():
    """A holder may take what is kept for others once there are no others."""
    division = divided(8)
    one, other = Holder(division), Holder(division)
    assert 4 == one.take()

    division.leave(other.account)

    assert 4 == one.take()


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("before", [0, 1, 5])
@pytest.mark.parametrize("limit", [1, 2, 7, 40, 255])
@pytest.mark.parametrize("is_probed", [True, False])
def test_the_capacity_is_what_can_be_taken(is_alone, before, limit, is_probed):
    """The capacity is the number of times that a holder may take, one after the other."""
    division = divided(limit, max(1, limit // 2), max(1, limit // 8))
    one = Holder(division, is_probed=is_probed)
    if not is_alone:
        Holder(division)
    one.take(before)

    capacity = one.capacity

    assert max(0, capacity) == one.take()


def test_probes_leave_their_part_to_those_that_answer():
    """However many receivers are probed, a part is never taken by them."""
    division = divided(16, probes=8, account_probes=2)

    counts = [Holder(division, is_probed=True).take() for _ in range(20)]

    assert 2 == max(counts)
    assert sum(counts) <= 8 <= division.free
    assert 1 <= Holder(division).take()


def test_a_receiver_that_answers_is_no_longer_counted_as_a_probe():
    """What it has taken is free for other probes, and counted again when it fails."""
    division, account = divided(account_probes=1), Taken()
    one, two = (Holder(division, account, is_probed=True) for _ in range(2))
    assert [1, 0] == [one.take(), two.take()]

    division.change(account, -1)
    assert 1 == two.capacity

    division.change(account, 1)
    assert 0 == two.capacity
