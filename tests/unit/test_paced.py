from datetime import timedelta

import pytest

from service.storage.paced import KEPT, RENEWED, Paced
from tests.clock import START
from tests.memory import Memory, memory_store

STEP = timedelta(milliseconds=1)


@pytest.fixture
def paced():
    """No account exceeds its rate."""
    return Paced()


def test_an_account_is_paced_for_a_moment(paced):
    """An account is taken to exceed its rate for two seconds after that was noticed."""
    paced.renew(["acc_1"], START)

    assert paced.holds("acc_1", START + KEPT - STEP)
    assert not paced.holds("acc_1", START + KEPT)
    assert not paced.holds("acc_2", START)


def test_other_processes_are_told_once_a_second(paced):
    """A process that goes on noticing it sends one notification a second."""
    told = [bool(paced.renew(["acc_1"], START + RENEWED * tenth / 10)) for tenth in range(25)]

    assert [0, 11, 22] == [number for number, one in enumerate(told) if one]


def test_another_process_knows_the_same(paced):
    """What a process is told holds there until the same instant."""
    other = Paced()
    other.set()
    other.set_for(paced.renew(["acc_1", "acc_2"], START))

    for at in (START, START + KEPT - STEP, START + KEPT):
        assert paced.holds("acc_1", at) is other.holds("acc_1", at)
        assert paced.holds("acc_2", at) is other.holds("acc_2", at)


def test_every_process_of_a_database_tells_the_same():
    """What one process notices is known to all that listen."""
    memory = Memory()
    here, there = memory_store(memory), memory_store(memory)
    there.listen()

    here.note_paced({"acc_1"}, START)

    assert [True, True] == [one.is_paced("acc_1", START) for one in (here, there)]
    assert not there.is_paced("acc_2", START)
