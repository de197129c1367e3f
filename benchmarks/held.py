"""
What a transaction costs that somebody leaves open on PostgreSQL, such as an analyst's query.

As long as it is open, no version of a row can be removed that was replaced meanwhile: each lease
and each settlement leaves one, and whoever looks for what is due must not have to pass them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import asyncpg

from benchmarks.bursts import Delivered, Target, deliver, warm_up
from benchmarks.folders import temporary_folder
from benchmarks.part import Figures, Setting
from benchmarks.services import running

BEFORE_SECONDS = 5
"""How long the service works with the open transaction, or without, before it is measured."""

MEASURED_COUNT = 3_000
QUERY = "SELECT count(*) FROM deliveries"


def held(at: Setting) -> Figures:
    """The rate and the processor time beside an open transaction, without, and how they compare."""
    order = (False, True) if at.is_reversed else (True, False)
    found = {is_held: _measure(at, is_held=is_held) for is_held in order}
    for is_held, words in ((False, "no open transaction"), (True, "beside an open transaction")):
        yield f"delivered/s, {words}", found[is_held].per_second
    yield "delivered/s, open over none", found[True].per_second / found[False].per_second
    yield "CPU ms each, open over none", _cpu_ms(found[True]) / _cpu_ms(found[False])


def _measure(at: Setting, *, is_held: bool) -> Delivered:
    with (
        temporary_folder() as folder,
        at.store.empty(folder) as url,
        running(at.service, folder, url) as service,
    ):
        target = Target(service, at.store, at.receiver)
        rate = warm_up(target, 1)
        with _open_transaction(url) if is_held else nullcontext():
            deliver(target, int(rate * BEFORE_SECONDS))
            return deliver(target, MEASURED_COUNT)


@contextmanager
def _open_transaction(url: str) -> Iterator[None]:
    """Inside the block, a transaction that has read something waits for its next statement."""
    with asyncio.Runner() as runner:
        connection = runner.run(_begun(url))
        try:
            yield
            # If the server had ended it meanwhile, nothing would have been measured.
            runner.run(connection.fetchval(QUERY))
        finally:
            runner.run(connection.close())


async def _begun(url: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    await connection.fetchval(QUERY)
    return connection


def _cpu_ms(delivered: Delivered) -> float:
    return delivered.cpu_ms_each + delivered.server_cpu_ms_each
