"""The thread that writes to SQLite."""

import asyncio
import gc
import threading
import weakref

import pytest

from service.database.one_thread import OneThread
from tests.clock import PATIENCE_SECONDS


@pytest.fixture
async def thread():
    """A thread, closed after the test."""
    thread = OneThread("the-thread")
    yield thread
    await thread.close()


async def test_calls_run_in_one_thread_in_their_order(thread):
    """All calls run in the thread of that name, the first one first."""
    order = []

    def note(number, *, factor):
        order.append((threading.current_thread().name, number * factor))
        return number

    assert [1, 2, 3] == await asyncio.gather(*(thread.run(note, n, factor=10) for n in (1, 2, 3)))
    assert [("the-thread", 10), ("the-thread", 20), ("the-thread", 30)] == order


async def test_an_exception_is_that_of_the_call(thread):
    """Whoever waits receives the exception, and the next call runs."""

    def fail():
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        await thread.run(fail)
    assert 3 == await thread.run(int, "3")


async def test_a_call_that_was_cancelled_before_it_began_is_left_out(thread):
    """Nothing is written for a caller that has gone; the calls behind it run."""
    may_end, ran = threading.Event(), []
    first = thread.run(may_end.wait, PATIENCE_SECONDS)
    cancelled, last = thread.run(ran.append, "cancelled"), thread.run(ran.append, "last")

    cancelled.cancel()
    may_end.set()
    await asyncio.gather(first, last)

    assert ["last"] == ran


async def test_a_call_that_is_cancelled_while_it_runs_disturbs_no_other(thread):
    """Its result is dropped; the call behind it gets its own."""
    has_begun, may_end = threading.Event(), threading.Event()

    def wait():
        has_begun.set()
        return may_end.wait(PATIENCE_SECONDS)

    running, last = thread.run(wait), thread.run(int, "3")
    assert await asyncio.to_thread(has_begun.wait, PATIENCE_SECONDS)

    running.cancel()
    may_end.set()

    assert 3 == await last


async def test_closing_waits_for_the_calls(thread):
    """What was begun is finished; a thread that never began can be closed too."""
    await OneThread("unused").close()
    other, ran = OneThread("other"), []
    pending = other.run(ran.append, 1)

    await other.close()

    assert [1] == ran
    await pending


async def test_nothing_of_a_call_is_kept(thread):
    """While the thread waits for the next call, the last one's arguments can be freed."""

    class Argument:
        pass

    argument = Argument()
    reference = weakref.ref(argument)
    await thread.run(id, argument)
    del argument
    # This call begins once the other one has been left.
    await thread.run(int, "1")
    gc.collect()

    assert reference() is None
