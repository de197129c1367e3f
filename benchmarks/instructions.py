"""
`python -m benchmarks.instructions`: instructions of the service for one delivered invoice.

Instructions do not depend on the machine and on what else it does. The service starts under
callgrind, which counts once it is warm; what it does meanwhile without an invoice is measured
apart, and subtracted. A database server is not counted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.errors import BenchmarkError
from benchmarks.folders import temporary_folder
from benchmarks.load import CONNECTIONS
from benchmarks.machine import SERVICE_CORES, description
from benchmarks.processes import HOST, free_port, python, started, wait_until_listening
from benchmarks.receiver import Receiver, receiving
from benchmarks.services import BARE_FLOOR, OURS, Service
from benchmarks.stores import Store, opened_stores

PROGRAMS = ("valgrind", "callgrind_control")
"""What has to be installed; both are of the package valgrind."""

MEASURED = (BARE_FLOOR, *OURS)
_NAMES = tuple(one.name for one in MEASURED)
COUNTS = {CONNECTIONS: 600, 1: 100}
"""
How many invoices are counted, by how many connections send them: alone, none shares anything.

As many go before them: SQLite prepares a statement for each number of rows that comes.
"""

IDLE_SECONDS = 10
SETTLE_SECONDS = 1.0
"""How long after its last callback a service may still record something."""

START_SECONDS = 300
"""Under callgrind a service starts twenty times as slowly."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A service that runs under callgrind; each part of its counts is a file in *folder*."""

    service: Service
    process: subprocess.Popen[bytes]
    port: int
    folder: Path


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(_NAMES),
    help="One of the services; may be given several times.",
)
def main(only: tuple[str, ...]) -> None:
    """Count the instructions of the service and of the bare floor for one delivered invoice."""
    if missing := missing_programs():
        sys.exit(f"not installed: {', '.join(missing)} (apt-get install valgrind)")
    for name, told in description().items():
        click.echo(f"* {name}: {told}")
    click.echo(f"\n| thousand instructions each | {CONNECTIONS} connections | one connection |")
    click.echo("|---|--:|--:|")
    has_failed = False
    with temporary_folder() as folder, receiving(folder) as receiver, opened_stores(folder) as all_:
        for service in (one for one in MEASURED if one.name in (only or _NAMES)):
            try:
                figures = [
                    f"{count(service, all_[service.store], receiver, connections):,.0f}"
                    for connections in COUNTS
                ]
            except BenchmarkError as error:
                figures, has_failed = [str(error)], True
            click.echo(f"| {service.name} | {' | '.join(figures)} |")
    sys.exit(has_failed)


def missing_programs() -> list[str]:
    """The programs that are needed and not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def count(service: Service, store: Store, receiver: Receiver, connections: int) -> float:
    """Thousands of instructions for one invoice that *service* accepts and delivers."""
    invoices = COUNTS[connections]
    with temporary_folder() as folder, store.empty(folder) as url:
        with _under_callgrind(service, url, folder) as counted:
            _deliver(counted, receiver, "warm", invoices, connections)
            with _counting(counted, "busy") as busy:
                _deliver(counted, receiver, "busy", invoices, connections)
                time.sleep(SETTLE_SECONDS)
            with _counting(counted, "idle") as idle:
                time.sleep(IDLE_SECONDS)
        share = busy.seconds / idle.seconds
        return (counted_in(folder, 1) - share * counted_in(folder, 2)) / invoices / 1000


def counted_in(folder: Path, part: int) -> int:
    """The instructions of all threads in one *part* of the files of callgrind, from 1."""
    files = folder.glob(f"callgrind.{part}-*")
    totals = [re.search(r"^totals: (\d+)", one.read_text(errors="replace"), re.M) for one in files]
    if not totals:
        raise BenchmarkError(f"callgrind has written no part {part}")
    return sum(int(found[1]) for found in totals if found)


@dataclass(slots=True)
class Span:
    """How long was counted."""

    seconds: float = 0.0


@contextmanager
def _counting(counted: Counted, name: str) -> Iterator[Span]:
    """Count what happens in the block, as a part of its own."""
    span, began = Span(), time.monotonic()
    _control(counted, "--instr=on")
    yield span
    _control(counted, "--instr=off")
    _control(counted, f"--dump={name}")
    span.seconds = time.monotonic() - began


def _control(counted: Counted, command: str) -> None:
    done = subprocess.run(
        ["callgrind_control", command, str(counted.process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"callgrind_control {command}: {done.stdout}{done.stderr}")


@contextmanager
def _under_callgrind(service: Service, url: str, folder: Path) -> Iterator[Counted]:
    port, log = free_port(), folder / "service.log"
    command = [
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"),
        f"--callgrind-out-file={folder}/callgrind",
        *python(service.module, *service.arguments),
    ]
    env = {
        "PYTHONHASHSEED": "0",
        "INVOICES_PORT": str(port),
        "INVOICES_DATABASE_URL": url,
        "INVOICES_LOG_FORMAT": "json",
        "INVOICES_DRAIN_TIMEOUT": "1s",
        # As many as connections send: otherwise the rest waits in the database meanwhile.
        "INVOICES_CALLBACK_CONCURRENCY": str(CONNECTIONS),
        "INVOICES_ORIGIN_CONCURRENCY": str(CONNECTIONS),
        **service.settings,
    }
    with started(command, log, cores=SERVICE_CORES, env=env) as process:
        wait_until_listening(process, port, log, patience_seconds=START_SECONDS)
        yield Counted(service, process, port, folder)


def _deliver(
    counted: Counted, receiver: Receiver, run: str, invoices: int, connections: int
) -> None:
    """Send *invoices* over so many *connections*, and wait until all were delivered."""
    name = f"{run}{counted.port}"
    result, log = counted.folder / f"{run}.json", counted.folder / f"{run}.log"
    path = f"/invoices/?callback_url={receiver.url}"
    arguments: Sequence[object] = (counted.port, connections, 0, result, name, invoices, path)
    with started(python("benchmarks.own_load", *arguments), log) as load:
        if load.wait(START_SECONDS):
            raise BenchmarkError(f"{HOST}:{counted.port} has refused invoices")
    receiver.wait_for(name, invoices, stalled_seconds=START_SECONDS)


if __name__ == "__main__":
    main()
