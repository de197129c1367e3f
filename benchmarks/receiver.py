"""
The receiver that everything is delivered to: nginx where installed, else a small one of ours.

Either writes one line for each callback, the time and the path, so that one reader serves both:
what arrived, and when, is known to the receiver alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.processes import HOST, free_port, python, started, wait_until_listening

STALLED_SECONDS = 20
"""How long nothing at all may arrive before the rest is given up."""

LOOK_SECONDS = 0.05

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.error;
events {{ worker_connections 8192; }}
http {{
    log_format arrivals '$msec $request_uri';
    access_log {folder}/arrivals arrivals buffer=64k flush=100ms;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000; keepalive_timeout 300s; default_type application/json;
    server {{
        listen {port} backlog=4096;
        location / {{ return 200 '{{"ok": true}}'; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Receiver:
    """
    A receiver that runs; *kind* is what it is made of.

    Its clock shows whole *tick_seconds*, so half of them are added to what it has noted.
    """

    kind: str
    url: str
    arrivals: Path
    tick_seconds: float = 0.0

    def wait_for(
        self, run: str, count: int, *, stalled_seconds: float = STALLED_SECONDS
    ) -> dict[str, float]:
        """
        When each invoice of *run* arrived first, once *count* of them have.

        Raises:
            BenchmarkError: if none arrived for *stalled_seconds* and some are missing.
        """
        arrived: dict[str, float] = {}
        progress_at = time.monotonic()
        with self.arrivals.open() as lines:
            unfinished = ""
            while len(arrived) < count:
                text = unfinished + lines.read()
                complete, _, unfinished = text.rpartition("\n")
                before = len(arrived)
                self._note(arrived, complete, f"/invoices/{run}-")
                if len(arrived) > before:
                    progress_at = time.monotonic()
                elif time.monotonic() - progress_at > stalled_seconds:
                    told = f"{len(arrived)} of {count} were delivered"
                    raise BenchmarkError(f"{told}, then none for {stalled_seconds:g} s")
                time.sleep(LOOK_SECONDS)
        return arrived

    def _note(self, arrived: dict[str, float], lines: str, start: str) -> None:
        for line in lines.splitlines():
            at, _, path = line.partition(" ")
            if path.startswith(start):
                name = path.removeprefix("/invoices/")
                arrived.setdefault(name, float(at) + self.tick_seconds / 2)


@contextmanager
def receiving(folder: Path, *, delay_seconds: float = 0) -> Iterator[Receiver]:
    """
    A receiver that answers every POST with 200 and `{"ok": true}`, after *delay_seconds*.

    It is ours where a delay is asked for: nginx alone answers at once.
    """
    port, nginx, log = free_port(), shutil.which("nginx"), folder / "receiver.log"
    arrivals = folder / "arrivals"
    arrivals.touch()
    if nginx and not delay_seconds:
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=folder, port=port))
        command = [nginx, "-e", str(folder / "nginx.error"), "-c", str(configuration)]
        kind, tick_seconds = "nginx", 0.001
    else:
        command = python("benchmarks.own_receiver", port, arrivals, delay_seconds)
        kind, tick_seconds = "ours", 0.0
    with started(command, log) as process:
        wait_until_listening(process, port, log)
        yield Receiver(kind, f"http://{HOST}:{port}", arrivals, tick_seconds)
