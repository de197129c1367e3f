"""Starts the other processes of a benchmark, waits until they listen, and stops them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.machine import OTHER_CORES, on_cores

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 30
TOLD_LINES = 5


@contextmanager
def started(
    command: Sequence[str],
    log: Path,
    *,
    cores: set[int] = OTHER_CORES,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on *cores* with its output in *log*; it is gone at the end of the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INVOICES_")}
    with log.open("ab") as output, on_cores(cores):
        process = subprocess.Popen(
            command, cwd=ROOT, env={**clean, **(env or {})}, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        _stop(process)


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs *module* with this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """
    Return once *process* takes connections on *port*.

    Raises:
        BenchmarkError: with the end of its *log*, if it does not or has ended.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
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
    return " / ".join(log.read_text(errors="replace").splitlines()[-TOLD_LINES:]) or "no output"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
