"""
Looks for receivers with deliveries that are due.

A receiver is looked at when it is named, because something was written for it; at its alarm, when
something becomes due or a cooldown ends; and in a scan of all receivers, which finds what other
processes have left. A scan goes along several accounts at once, and begins with those that have the
fewest attempts in flight.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import islice

from service.clock import Clock
from service.domain.delivery import account_of
from service.loops import AT_ONCE, POLL
from service.storage.store import Store
from service.storage.waiting import ACCOUNTS_MAX, Chain, Waiting

LOOK = 64
"""How many receivers are looked at in one read."""

CHAINS = 16
"""How many accounts a scan goes along at once."""

SCAN_PAUSE = 20
"""A scan begins this many times as long after the last one as that took, but at `POLL` at least."""

SCAN_MAX = timedelta(seconds=30)
"""How long after the last one a scan begins at the latest."""

ALARMS_MAX = 20_000
"""Alarms that are kept; above this, the scan finds what is due."""


class Alarms:
    """For each name, the first instant at which something is due."""

    def __init__(self) -> None:
        self._at: dict[str, datetime] = {}
        self._ordered: list[tuple[datetime, str]] = []

    @property
    def next_at(self) -> datetime | None:
        """The next instant, None if there is none."""
        while self._ordered:
            at, name = self._ordered[0]
            if self._at.get(name) == at:
                return at
            heappop(self._ordered)
        return None

    def set(self, name: str, at: datetime) -> None:
        """Give an alarm for *name* at *at*, unless there is an earlier one."""
        known = self._at.get(name)
        if (known is None and len(self._at) < ALARMS_MAX) or (known is not None and at < known):
            self._at[name] = at
            heappush(self._ordered, (at, name))

    def take(self, now: datetime) -> list[str]:
        """Remove and return the names whose instant has come."""
        taken = []
        while (at := self.next_at) is not None and at <= now:
            _, name = heappop(self._ordered)
            del self._at[name]
            taken.append(name)
        return taken


Place = tuple[str, str]
"""An account, and an origin if only receivers at that origin are meant, else an empty text."""


@dataclass(slots=True)
class Skipped:
    """Receivers of one place that were left for lack of capacity: the first one, and new ones."""

    receiver: str
    origin: str
    new: deque[str] = field(default_factory=lambda: deque(maxlen=CHAINS))


@dataclass(slots=True, eq=False)
class Walk:
    """
    A way along the receivers of one account: from *begin_at* to the end, and up to there again.

    *start* and *end* bound what is left, as in a `Chain`. A walk that was resumed for a *place*
    ends when a receiver of that place is skipped again.
    """

    account_id: str
    begin_at: str
    place: Place | None
    start: str
    end: str = ""


class Lookout:
    """
    Finds receivers with deliveries for one process.

    *count_in_flight* counts the attempts of an account, and *capacity_of* the leases that a
    receiver at an origin may have.
    """

    def __init__(
        self,
        store: Store,
        count_in_flight: Callable[[str], int],
        capacity_of: Callable[[str, str], int],
    ) -> None:
        self.alarms = Alarms()
        self._store = store
        self._count_in_flight = count_in_flight
        self._capacity_of = capacity_of
        self._named: dict[str, None] = {}
        self._walks: deque[Walk] = deque()
        self._skipped: dict[Place, Skipped] = {}
        self._just_named = frozenset[str]()
        self._scan_began: timedelta | None = None
        self._scan_at = timedelta(0)
        """By the clock that never jumps: a scan also finds what a jump of the other one hides."""

    def wait(self, clock: Clock) -> timedelta:
        """How long there is nothing to look at."""
        if self._named or self._walks:
            return AT_ONCE
        waits = [self._scan_at - clock.elapsed()]
        if self.alarms.next_at:
            waits.append(self.alarms.next_at - clock.now())
        return max(AT_ONCE, min(waits))

    def name(self, receivers: Iterable[str]) -> None:
        """Look at *receivers* soon."""
        self._named.update(dict.fromkeys(receivers))

    def scan(self) -> None:
        """Look at all receivers soon."""
        self._scan_at = timedelta(0)

    def pace(self, began: timedelta, ended: timedelta) -> None:
        """
        Let scans that take long begin less often; a look lasted from *began* to *ended*.

        A server that cannot remove what was settled walks past all of it in each scan.
        """
        if self._scan_began == began and self._scan_at == began + POLL:
            self._scan_at = max(self._scan_at, began + min(SCAN_PAUSE * (ended - began), SCAN_MAX))

    def skip(self, receiver: str, origin: str = "", *, is_new: bool) -> None:
        """There was no capacity for *receiver*, or at its *origin*: `resume` begins with it."""
        place = (account_of(receiver), origin)
        if place not in self._skipped and len(self._skipped) < ALARMS_MAX:
            self._skipped[place] = Skipped(receiver, origin)
        if is_new and receiver in self._just_named and place in self._skipped:
            self._skipped[place].new.append(receiver)

    def resume(self, receiver: str = "", origin: str = "") -> bool:
        """
        Look soon at receivers that were skipped and have capacity now, first at the newest one.

        Some places are tried, those of *receiver* among them; returns whether there is one.
        """
        is_resumed = False
        if not self._skipped:
            return is_resumed
        account_id = account_of(receiver)
        own = ((account_id, ""), (account_id, origin))
        for place in dict.fromkeys((*own, *islice(self._skipped, CHAINS))):
            skipped = self._skipped.pop(place, None)
            if skipped is None:
                continue
            is_walking = any(walk.account_id == place[0] for walk in self._walks)
            if is_walking or self._capacity_of(skipped.receiver, skipped.origin) <= 0:
                # Behind the other places.
                self._skipped[place] = skipped
                continue
            if skipped.new:
                self.name([skipped.new.pop()])
                if skipped.new:
                    self._skipped[place] = skipped
                    is_resumed = True
                    continue
            begin_at = skipped.receiver
            self._walks.append(Walk(place[0], begin_at, place, start=begin_at))
            is_resumed = True
        return is_resumed

    async def look(self, now: datetime, elapsed: timedelta) -> Sequence[Waiting]:
        """Look at up to `LOOK` receivers that are named, and at as many of a scan, each once."""
        self.name(self.alarms.take(now))
        found = list[Waiting]()
        names = list(self._named)[:LOOK]
        self._just_named = frozenset(names)
        if names:
            found += await self._store.look_at(names, now)
            for name in names:
                self._named.pop(name, None)
        if not self._walks and self._scan_at <= elapsed:
            await self._begin_scan()
            self._scan_at = elapsed + POLL
            self._scan_began = elapsed
        self._walks = deque(one for one in self._walks if one.place not in self._skipped)
        if self._walks:
            found += await self._go_on(now)
        return list({one.receiver: one for one in found}.values())

    async def _begin_scan(self) -> None:
        accounts = list[str]()
        batch = await self._store.find_accounts("")
        while batch:
            accounts += batch
            is_last = len(batch) < ACCOUNTS_MAX
            batch = [] if is_last else await self._store.find_accounts(batch[-1])
        for account_id in sorted(accounts, key=self._count_in_flight):
            skipped = self._skipped.get((account_id, ""))
            begin_at = skipped.receiver if skipped else ""
            self._walks.append(Walk(account_id, begin_at, None, start=begin_at))

    async def _go_on(self, now: datetime) -> Sequence[Waiting]:
        """Go a step along the first accounts; those that have more go behind the others."""
        walks = list(islice(self._walks, CHAINS))
        look = LOOK // len(walks)
        chains = [Chain(one.account_id, one.start, one.end, look) for one in walks]
        found = await self._store.look_along(chains, now)
        names = defaultdict[str, list[str]](list)
        for one in found:
            names[account_of(one.receiver)].append(one.receiver)
        for walk in walks:
            self._walks.remove(walk)
            if len(names[walk.account_id]) == look:
                # A blank is before all that a URL may go on with.
                walk.start = max(names[walk.account_id]) + " "
                self._walks.append(walk)
            elif walk.begin_at and not walk.end:
                walk.start, walk.end = "", walk.begin_at
                self._walks.append(walk)
        return found
