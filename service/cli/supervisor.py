"""
The parent of several workers that share one port.

Each worker is the service as a single process would be; the kernel divides the connections
among them. A worker that ends by itself is started again.
"""

import asyncio
import logging
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence

from service.cli.accounts import create_first_account
from service.cli.database import wait_for_database
from service.cli.event_loop import stop_signal, wait_until_set
from service.cli.statuses import WRONG_USAGE
from service.settings import Settings
from service.telemetry.workers import SHARED_FOLDER, forget_worker
from service.web.addresses import SETTINGS, listening_sockets

log = logging.getLogger("invoices.workers")

RESTART_SECONDS = 1
"""The delay before a worker is started again, so that a start that fails is no busy loop."""


async def supervise(
    settings: Settings, arguments: Sequence[str], count: int, *, is_development: bool
) -> int:
    """
    Keep *count* processes of `python -m service` with *arguments*, until SIGTERM or SIGINT.

    Returns:
        The exit status of a worker that cannot start, else the first one that is not 0, else 0.

    Raises:
        AddressError: if an address cannot be listened on.
    """
    # Workers could share the port with a program that listens on it already.
    for one in listening_sockets(settings.host, settings.port, SETTINGS):
        one.close()
    stop = stop_signal()
    if not await wait_for_database(settings, stop):
        return 0
    if not is_development:
        # Not in a worker: the first key is printed, and the output of workers is discarded.
        await create_first_account(settings)
    # Workers share their metrics in this folder, so that each can expose those of all workers.
    with tempfile.TemporaryDirectory(prefix="invoices-metrics-") as folder:
        async with asyncio.TaskGroup() as group:
            workers = [
                group.create_task(_keep_running(number, arguments, folder, stop))
                for number in range(count)
            ]
    statuses = [worker.result() for worker in workers]
    # A worker that cannot start has stopped the others, however these have ended then.
    return WRONG_USAGE if WRONG_USAGE in statuses else next(filter(None, statuses), 0)


async def _keep_running(
    number: int, arguments: Sequence[str], folder: str, stop: asyncio.Event
) -> int:
    """Run a worker, and start it again when it ends; the exit status of the last one."""
    while True:
        worker = await asyncio.create_subprocess_exec(
            # -P: a file of the working directory must not replace a module of ours.
            *(sys.executable, "-P", "-m", "service", *arguments, "--as-worker", str(number)),
            # The worker stops when this pipe is closed, even if this process is killed.
            stdin=PIPE,
            stdout=DEVNULL,
            env={**os.environ, SHARED_FOLDER: folder},
        )
        status = await _wait(worker, stop)
        # Gauges of a worker that has ended are dropped; its counters stay.
        forget_worker(number, folder)
        if stop.is_set() or status == WRONG_USAGE:
            stop.set()
            return status
        log.error("worker.ended", extra={"fields": {"pid": worker.pid, "status": status}})
        await wait_until_set(stop, RESTART_SECONDS)


async def _wait(worker: Process, stop: asyncio.Event) -> int:
    """Wait until *worker* ends, and end it once *stop* is set; its exit status."""
    stopping = asyncio.create_task(stop.wait())
    ending = asyncio.create_task(worker.wait())
    await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if worker.stdin and not ending.done():
        # Not with a signal: a Ctrl-C has reached the worker already, and a second signal would
        # end it without draining.
        worker.stdin.close()
    return await ending
