"""Starts the other processes of a benchmark, waits until they listen, and stops them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.machine import OTHER_CORES, on_cores

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 30
TOLD_LINES = 5
TOLD_CHARACTERS = 500

_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class User:
    """An account of this machine that a process can be run as."""

    name: str
    uid: int
    gid: int


@contextmanager
def started(
    command: Sequence[str],
    log: Path,
    *,
    cores: set[int] = OTHER_CORES,
    env: Mapping[str, str] | None = None,
    user: User | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """
    A process on *cores* with its output in *log*; it is gone at the end of the block.

    It is told to stop even where the benchmark is killed and never comes to the end. A *user*
    may not be allowed into the project, so its processes start in the folder of their log.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INVOICES_")}
    with log.open("ab") as output, on_cores(cores):
        process = subprocess.Popen(
            command,
            cwd=log.parent if user else ROOT,
            env={**clean, **(env or {})},
            stdout=output,
            stderr=output,
            # There are no threads here, in which this would be unsafe.
            preexec_fn=_dying_with_us(stop_signal),  # noqa: PLW1509
            **run_as(user),
        )
    try:
        yield process
    finally:
        _stop(process, stop_signal)


def run_as(user: User | None) -> dict[str, Any]:
    """The arguments of `Popen` and `run` that make a process *user*'s; none if it is None."""
    return {"user": user.uid, "group": user.gid, "extra_groups": ()} if user else {}


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs *module* with this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def wait_until_listening(
    process: subprocess.Popen[bytes],
    port: int,
    log: Path,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """
    Return once *process* takes connections on *port*.

    Raises:
        BenchmarkError: with the end of its *log*, if it does not or has ended.
    """
    give_up_at = time.monotonic() + patience_seconds
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkError(f"does not listen: {last_lines(log)}")


def last_lines(log: Path) -> str:
    """The end of what a process has said, on one line."""
    lines = log.read_text(errors="replace").splitlines()[-TOLD_LINES:]
    return " / ".join(lines)[-TOLD_CHARACTERS:] or "no output"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def refusing_url() -> Iterator[str]:
    """Where a receiver that is down would be: connections are refused as long as the block runs."""
    with socket.socket() as held:
        # Bound and never listened on: nobody else can get the port and answer there.
        held.bind((HOST, 0))
        yield f"http://{HOST}:{held.getsockname()[1]}"


def _dying_with_us(stop_signal: signal.Signals) -> Callable[[], None]:
    def ask() -> None:
        _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, int(stop_signal))

    return ask


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    process.send_signal(stop_signal)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
