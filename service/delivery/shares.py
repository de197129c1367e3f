"""
Divides slots and leases: among accounts first, then among their receivers.

Keeps invariants 7 and 10. The same rule applies to the whole process and to each origin, to
accounts and to receivers: a holder beside others takes another one only if more are free than it
has. A holder that is alone leaves some free too, so that the next one never has to wait for it.
"""

from collections.abc import Sized

ALONE = 16
"""A holder that is alone may have this many times as many as are free."""


class Share:
    """
    *limit* slots or leases, and how many of them each holder has; a holder has *most* at most.

    *contenders* are the holders that have or want some.
    """

    __slots__ = ("_contenders", "_counts", "_most", "free")

    def __init__(self, limit: int, contenders: Sized, most: int | None = None) -> None:
        self.free = limit
        self._contenders = contenders
        self._most = limit if most is None else most
        self._counts: dict[str, int] = {}

    def capacity_of(self, holder: str) -> int:
        """How many more *holder* may take; 0 or less means none."""
        count = self._counts.get(holder, 0)
        factor = self._factor
        # The n-th one may be taken if count + n - 1 < factor * (free - n + 1).
        fair = -((count - factor * self.free) // (factor + 1))
        return min(fair, self._most - count)

    def permits(self, holder: str) -> bool:
        """Whether *holder* may take another one."""
        count = self._counts.get(holder, 0)
        return count < self._most and count < self._factor * self.free

    def take(self, holder: str, count: int) -> None:
        """Count what *holder* has taken."""
        if not count:
            return
        self.free -= count
        self._counts[holder] = self._counts.get(holder, 0) + count

    def give_back(self, holder: str, count: int) -> None:
        """Stop counting what *holder* has given back."""
        if not count:
            return
        self.free += count
        left = self._counts[holder] - count
        if left:
            self._counts[holder] = left
        else:
            del self._counts[holder]

    def count_of(self, holder: str) -> int:
        """How many *holder* has."""
        return self._counts.get(holder, 0)

    @property
    def _factor(self) -> int:
        return ALONE if len(self._contenders) <= 1 else 1


class Division:
    """
    *limit* slots or leases of a process or an origin.

    Receivers that have not answered lately are probed: all of them together have *probes* at most,
    those of one account *account_probes*. So the others always find some free.
    """

    __slots__ = ("_accounts", "_probes", "_receivers")

    def __init__(
        self,
        limit: int,
        probes: int,
        account_probes: int,
        contenders: tuple[Sized, Sized],
    ) -> None:
        accounts, receivers = contenders
        self._accounts = Share(limit, accounts)
        self._receivers = Share(limit, receivers)
        self._probes = Share(probes, accounts, account_probes)

    @property
    def free(self) -> int:
        """How many are not taken."""
        return self._accounts.free

    def capacity_of(self, account_id: str, receiver: str, *, is_probed: bool) -> int:
        """How many more a receiver may take."""
        shares = [self._accounts.capacity_of(account_id), self._receivers.capacity_of(receiver)]
        if is_probed:
            shares.append(self._probes.capacity_of(account_id))
        return max(0, min(shares))

    def permits(self, account_id: str, receiver: str, *, is_probed: bool) -> bool:
        """Whether a receiver may take another one."""
        return (
            self._accounts.permits(account_id)
            and self._receivers.permits(receiver)
            and (not is_probed or self._probes.permits(account_id))
        )

    def take(self, account_id: str, receiver: str, count: int = 1, *, is_probed: bool) -> None:
        """Count what a receiver has taken."""
        self._accounts.take(account_id, count)
        self._receivers.take(receiver, count)
        if is_probed:
            self._probes.take(account_id, count)

    def give_back(self, account_id: str, receiver: str, count: int = 1, *, is_probed: bool) -> None:
        """Stop counting what a receiver has given back."""
        self._accounts.give_back(account_id, count)
        self._receivers.give_back(receiver, count)
        if is_probed:
            self._probes.give_back(account_id, count)

    def change(self, account_id: str, count: int, *, is_probed: bool) -> None:
        """Count what a receiver has as probes from now on, or no longer."""
        if is_probed:
            self._probes.take(account_id, count)
        else:
            self._probes.give_back(account_id, count)

    def count_of(self, account_id: str) -> int:
        """How many an account has."""
        return self._accounts.count_of(account_id)
