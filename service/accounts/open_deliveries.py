"""
Bounds how many deliveries of an account may be pending, by refusing further invoices.

The pending ones are not counted for each request. What was counted is remembered, and what was
accepted since is added; some requests later the number is renewed in the background. At the bound,
a request waits for a new count, unless one was made a moment ago.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from service.clock import Clock
from service.errors import StorageUnavailable, TooManyRequests

log = logging.getLogger("invoices.accounts")

RECOUNT = timedelta(seconds=10)
"""How often the number is renewed below the bound: other processes accept invoices too."""

UNSEEN_MAX = 1000
"""Invoices that are admitted before the time is looked at again, far from the bound."""

REST = 20
"""At the bound, counting takes a twentieth of the time at most."""

RETRY_SECONDS = 10

ACCOUNTS_MAX = 10_000
"""Accounts whose number is remembered; the one that was used longest ago is removed first."""

Count = Callable[[str, int], Awaitable[int]]
"""Counts the pending deliveries of an account, up to a number."""


@dataclass(slots=True)
class _Number:
    counted: int = 0
    """The pending deliveries when they were counted."""
    admitted_since: int = 0
    """The invoices that were admitted since that count began."""
    unseen: int = 0
    """How many more are admitted without a look at the bound and the time."""
    recount_at: timedelta | None = None
    """When the number is not exact enough any more to refuse; None before the first count."""
    renew_at: timedelta = timedelta(0)
    counting: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        return self.counted + self.admitted_since


class OpenDeliveries:
    """
    Lets each account have *bound* pending deliveries, as *count* counts them; 0 is no bound.

    The bound may be exceeded by what one process accepts before its first count of an account, and
    by what the other processes accept and what is redelivered within `RECOUNT` or, if that
    takes longer, within the next `UNSEEN_MAX` invoices of this process.
    """

    def __init__(self, bound: int, count: Count, clock: Clock) -> None:
        self._bound = bound
        self._count = count
        self._clock = clock
        self._numbers: OrderedDict[str, _Number] = OrderedDict()

    async def admit(self, account_id: str) -> None:
        """
        Count one invoice with a callback that *account_id* is about to send in.

        Raises:
            TooManyRequests: if it has as many pending deliveries as it may have.
        """
        number = self._numbers.get(account_id)
        if number is not None and number.unseen:
            number.unseen -= 1
            number.admitted_since += 1
        elif self._bound:
            await self._admit(account_id, self._number_of(account_id))

    async def close(self) -> None:
        """End the counts in progress."""
        counting = [one.counting for one in self._numbers.values() if one.counting]
        for task in counting:
            task.cancel()
        await asyncio.gather(*counting, return_exceptions=True)

    async def _admit(self, account_id: str, number: _Number) -> None:
        now = self._clock.elapsed()
        if now >= number.renew_at:
            self._begin_count(account_id, number, now)
        if number.count >= self._bound:
            if number.recount_at is None or now >= number.recount_at:
                await self._begin_count(account_id, number, now)
            if number.count >= self._bound:
                raise TooManyRequests(RETRY_SECONDS, self._words)
        number.admitted_since += 1
        number.unseen = min(UNSEEN_MAX, (self._bound - number.count) // 10)

    @property
    def _words(self) -> str:
        return (
            f"Your account has {self._bound} deliveries that have not ended yet, and may not have "
            "more. An invoice with a callback_url is accepted again when some of them are "
            "delivered or dead; GET /deliveries?status=pending lists them."
        )

    def _number_of(self, account_id: str) -> _Number:
        number = self._numbers.get(account_id)
        if number is None:
            number = self._numbers[account_id] = _Number()
            if len(self._numbers) > ACCOUNTS_MAX:
                self._numbers.popitem(last=False)
        else:
            self._numbers.move_to_end(account_id)
        return number

    def _begin_count(
        self, account_id: str, number: _Number, now: timedelta
    ) -> "asyncio.Future[None]":
        """Count, unless a count is in progress already; the result ends with it."""
        number.renew_at = now + RECOUNT
        if number.counting is None:
            number.counting = asyncio.create_task(self._renew(account_id, number))
        # A request that is cancelled does not cancel the count of the others.
        return asyncio.shield(number.counting)

    async def _renew(self, account_id: str, number: _Number) -> None:
        began, admitted_before = self._clock.elapsed(), number.admitted_since
        try:
            number.counted = await self._count(account_id, self._bound)
            number.admitted_since -= admitted_before
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        except Exception:  # the bound must not refuse or fail requests because of a defect of ours
            log.exception("count.failed")
        finally:
            number.counting = None
            ended = self._clock.elapsed()
            number.recount_at = ended + REST * (ended - began)
