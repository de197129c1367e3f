"""
The signals that follow a commit: they wake the loops of every process.

Each of them has a name, by which processes notify each other.
"""

from collections.abc import Collection, Mapping, Sequence

from service.database.engine import Database, Wakes
from service.domain.delivery import Delivery
from service.loops import Signal

FOLLOWED_MAX = 10_000
"""Callbacks with a later event that are remembered; for the others, the loops poll."""


def chain_of(delivery: Delivery) -> str:
    """Which deliveries wait for each other: those of one callback of an invoice."""
    return f"{delivery.invoice_key} {delivery.callback}"


class Followed:
    """
    Callbacks of invoices with an event whose delivery waits for an earlier one; see `chain_of`.

    When that one is settled, another process may be the one that holds it. So all processes are
    told.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def set(self) -> None:
        """Do nothing: which ones are followed is not known."""

    def set_for(self, keys: Collection[str]) -> None:
        """Each of *keys* has one more event that waits."""
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + 1
        while len(self._counts) > FOLLOWED_MAX:
            del self._counts[next(iter(self._counts))]

    def knows(self, key: str) -> bool:
        """Whether an event waits there."""
        return key in self._counts

    def take(self, key: str) -> bool:
        """Whether an event waited there; it waits no longer."""
        count = self._counts.pop(key, 0)
        if count > 1:
            self._counts[key] = count - 1
        return count > 0


class Asked:
    """
    Receivers that are looked at whatever is known of them; wakes the loop with *due*.

    Somebody has asked for an attempt by hand, has paused or has resumed.
    """

    def __init__(self, due: Signal) -> None:
        self._due = due
        self._names = set[str]()

    def set(self) -> None:
        """Wake the loop: what was asked for is found with all that is due."""
        self._due.set()

    def set_for(self, names: Collection[str]) -> None:
        """Something was asked for by hand of the receivers *names*."""
        self._names.update(names)
        self._due.wake()

    def put_back(self, names: Collection[str]) -> None:
        """Keep *names* for the next call of `take`; the loop is not woken."""
        self._names.update(names)

    def take(self) -> Sequence[str]:
        """The names since the last call."""
        taken, self._names = sorted(self._names), set()
        return taken


class Signals:
    """The signals of one process, by their names."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_name: dict[str, Wakes] = {}

    def add(self, by_name: Mapping[str, Wakes]) -> None:
        """Send those of *by_name* too; must be called before `listen`."""
        self._by_name.update(by_name)

    def listen(self) -> None:
        """Exchange notifications with the other processes from now on."""
        self._database.listen(self._by_name)

    def send(self, name: str, *names: str) -> None:
        """Wake the loops of every process, because a row is due that is not leased."""
        self._by_name[name].set_for(names)
        self._database.notify(name, names)
