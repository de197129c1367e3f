"""
Starts processes without a new import: `python -m tests.warm ADDRESS`.

The import of the service takes more than a second of a processor, and most tests of processes need
it several times. One process imports it once and then forks: each fork runs a module as `python -m`
does, in a session of its own, like any started process. Requests come over a Unix socket, one
connection for each start, together with the standard output and the standard error of the new
process; its id and its exit status come back.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import service.database.postgres
import service.database.sqlite
import service.storage.migrating  # noqa: F401 -- the slow imports, done before the first request
from service.cli.commands import main as command_line
from tests.warm_workers import fork_workers

COMMANDS = dict(command_line.commands)
"""All commands: each is imported when it is read."""

ROOT = Path(__file__).parents[1]
REAPING_SECONDS = 0.01
"""The interval in which ended processes are noticed."""


class Warm:
    """Starts processes quickly, in a `with` block, and kills them at its end."""

    def __enter__(self):
        self._folder = Path(mkdtemp(prefix="invoices-warm-"))
        self._address = str(self._folder / "socket")
        self._starter = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", self._address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C must reach only the tests; the starter kills all processes when its input ends.
            start_new_session=True,
        )
        # The process prints a line when it listens.
        assert self._starter.stdout.readline()
        return self

    def __exit__(self, *_):
        self._starter.communicate()
        shutil.rmtree(self._folder)

    async def start(self, module, *arguments, env, stdout=DEVNULL):
        """Run a module as a process with the environment *env*; *stdout* may be a pipe."""
        connection, output, errors = self._request([module, *arguments], env, stdout)
        said, writer = await asyncio.open_connection(sock=connection)
        pid = int(await said.readline())
        stdout = output and await _reading(output)
        return WarmProcess(pid, stdout, await _reading(errors), said, writer)

    @contextmanager
    def running(self, module, *arguments, env):
        """Run a module, without an event loop here, and stop it at the end; its standard error."""
        connection, _, errors = self._request([module, *arguments], env)
        with connection, connection.makefile("rb") as said, os.fdopen(errors) as log:
            pid = int(said.readline())
            try:
                yield log
            finally:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                log.read()
                said.readline()

    def _request(self, arguments, env, stdout=DEVNULL):
        """Request a process: the connection to its starter, its output and its errors."""
        errors, into_errors = os.pipe()
        output, into_output = (
            os.pipe() if stdout == PIPE else (None, os.open(os.devnull, os.O_RDWR))
        )
        try:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self._address)
            line = json.dumps({"arguments": arguments, "environment": env}).encode() + b"\n"
            socket.send_fds(connection, [line], [into_output, into_errors])
        finally:
            os.close(into_output)
            os.close(into_errors)
        return connection, output, errors


async def _reading(pipe):
    """A reader of *pipe*, which is closed at its end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0)
    )
    return reader


class WarmProcess:
    """The part of `asyncio.subprocess.Process` that the tests use."""

    def __init__(self, pid, stdout, stderr, said, writer):
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self._ending = asyncio.create_task(self._end(said, writer))

    async def wait(self):
        """Wait until the process has ended; returns its exit status."""
        return await asyncio.shield(self._ending)

    async def communicate(self):
        """Wait until the process has ended; returns its output and its errors."""
        output = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return output

    @property
    def returncode(self):
        """The exit status; None while the process runs."""
        return self._ending.result() if self._ending.done() else None

    def send_signal(self, number):
        """Send a signal to the process, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self):
        """Ask the process to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    async def _end(self, said, writer):
        status = int(await said.readline())
        writer.close()
        await writer.wait_closed()
        return status


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
        request, outputs = _received(connection)
        pid = os.fork()
        if not pid:
            return self._become(request, connection, outputs)
        self._children[pid] = connection
        connection.sendall(b"%d\n" % pid)
        for one in outputs:
            os.close(one)
        return None

    def _become(self, request, connection, outputs):
        """Turn this fork into the requested process."""
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        for number, one in enumerate(outputs, start=1):
            os.dup2(one, number)
            os.close(one)
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
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def _end(self):
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        sys.exit()


def _received(connection):
    """The request on *connection*, and the standard output and error that came with it."""
    line, outputs = b"", []
    while not line.endswith(b"\n"):
        more, received, _, _ = socket.recv_fds(connection, 2**16, 2)
        line += more
        outputs += received
    return json.loads(line), outputs


def main():
    """Fork until standard input ends; in a fork, run the requested module."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        # Where the tests run under nohup, it is ignored, by the forks too.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        # A fork would copy every page that garbage collection writes to.
        gc.collect()
        gc.freeze()
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        module, *arguments = Starter(listener).next_child()
    fork_workers(run)
    run(module, arguments)


def run(module, arguments):
    """
    Run a module as `python -m` does, and end this process as the interpreter does.

    But what it has imported is not taken apart: that would copy the memory of the first process.
    """
    status = 1
    try:
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ending:
        status = _status_of(ending.code)
    except BaseException:  # noqa: BLE001 -- a traceback and status 1 are what an interpreter leaves
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)


def _status_of(code):
    """The exit status for what `sys.exit` was given."""
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


if __name__ == "__main__":
    main()
