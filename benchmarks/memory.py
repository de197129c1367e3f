"""The memory of the service while deliveries pile up for a receiver that is down."""

from __future__ import annotations

import time

from benchmarks.folders import temporary_folder
from benchmarks.machine import peak_bytes
from benchmarks.part import Figures, Setting
from benchmarks.rows import Rows
from benchmarks.services import running

SECONDS = 10
"""Enough for a first attempt of everything that gets a slot."""


def memory(at: Setting) -> Figures:
    """The memory with each number of due deliveries, and how much more the most are than none."""
    occupied = {}
    for count in at.pending_counts:
        occupied[count] = _measure(at, count)
        yield f"MiB occupied, {count:,} pending", occupied[count]
    fewest, most = min(occupied), max(occupied)
    yield f"MiB more, {most:,} pending than {fewest:,}", occupied[most] - occupied[fewest]


def _measure(at: Setting, pending_count: int) -> float:
    """
    The most MiB that the service occupied with *pending_count* due deliveries.

    All of them are attempted and fail, since nobody listens; none is delivered.
    """
    rows = Rows("pending", pending_count, at.refusing_url)
    with (
        temporary_folder() as folder,
        at.store.filled(rows, folder) as url,
        running(at.service, folder, url) as target,
    ):
        time.sleep(SECONDS)
        return peak_bytes(target.pid) / 2**20
