"""Those who wait for new events of an account, and what wakes them."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from service.loops import Signal


class Arrivals:
    """
    A signal for each one that waits, by account.

    Of events that another process records, nobody is woken here: whoever waits also polls.
    """

    def __init__(self) -> None:
        self._signals: dict[str, list[Signal]] = {}

    def __len__(self) -> int:
        """How many wait, of all accounts."""
        return sum(map(len, self._signals.values()))

    @property
    def account_ids(self) -> Collection[str]:
        """The accounts for whose events somebody waits."""
        return self._signals.keys()

    def of(self, account_id: str) -> Sequence[Signal]:
        """The signals of those who wait for events of the account."""
        return self._signals.get(account_id, ())

    @contextmanager
    def awaited(self, account_id: str) -> Iterator[Signal]:
        """Inside the block, events of the account set the signal that is given."""
        signal = Signal()
        self._signals.setdefault(account_id, []).append(signal)
        try:
            yield signal
        finally:
            self._signals[account_id].remove(signal)
            if not self._signals[account_id]:
                del self._signals[account_id]

    def set_for(self, account_id: str) -> None:
        """Events of the account were committed."""
        for signal in self._signals.get(account_id, ()):
            signal.set()
