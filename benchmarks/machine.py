"""What the measurements run on: its cores, its clocks, and what the kernel counts of a process."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError

_CORES = sorted(os.sched_getaffinity(0))
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

SERVICE_CORES = {_CORES[0]}
"""Where the measured service runs, alone if there is another core for the rest."""

OTHER_CORES = {_CORES[1]} if len(_CORES) > 1 else SERVICE_CORES
"""Where load generator, receiver, database server and the benchmark itself run."""


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Processes that are started inside run on *cores*, and so do all that they start."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """
    The processor time of *pid* and of all that it started; noise of others is not in it.

    Raises:
        BenchmarkError: if the process has ended.
    """
    return sum(map(_cpu_seconds, _family(pid)))


def busy_seconds(cores: set[int]) -> float:
    """The time that *cores* have spent computing, for whomever (proc(5): /proc/stat)."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *columns = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / _TICKS_PER_SECOND


def peak_bytes(pid: int) -> int:
    """The most memory that *pid* and what it started ever occupied, each by itself."""
    return sum(_peak_bytes(one.pid) for one in _family(pid))


def description() -> dict[str, str]:
    """What a reader has to know of the machine to judge its figures."""
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": f"{len(_CORES)}; service on {_CORES[0]}, the rest on {min(OTHER_CORES)}",
        "memory": f"{_memory_gib():.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "database folder": f"{tempfile.gettempdir()} on {_filesystem(tempfile.gettempdir())}",
        "load average before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


@dataclass(frozen=True, slots=True)
class _Process:
    """A process; *ticks_of_ended* are those of children that it has waited for."""

    pid: int
    parent: int
    ticks_of_ended: int


def _family(pid: int) -> list[_Process]:
    """*pid* and what descends from it."""
    processes = {one.pid: one for one in _processes()}
    if pid not in processes:
        raise BenchmarkError("the process that was measured has ended")
    family, size = {pid}, 0
    while len(family) > size:
        size = len(family)
        family |= {one.pid for one in processes.values() if one.parent in family}
    return [processes[one] for one in family]


def _cpu_seconds(one: _Process) -> float:
    # The clock of a process, as clock_getcpuclockid(3) makes it: /proc shows hundredths of seconds.
    clock = ~one.pid << 3 | 2
    try:
        own = time.clock_gettime(clock)
    except OSError:
        # It has ended, and handed its time to its parent.
        own = 0.0
    return own + one.ticks_of_ended / _TICKS_PER_SECOND


def _processes() -> Iterator[_Process]:
    for folder in Path("/proc").iterdir():
        # One that ends while we look has handed its time to its parent.
        with suppress(FileNotFoundError, ProcessLookupError):
            if folder.name.isdecimal():
                # The name in parentheses may hold blanks, so count behind it (proc(5)).
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                yield _Process(int(folder.name), int(fields[1]), sum(map(int, fields[13:15])))


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _filesystem(folder: str) -> str:
    """The type of the file system; on tmpfs a synchronised commit costs nothing."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(point, kind) for point, kind in mounts if Path(folder).is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]
