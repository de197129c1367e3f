import pytest

from service.delivery.shares import ALONE, Division, Share

ONE, TWO, THREE = "one", "two", "three"


def shared(limit, *contenders, most=None):
    """A share of *limit* for these contenders."""
    return Share(limit, set(contenders), most)


def taken(share, holder):
    """How many *holder* can take in a row."""
    count = 0
    while share.permits(holder):
        share.take(holder, 1)
        count += 1
    return count


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 16])
def test_whoever_is_alone_may_take_all_of_a_few(limit):
    """No slot is kept free of a small number."""
    assert limit == taken(shared(limit, ONE), ONE)


def test_whoever_is_alone_leaves_some_of_many():
    """The next one finds free slots, however many the first one wants."""
    share = shared(256, ONE)

    taken(share, ONE)

    assert 256 // (ALONE + 1) == share.free


def test_beside_others_a_holder_takes_no_more_than_it_leaves():
    """Of two holders the first one gets half; the next ones find free slots too."""
    share = shared(8, ONE, TWO, THREE)

    assert [4, 2, 1] == [taken(share, holder) for holder in (ONE, TWO, THREE)]


def test_what_is_given_back_can_be_taken():
    """A holder that has given back may take again."""
    share = shared(2, ONE, TWO)
    assert (1, 1) == (taken(share, ONE), taken(share, TWO))
    assert not share.permits(THREE)

    share.give_back(ONE, 1)

    assert share.permits(THREE)
    assert (0, 1) == (share.count_of(ONE), share.count_of(TWO))


def test_a_holder_may_have_a_limit_of_its_own():
    """However many are free, a holder has *most* at most."""
    assert 3 == taken(shared(100, ONE, most=3), ONE)


@pytest.mark.parametrize("contenders", [(ONE,), (ONE, TWO)])
@pytest.mark.parametrize("before", [0, 1, 5])
@pytest.mark.parametrize("limit", [1, 2, 7, 40, 255])
@pytest.mark.parametrize("most", [None, 4])
def test_the_capacity_is_what_can_be_taken(contenders, before, limit, most):
    """The capacity is the number of times that a holder may take, one after the other."""
    share = shared(limit, *contenders, most=most)
    for _ in range(before):
        if share.permits(ONE):
            share.take(ONE, 1)

    capacity = share.capacity_of(ONE)

    assert max(0, capacity) == taken(share, ONE)


def divided(limit=16, probes=8, account_probes=2, accounts=(ONE, TWO), receivers=(ONE, TWO)):
    """A division for these accounts and receivers."""
    return Division(limit, probes, account_probes, (set(accounts), set(receivers)))


def probes_of(division, account_id):
    """How many probes the receivers of an account can begin."""
    count = 0
    while division.permits(account_id, f"{account_id} {count}", is_probed=True):
        division.take(account_id, f"{account_id} {count}", is_probed=True)
        count += 1
    return count


def test_probes_leave_their_part_to_those_that_answer():
    """However many receivers are probed, a part is never taken by them."""
    accounts = [str(number) for number in range(20)]
    division = divided(accounts=accounts, receivers=accounts)

    counts = [probes_of(division, account_id) for account_id in accounts]

    assert 2 == max(counts)
    assert sum(counts) <= 8 <= division.free
    assert division.permits(accounts[-1], "healthy", is_probed=False)


def test_an_account_shares_with_others_before_its_receivers_do():
    """Many receivers of one account get no more than one receiver of another."""
    division = divided(receivers=map(str, range(40)))
    for number in range(40):
        if division.permits(ONE, str(number), is_probed=False):
            division.take(ONE, str(number), is_probed=False)

    assert 8 == division.count_of(ONE)
    assert 4 == division.capacity_of(TWO, "other", is_probed=False)


def test_a_receiver_leaves_slots_to_its_neighbours():
    """One receiver of an account does not take what its neighbours would get."""
    division = divided(limit=4, accounts=[ONE])
    for _ in range(4):
        if division.permits(ONE, ONE, is_probed=False):
            division.take(ONE, ONE, is_probed=False)

    assert 2 == division.free
    assert division.permits(ONE, TWO, is_probed=False)


def test_a_receiver_that_answers_is_no_longer_counted_as_a_probe():
    """What it has taken is free for other probes, and counted again when it fails."""
    division = divided(account_probes=1)
    division.take(ONE, ONE, is_probed=True)
    assert not division.permits(ONE, TWO, is_probed=True)

    division.change(ONE, 1, is_probed=False)
    assert division.permits(ONE, TWO, is_probed=True)

    division.change(ONE, 1, is_probed=True)
    assert not division.permits(ONE, TWO, is_probed=True)
