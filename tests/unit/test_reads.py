"""Reads of accounts: few at a time, and answers of bounded size made outside the event loop."""

from __future__ import annotations

import asyncio
import threading

import orjson
import pytest

from schemas.health import HealthSchema
from service.api import reads as reads_module
from service.api.reads import ITEMS_ON_LOOP, READS_PER_ACCOUNT, Reads
from service.errors import TooManyRequests


@pytest.fixture
def reads():
    """The reads of all accounts."""
    reads = Reads()
    yield reads
    reads.close()


class Reading:
    """Reads of accounts that last until `end`."""

    def __init__(self, reads):
        self._reads = reads
        self._may_end = asyncio.Event()
        self.running = []

    async def begin(self, account_id):
        """A read of the account, which has its turn or waits."""
        task = asyncio.create_task(self._read(account_id))
        await asyncio.sleep(0)
        return task

    def end(self):
        """Let all reads end."""
        self._may_end.set()

    async def _read(self, account_id):
        async with self._reads.turn(account_id):
            self.running.append(account_id)
            await self._may_end.wait()


async def test_an_account_has_two_reads_at_a_time(reads):
    """Further reads of the account wait until one has ended; other accounts do not wait."""
    reading = Reading(reads)
    tasks = [await reading.begin("a") for _ in range(READS_PER_ACCOUNT + 3)]
    tasks.append(await reading.begin("b"))

    assert ["a"] * READS_PER_ACCOUNT + ["b"] == reading.running

    reading.end()
    await asyncio.gather(*tasks)
    assert READS_PER_ACCOUNT + 4 == len(reading.running)


async def test_a_read_beside_many_that_wait_is_refused(reads, monkeypatch):
    """If too many reads of the account wait, the next is refused, with a reason."""
    monkeypatch.setattr(reads_module, "WAITING_MAX", 1)
    reading = Reading(reads)
    tasks = [await reading.begin("a") for _ in range(READS_PER_ACCOUNT + 1)]

    with pytest.raises(TooManyRequests, match="reads too much at once"):
        await (await reading.begin("a"))

    reading.end()
    await asyncio.gather(*tasks)
    async with reads.turn("a"):
        pass


async def test_a_read_that_waits_for_too_long_is_refused(reads, monkeypatch):
    """A read waits for its turn for a limited time; the next one can still wait."""
    monkeypatch.setattr(reads_module, "WAIT_SECONDS", 0)
    reading = Reading(reads)
    tasks = [await reading.begin("a") for _ in range(READS_PER_ACCOUNT)]

    for _ in range(2):
        with pytest.raises(TooManyRequests):
            await (await reading.begin("a"))

    reading.end()
    await asyncio.gather(*tasks)


async def test_a_turn_ends_with_an_error(reads):
    """A read that fails gives its turn to the next one."""
    for _ in range(READS_PER_ACCOUNT + 1):
        with pytest.raises(LookupError):
            async with reads.turn("a"):
                raise LookupError


async def test_a_page_ends_before_it_is_too_large(reads, monkeypatch):
    """A page has the items that fit, at least one, and the cursor of the last of them."""
    rows = [{"id": str(number)} for number in range(5)]
    size = len(orjson.dumps(rows[0]))

    for most, expected in ((5 * size, (5, "next")), (3 * size, (3, "2")), (0, (1, "0"))):
        monkeypatch.setattr(reads_module, "PAGE_BYTES", most)
        page = orjson.loads((await reads.answer_page(dict, rows, "next")).body)
        assert expected == (len(page["items"]), page["next"])


@pytest.mark.parametrize(("count", "is_here"), [(ITEMS_ON_LOOP, True), (ITEMS_ON_LOOP + 1, False)])
async def test_large_answers_are_made_outside_the_event_loop(reads, count, is_here):
    """An answer of many parts does not occupy the event loop."""
    threads = set()

    def dump(row):
        threads.add(threading.current_thread())
        return row

    await reads.answer_page(dump, [{"id": "1"}] * count, None)

    assert [is_here] == [thread is threading.current_thread() for thread in threads]


async def test_one_row_is_dumped_by_its_schema(reads):
    """The answer with one row is the JSON of its schema, with the status."""
    answer = await reads.answer(HealthSchema(), {"status": "ok", "more": 1}, status=202)

    assert (202, b'{"status":"ok"}') == (answer.status, answer.body)
