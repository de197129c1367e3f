"""
File descriptors: how many this process may have, how many it has, and what is said if they run out.

Every connection costs one, those to the database and to receivers included. Without descriptors
the kernel accepts connections that are then closed at once, and nothing else shows the cause.
"""

import asyncio
import errno
import logging
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

log = logging.getLogger("invoices")

PROBE_SECONDS = 1
"""How often a process tries whether a descriptor is left."""

PROBES = 5
"""How many probes there are for each count, which takes longer."""

WARNING_SECONDS = 60
"""Minimum time between two log lines that there is none left."""

HARD_LIMIT_MAX = 1_048_576
"""More than any process uses; some systems have hard limits of a billion, or none."""

RUN_OUT = frozenset({errno.EMFILE, errno.ENFILE})
"""The errors of a process without, and of a machine without descriptors."""

_list_open = partial(os.listdir, "/dev/fd")


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard one; returns how many are allowed then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HARD_LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, HARD_LIMIT_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some sandboxes forbid it. What is allowed then is what counts.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return allowed()


def allowed() -> int:
    """How many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HARD_LIMIT_MAX if soft == resource.RLIM_INFINITY else soft


class Descriptors:
    """
    The descriptors of this process.

    *count_exhausted* is called each time that none was left, and *relieve* then closes what can be
    spared. *report* is called with the numbers of those in use and allowed.
    """

    def __init__(
        self,
        count_exhausted: Callable[[], object] = lambda: None,
        report: Callable[[int, int], object] = lambda _used, _allowed: None,
        relieve: Callable[[], object] = lambda: None,
    ) -> None:
        self._count_exhausted = count_exhausted
        self._report = report
        self._relieve = relieve
        self._warned_at: float | None = None

    async def watch(self) -> None:
        """Count them, and notice when none is left, until cancelled."""
        while True:
            self.look()
            for _ in range(PROBES):
                await asyncio.sleep(PROBE_SECONDS)
                self.probe()

    def probe(self) -> None:
        """Say so if no descriptor is left: connections that cannot be accepted say nothing."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno in RUN_OUT:
                self.exhausted()

    def look(self) -> None:
        """Report how many are in use; if none is left, say so."""
        try:
            # The folder itself is open meanwhile.
            used = len(_list_open()) - 1
        except OSError as error:
            if error.errno not in RUN_OUT:
                return
            used = allowed()
            self.exhausted()
        self._report(used, allowed())

    def exhausted(self) -> None:
        """Count that there was no descriptor left, log it once a minute, and close some."""
        self._count_exhausted()
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            meaning = "connections are refused and callbacks wait: raise the limit of open files"
            log.error(
                "descriptors.exhausted",
                extra={"fields": {"allowed": allowed(), "meaning": meaning}},
            )
        self._relieve()
