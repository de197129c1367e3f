"""
Sends invoices: as fast as they are answered, or at a steady rate.

As fast as possible is wrk's work where it is installed. A steady rate is always ours: it goes on
whatever the service does, and remembers when each invoice was answered.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from benchmarks.errors import BenchmarkError
from benchmarks.processes import HOST, last_lines, python, started

CONNECTIONS = 64
SCRIPT = Path(__file__).with_name("wrk.lua")
GIVE_UP_SECONDS = 90

KIND = "wrk" if shutil.which("wrk") else "ours"
"""What sends as fast as possible."""


@dataclass(frozen=True, slots=True)
class Load:
    """
    What was sent: when the first and the last answer came.

    Where that is known, also when each invoice was *sent* and *answered*.
    """

    first_at: float
    last_at: float
    refused_count: int
    sent: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """
    Send *count* invoices with ids that begin with *run* to *url*.

    *callback_urls* take turns; without one nobody is called. A *rate* is per second; without
    one, each connection sends its next invoice when the one before is answered.
    """

    url: str
    run: str
    count: int
    callback_urls: tuple[str, ...] = ()
    rate: float | None = None


def send(order: Order, folder: Path) -> Load:
    """
    Send what *order* says and wait for the answers.

    Raises:
        BenchmarkError: if any was not accepted.
    """
    result, log = folder / f"load-{order.run}.json", folder / "load.log"
    paths = [f"/invoices/?callback_url={quote(url, safe='')}" for url in order.callback_urls]
    arguments = [result, order.run, order.count, *(paths or ["/invoices/"])]
    if order.rate is None and KIND == "wrk":
        command = _wrk(order, arguments)
    else:
        port, rate = urlsplit(order.url).port, order.rate or 0
        command = python("benchmarks.own_load", port, CONNECTIONS, rate, *arguments)
    with started(command, log) as process:
        _wait(process, order.url)
    return _read(result, log)


def _wrk(order: Order, arguments: list[object]) -> list[str]:
    # The script ends wrk when all is answered; the duration is only the net under it.
    limits = ("-t1", f"-c{CONNECTIONS}", f"-d{GIVE_UP_SECONDS}s", "--timeout", "60s")
    return ["wrk", *limits, "-s", str(SCRIPT), order.url, "--", *map(str, arguments)]


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < give_up_at:
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            # wrk would try for ever to connect to a service that has ended.
            _check_listening(url)
        else:
            return
    raise BenchmarkError(f"invoices were not answered within {GIVE_UP_SECONDS} s")


def _check_listening(url: str) -> None:
    try:
        socket.create_connection((HOST, urlsplit(url).port or 0), timeout=1).close()
    except ConnectionRefusedError:
        raise BenchmarkError("the service takes no connections any more") from None
    except OSError:
        # Busy, which is what we make it.
        return


def _read(result: Path, log: Path) -> Load:
    if not result.exists():
        raise BenchmarkError(f"the load generator failed: {last_lines(log)}")
    load = Load(**json.loads(result.read_text()))
    if load.refused_count:
        raise BenchmarkError(f"{load.refused_count} invoices were refused")
    return load
