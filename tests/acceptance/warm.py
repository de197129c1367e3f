"""
Starts processes without a new import: `python -m tests.acceptance.warm ADDRESS`.

The import of the service takes a second of a processor, and most of these tests need it several
times. One process imports it once and then forks: each fork runs a module as `python -m` does, in a
session of its own, like any started process. Requests come over a Unix socket, one connection for
each start; the connection becomes the standard error of the new process.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import service.cli.commands  # noqa: F401 -- the slow import, done before the first request

ROOT = Path(__file__).parents[2]
REAPING_SECONDS = 0.01
"""The interval in which ended processes are noticed."""

ENDED = b"ended "
"""The prefix of the last line on a connection; the exit status follows."""


class Warm:
    """Starts processes quickly, in a `with` block, and kills them at its end."""

    def __enter__(self):
        self._folder = Path(mkdtemp(prefix="invoices-warm-"))
        self._address = str(self._folder / "socket")
        self._starter = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.warm", self._address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # The process prints a line when it listens.
        assert self._starter.stdout.readline()
        return self

    def __exit__(self, *_):
        self._starter.communicate()
        shutil.rmtree(self._folder)

    async def start(self, module, *arguments, env):
        """Run a module as a process with the environment *env*."""
        reader, writer = await asyncio.open_unix_connection(self._address)
        request = {"arguments": [module, *arguments], "environment": env}
        writer.write(json.dumps(request).encode() + b"\n")
        pid = int(await reader.readline())
        return WarmProcess(pid, reader, writer)


class WarmProcess:
    """The part of `asyncio.subprocess.Process` that the tests use."""

    def __init__(self, pid, reader, writer):
        self.pid = pid
        self.stderr = self._lines(reader)
        self._writer = writer
        self._ended = asyncio.get_running_loop().create_future()

    async def wait(self):
        """The exit status, after standard error was read to its end."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number):
        """Send a signal to the process, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def _lines(self, reader):
        async for line in reader:
            if line.startswith(ENDED):
                # No more lines follow, and the connection must be closed before the loop.
                self._writer.close()
                await self._writer.wait_closed()
                self._ended.set_result(int(line.removeprefix(ENDED)))
                return
            yield line


class Starter:
    """The process that forks."""

    def __init__(self, listener):
        self._listener = listener
        self._children = {}

    def next_child(self):
        """Start the requested processes; return in each child, with its arguments."""
        while True:
            patience = REAPING_SECONDS if self._children else None
            ready, _, _ = select.select([self._listener, sys.stdin], [], [], patience)
            if sys.stdin in ready:
                self._end()
            if self._listener in ready and (arguments := self._fork()):
                return arguments
            self._reap()

    def _fork(self):
        connection, _ = self._listener.accept()
        with connection.makefile("rb") as lines:
            request = json.loads(lines.readline())
        pid = os.fork()
        if pid:
            self._children[pid] = connection
            return None
        return self._become(request, connection)

    def _become(self, request, connection):
        """Turn this fork into the requested process."""
        os.setsid()
        connection.sendall(b"%d\n" % os.getpid())
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        os.dup2(connection.fileno(), 2)
        for mine in (self._listener, connection, *self._children.values()):
            mine.close()
        os.environ.clear()
        os.environ.update(request["environment"])
        return request["arguments"]

    def _reap(self):
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._children.pop(pid) as connection, suppress(OSError):
                # All output of the process is on the connection before this line.
                connection.sendall(b"\n%s%d\n" % (ENDED, os.waitstatus_to_exitcode(status)))

    def _end(self):
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        sys.exit()


def main():
    """Fork until standard input ends; in a fork, run the requested module."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        module, *arguments = Starter(listener).next_child()
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
