"""The service as a process of its own, as users run it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a service in development mode, with its database in *folder*."""
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if "INVOICES_" not in name}
    environment |= {
        "INVOICES_PORT": str(port),
        "INVOICES_DATABASE_URL": f"sqlite:///{folder / 'invoices.db'}",
        "INVOICES_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "service", "serve", "--dev"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _await_start(process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)


def _await_start(process: subprocess.Popen[str]) -> None:
    assert process.stderr
    told = []
    for line in process.stderr:
        told.append(line)
        if "service.started" in line:
            return
    raise AssertionError("The service did not start:\n" + "".join(told))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
