"""
Several processes on one port, and one that looks after them.

Each worker is the service as a single process would be; the kernel divides the connections
among them. A worker that ends by itself is started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass

from service.cli.database import reach_database
from service.cli.serve import stop_signal, welcome
from service.settings import Settings
from service.telemetry.figures import SHARED_FOLDER, forget_worker

log = logging.getLogger("invoices.workers")

RESTART_SECONDS = 1
"""How long a worker that ended is not replaced, so that a bad start is no busy loop."""

WRONG_USAGE = 2
"""How a process ends that cannot be started like this; starting it again changes nothing."""


async def supervise(
    settings: Settings, arguments: Sequence[str], count: int, *, is_development: bool
) -> int:
    """
    Keep *count* processes of `python -m service` with *arguments*, until told to stop.

    Returns:
        The first exit status that was not 0, of workers that ended because they were told to.

    Raises:
        OSError: if the address cannot be listened on.
    """
    _check_address(settings.host, settings.port)
    stop = stop_signal()
    if not await reach_database(settings, stop):
        return 0
    if not is_development:
        # Here and not in a worker: what they print goes nowhere, a first key included.
        await welcome(settings)
    # Where workers keep what they count: whichever of them is asked, it tells for all.
    with tempfile.TemporaryDirectory(prefix="invoices-metrics-") as folder:
        async with asyncio.TaskGroup() as group:
            seats = [Seat(number, arguments, folder) for number in range(count)]
            workers = [group.create_task(_keep(seat, stop)) for seat in seats]
    return next((status for worker in workers if (status := worker.result())), 0)


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker of a number, and the next one when it has ended."""

    number: int
    arguments: Sequence[str]
    folder: str

    async def start(self) -> Process:
        """A new worker."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", *self.arguments, "--as-worker", str(self.number)),
            # It ends with this process, however that ends.
            stdin=PIPE,
            stdout=DEVNULL,
            env={**os.environ, SHARED_FOLDER: self.folder},
        )

    def clear(self) -> None:
        """Forget what was the case in a worker that has ended; what it has counted stays."""
        forget_worker(self.number, self.folder)


async def _keep(seat: Seat, stop: asyncio.Event) -> int:
    """One worker, again and again; the status with which the last one ended."""
    while True:
        worker = await seat.start()
        status = await _ended(worker, stop)
        seat.clear()
        if stop.is_set() or status == WRONG_USAGE:
            stop.set()
            return status
        log.error("worker.ended", extra={"fields": {"pid": worker.pid, "status": status}})
        await _pause(stop)


async def _ended(worker: Process, stop: asyncio.Event) -> int:
    """The exit status of *worker*, which is told to end when we are."""
    telling = asyncio.create_task(stop.wait())
    waiting = asyncio.create_task(worker.wait())
    await asyncio.wait((telling, waiting), return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    if worker.stdin and not waiting.done():
        # It stops with its input. Whoever told us may have told it as well, as a Ctrl-C does,
        # and to a signal of ours, its second one, it would end on the spot.
        worker.stdin.close()
    return await waiting


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(RESTART_SECONDS):
            await stop.wait()
    except TimeoutError:
        pass


def _check_address(host: str, port: int) -> None:
    """Workers share their port with whoever asks for it: somebody else's must not be joined."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {reason}") from None
