"""
What a delivery costs two workers of one service, compared with one that does everything.

They share the core of the service, so their rate says nothing; the processor time for a delivery
shows what is done twice, and what they share less of: commits above all.
"""

from __future__ import annotations

import time
from dataclasses import replace

from benchmarks.bursts import Delivered, Target, deliver, warm_up
from benchmarks.folders import temporary_folder
from benchmarks.part import Figures, Setting
from benchmarks.services import running

START_SECONDS = 4
"""How long the second worker may take to start after the first one listens."""

COUNT = 3_000


def workers(at: Setting) -> Figures:
    """Processor time for a delivery with one worker and with two, and how they compare."""
    order = (2, 1) if at.is_reversed else (1, 2)
    found = {number: _measure(at, number) for number in order}
    one, two = found[1], found[2]
    yield "CPU ms each, one worker", one.cpu_ms_each
    yield "CPU ms each, two workers", two.cpu_ms_each
    yield "CPU ms each, two workers over one", two.cpu_ms_each / one.cpu_ms_each
    yield "database server's CPU ms each, one worker", one.server_cpu_ms_each
    yield "database server's CPU ms each, two workers", two.server_cpu_ms_each


def _measure(at: Setting, number: int) -> Delivered:
    arguments = (*at.service.arguments, "--workers", str(number))
    service = replace(at.service, arguments=arguments)
    with (
        temporary_folder() as folder,
        at.store.empty(folder) as url,
        running(service, folder, url) as started,
    ):
        time.sleep(START_SECONDS)
        target = Target(started, at.store, at.receiver)
        warm_up(target, 1)
        return deliver(target, COUNT)
