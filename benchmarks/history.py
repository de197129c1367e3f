"""What a delivery costs once many others are in the database, compared with a few."""

from __future__ import annotations

from benchmarks.bursts import Delivered, Target, measure_deliveries
from benchmarks.folders import temporary_folder
from benchmarks.part import Figures, Setting
from benchmarks.receiver import Receiver
from benchmarks.rows import Rows
from benchmarks.services import running

SECONDS = 3
"""Short, so that what is delivered meanwhile does not become a history of its own."""


def history(at: Setting) -> Figures:
    """Processor time and rate with little and with much history, and how they compare."""
    few, many = at.history_counts
    order = (many, few) if at.is_reversed else (few, many)
    found = {count: _measure(at, count) for count in order}
    for count in (few, many):
        words = f"{count:,} delivered before"
        yield f"CPU ms each, database server's included, {words}", _cpu_ms(found[count])
        yield f"delivered/s, {words}", found[count].per_second
    words = f"with {many:,} over with {few:,}"
    yield f"CPU ms each, {words}", _cpu_ms(found[many]) / _cpu_ms(found[few])
    yield f"delivered/s, {words}", found[many].per_second / found[few].per_second


def delivered_rows(count: int, receiver: Receiver) -> Rows:
    """Invoices with their event, their delivery to *receiver*, and its only attempt."""
    return Rows("delivered", count, receiver.url, is_delivered=True)


def _measure(at: Setting, count: int) -> Delivered:
    """Deliveries of a service whose database holds *count* delivered invoices."""
    rows = delivered_rows(count, at.receiver)
    with (
        temporary_folder() as folder,
        at.store.filled(rows, folder) as url,
        running(at.service, folder, url) as target,
    ):
        return measure_deliveries(Target(target, at.store, at.receiver), SECONDS)


def _cpu_ms(delivered: Delivered) -> float:
    return delivered.cpu_ms_each + delivered.server_cpu_ms_each
