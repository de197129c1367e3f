"""One timer ends everything that takes too long, as a timeout of its own would."""

import asyncio

import pytest

from service.delivery.deadline import Deadline

SHORT_SECONDS = 0.02
LONG_SECONDS = 60


async def forever():
    """Wait without end."""
    await asyncio.Event().wait()


async def test_what_ends_in_time_gives_its_result():
    """What ends in time is not disturbed, and nothing of it is kept."""
    deadline = Deadline(LONG_SECONDS)

    assert ["a", "b"] == [
        await deadline.keep(asyncio.sleep(0, "a")),
        await deadline.keep(asyncio.sleep(0, "b")),
    ]
    assert not deadline._ends
    deadline.close()


async def test_what_takes_too_long_is_cancelled():
    """At the deadline the work is cancelled and TimeoutError raised; its task goes on."""
    deadline, seen = Deadline(SHORT_SECONDS), []

    async def work():
        try:
            await forever()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        await deadline.keep(work())

    assert ["cancelled"] == seen
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()
    assert "after" == await asyncio.sleep(0, "after")


async def test_each_task_has_a_deadline_of_its_own():
    """Of many that began one after the other, all end; one timer is enough."""
    deadline = Deadline(SHORT_SECONDS)
    kept = [asyncio.ensure_future(deadline.keep(forever())) for _ in range(20)]

    assert [TimeoutError] * 20 == [
        type(one) for one in await asyncio.gather(*kept, return_exceptions=True)
    ]
    assert "later" == await deadline.keep(asyncio.sleep(0, "later"))
    deadline.close()


async def test_a_cancellation_from_outside_stays_one():
    """Whoever cancels the task gets CancelledError, before the deadline and at it."""
    deadline = Deadline(LONG_SECONDS)
    task = asyncio.ensure_future(deadline.keep(forever()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    task = asyncio.ensure_future(deadline.keep(forever()))
    await asyncio.sleep(0)
    deadline._ends[task] = 0
    deadline._expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline.close()


async def test_another_error_at_the_deadline_is_raised():
    """Work that answers its cancellation with an error raises that, and its task goes on."""
    deadline = Deadline(SHORT_SECONDS)

    async def work():
        try:
            await forever()
        except asyncio.CancelledError:
            raise OSError from None

    with pytest.raises(OSError):
        await deadline.keep(work())

    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()
