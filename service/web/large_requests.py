"""
Large requests of one account are handled one after the other, with those of others between them.

Keeps invariant 10 for what is sent. To parse a request that is as large as permitted takes
milliseconds, in which the event loop does nothing else. Without turns, those that an account sends
over many connections would be parsed in one go, and everybody else would wait for all of them.
"""

import asyncio
from weakref import WeakValueDictionary

LARGE_BYTES = 4096
"""A request with a longer path and body waits for its turn; an ordinary invoice is far smaller."""


class LargeRequests:
    """The turns of all accounts."""

    def __init__(self) -> None:
        self._turns = WeakValueDictionary[str, asyncio.Lock]()

    async def turn(self, account_id: str) -> None:
        """
        Wait for the turn of a large request of *account_id*.

        The caller parses it before it waits for anything. The next turn begins when everything
        that is ready to run now has run.
        """
        lock = self._turns.get(account_id)
        if lock is None:
            lock = self._turns[account_id] = asyncio.Lock()
        await lock.acquire()
        asyncio.get_running_loop().call_soon(lock.release)
