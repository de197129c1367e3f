"""
Divides slots and leases: among accounts first, then among their receivers.

Keeps invariants 7 and 10. The same rule applies to the whole process and to each origin, to
accounts and to receivers: a holder beside others takes another one only if more are free than it
has. A holder that is alone leaves some free too, so that the next one never has to wait for it.

This is counted for each delivery, so counts are attributes, and no holder is looked up.
"""

ALONE = 16
"""A holder that is alone may have this many times as many as are free."""


class Taken:
    """How many an account has of one division, and how many of them are probes."""

    __slots__ = ("busy_count", "count", "probe_count")

    def __init__(self) -> None:
        self.count = self.probe_count = 0
        self.busy_count = 0
        """Its receivers that have or want some."""


class Division:
    """
    *limit* slots or leases of a process or an origin.

    Receivers that have not answered lately are probed: all of them together have *probes* at most,
    those of one account *account_probes*. So the others always find some free.
    """

    __slots__ = ("_account_probes", "account_count", "free", "free_probes", "receiver_count")

    def __init__(self, limit: int, probes: int, account_probes: int) -> None:
        self._account_probes = account_probes
        self.free = limit
        self.free_probes = probes
        self.account_count = self.receiver_count = 0
        """The accounts and receivers that have or want some."""

    def capacity_of(self, account: Taken, receiver_count: int, *, is_probed: bool) -> int:
        """How many more a receiver may take that has *receiver_count*; 0 or less means none."""
        by_account = ALONE if self.account_count <= 1 else 1
        by_receiver = ALONE if self.receiver_count <= 1 else 1
        capacity = min(
            _fair(account.count, self.free, by_account),
            _fair(receiver_count, self.free, by_receiver),
        )
        if is_probed:
            fair = _fair(account.probe_count, self.free_probes, by_account)
            capacity = min(capacity, fair, self._account_probes - account.probe_count)
        return capacity

    def permits(self, account: Taken, receiver_count: int, *, is_probed: bool) -> bool:
        """Whether a receiver that has *receiver_count* may take another one."""
        by_account = ALONE if self.account_count <= 1 else 1
        by_receiver = ALONE if self.receiver_count <= 1 else 1
        if account.count >= by_account * self.free or receiver_count >= by_receiver * self.free:
            return False
        if not is_probed:
            return True
        probes = min(self._account_probes, by_account * self.free_probes)
        return account.probe_count < probes

    def take(self, account: Taken, count: int = 1, *, is_probed: bool) -> None:
        """Count what a receiver of *account* has taken; with a negative *count*, given back."""
        self.free -= count
        account.count += count
        if is_probed:
            self.change(account, count)

    def change(self, account: Taken, count: int) -> None:
        """Count *count* of what *account* has as probes; with a negative *count*, no longer."""
        self.free_probes -= count
        account.probe_count += count

    def join(self, account: Taken) -> None:
        """A receiver of *account* has or wants some from now on."""
        self.receiver_count += 1
        account.busy_count += 1
        if account.busy_count == 1:
            self.account_count += 1

    def leave(self, account: Taken) -> None:
        """A receiver of *account* neither has nor wants any."""
        self.receiver_count -= 1
        account.busy_count -= 1
        if not account.busy_count:
            self.account_count -= 1


def _fair(count: int, free: int, factor: int) -> int:
    """How many more a holder of *count* may take, each while it has less than factor * free."""
    return -((count - factor * free) // (factor + 1))
