"""The memory of the service while deliveries pile up for a receiver that is down."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.machine import resident_bytes
from benchmarks.processes import HOST, free_port
from benchmarks.rows import fill
from benchmarks.services import Service, running
from benchmarks.stores import STORES


def measure_memory(service: Service, folder: Path, pending_count: int, seconds: float) -> float:
    """
    The most MiB that *service* occupied in *seconds* with *pending_count* due deliveries.

    All of them are attempted and fail, since nobody listens; none is delivered.
    """
    assert service.store is not None
    database_url = STORES[service.store](folder)
    asyncio.run(fill(database_url, pending_count, f"http://{HOST}:{free_port()}"))
    with running(service, folder, database_url) as target:
        time.sleep(seconds)
        return resident_bytes(target.pid, peak=True) / 2**20
