"""
Which accounts have more to send than their attempt rate allows, as all processes tell it.

A rate is kept in the memory of the process that sends. It notifies the others while an account
exceeds it, so that a delivery that waits for the rate says so whichever process is asked. Nothing
is stored: a process that misses a notification says `slot` instead, for a second or two.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

KEPT = timedelta(seconds=2)
"""For how long an account is taken to exceed its rate after a process has said so."""

RENEWED = timedelta(seconds=1)
"""How often a process says so."""


class Paced:
    """The accounts that exceed their rate, each with the instant until which that is known."""

    def __init__(self) -> None:
        self._until: dict[str, datetime] = {}

    def set(self) -> None:
        """Do nothing: notifications that were missed are sent again while they are true."""

    def set_for(self, names: Collection[str], /) -> None:
        """Take over what another process knows; each of *names* is an account and an instant."""
        for name in names:
            account_id, _, seconds = name.partition(" ")
            self._until[account_id] = datetime.fromtimestamp(float(seconds), UTC)

    def renew(self, account_ids: Iterable[str], now: datetime) -> list[str]:
        """
        Remember that *account_ids* exceed their rate at *now*, and forget those that no longer do.

        Returns:
            What the other processes are to be told: nothing of those that have been told lately.
        """
        self._until = {one: until for one, until in self._until.items() if until > now}
        until, told = now + KEPT, list[str]()
        for account_id in account_ids:
            known = self._until.get(account_id)
            if known is None or known < until - RENEWED:
                self._until[account_id] = until
                told.append(f"{account_id} {until.timestamp():.3f}")
        return told

    def holds(self, account_id: str, now: datetime) -> bool:
        """Whether an account exceeds its rate at *now*, as far as this process knows."""
        until = self._until.get(account_id)
        return until is not None and until > now
