"""
What the loops behind the API have in common: rounds, until they are told to drain.

A round looks for what is due and starts it. Between rounds a loop waits for a signal or for an
instant, never for the clock alone; a database that is away ends a round, not the loop.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Protocol

from service.clock import Clock
from service.errors import StorageUnavailable

log = logging.getLogger("invoices.rounds")

POLL = timedelta(seconds=2)
"""The net under the signals: how soon leases that ran out elsewhere are found."""

AT_ONCE = timedelta(0)
"""The pause of a loop that knows of more to do."""


class Rounds(Protocol):
    """A loop that can be run by `keep_rounds`."""

    is_draining: bool

    @property
    def held_count(self) -> int:
        """Rows that are leased by us, or about to be."""
        ...

    async def run_round(self) -> timedelta:
        """Start what is due; how long the next round may wait unless a signal comes first."""
        ...


async def keep_rounds(loop: Rounds, signal: asyncio.Event, clock: Clock) -> None:
    """Run the rounds of *loop* until it drains, then wait until it holds nothing any more."""
    while not loop.is_draining:
        pause = await _pause_behind_round(loop)
        # From now: while the round ran, somebody may have set the clock.
        await clock.wait(signal, clock.now() + pause)
    while loop.held_count:
        signal.clear()
        await signal.wait()


async def _pause_behind_round(loop: Rounds) -> timedelta:
    try:
        return await loop.run_round()
    except StorageUnavailable as error:
        log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        return POLL
