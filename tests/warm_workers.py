"""
The workers of a warm service, forked from it instead of started in new interpreters.

A worker costs more than a second of a processor if it imports the service again. Whoever starts one
gets what `asyncio.create_subprocess_exec` would have returned; the worker is a child process of its
starter, has no open file of it but the standard error, and runs on an event loop of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

COMMAND = (sys.executable, "-P", "-m", "service")
"""How a worker is started; other programs are started as always."""

FILES_MAX = 4096

_start_program = asyncio.create_subprocess_exec


class ForkedWorker:
    """The part of `asyncio.subprocess.Process` that the parent of workers uses."""

    def __init__(self, pid, stdin):
        self.pid = pid
        self.stdin = stdin

    async def wait(self):
        """Wait until the worker has ended; returns its exit status."""
        loop, has_ended = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(self.pid)
        loop.add_reader(descriptor, has_ended.set)
        try:
            await has_ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        # It has ended, so this does not block.
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])  # noqa: ASYNC222


def fork_workers(run):
    """
    Let this process fork its workers, where the system can tell when one ends.

    *run* runs a module with arguments, in a worker, and ends the process.
    """
    if not hasattr(os, "pidfd_open"):
        return

    async def start(*command, env=None, **options):
        if COMMAND != command[: len(COMMAND)]:
            return await _start_program(*command, env=env, **options)
        ours, stdin = os.pipe()
        pid = os.fork()
        if not pid:
            _become_worker(ours, env)
            run(COMMAND[-1], command[len(COMMAND) :])
        os.close(ours)
        return ForkedWorker(pid, os.fdopen(stdin, "wb", 0))

    asyncio.create_subprocess_exec = start


def _become_worker(stdin, environment):
    """Leave the loop, the signals and the files of the parent."""
    asyncio._set_running_loop(None)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stdin, 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.closerange(3, FILES_MAX)
    os.environ.clear()
    os.environ.update(environment)
