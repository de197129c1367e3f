"""
The health of a receiver or an origin: whether it answered last, and its cooldown.

Whoever fails gets one attempt at a time: a probe. After each failed probe the cooldown is longer.
The other deliveries are not attempted meanwhile, so they do not use up their retry schedule. The
first success ends this.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

COOLDOWN_FIRST = timedelta(milliseconds=100)
COOLDOWN_MAX = timedelta(seconds=10)
"""The first cooldown and the longest one; each failed probe doubles the cooldown."""

REFUSALS_MAX = 10
"""After so many refusals in a row, a refusal counts as a failure."""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The period without attempts after a failed probe, or by Retry-After."""

    since: datetime
    until: datetime

    def is_active(self, now: datetime) -> bool:
        """Whether *now* is in the period. It ends too if the clock is set back before its start."""
        return self.since <= now < self.until


class Cooldowns:
    """The cooldowns of receivers and origins, by name; of two, the one that ends later applies."""

    def __init__(self) -> None:
        self._cooldowns: dict[str, Cooldown] = {}
        self.is_empty = True
        """Whether there are none: as nearly always, and then nobody has to ask for names."""

    def begin(self, name: str, now: datetime, until: datetime) -> None:
        """Give *name* no attempts from *now* to *until*."""
        if not self.is_active(name, until):
            self._cooldowns[name] = Cooldown(now, until)
            self.is_empty = False

    def is_active(self, name: str, now: datetime) -> bool:
        """Whether *name* gets no attempts at *now*."""
        cooldown = self._cooldowns.get(name)
        return cooldown is not None and cooldown.is_active(now)

    def end_of(self, name: str, now: datetime) -> datetime | None:
        """When the cooldown of *name* ends, if it is in one at *now*."""
        cooldown = self._cooldowns.get(name)
        return cooldown.until if cooldown and cooldown.is_active(now) else None

    def forget_ended(self, now: datetime) -> int:
        """Forget the cooldowns that are over at *now*; returns how many there still are."""
        self._cooldowns = {name: one for name, one in self._cooldowns.items() if one.until > now}
        self.is_empty = not self._cooldowns
        return len(self._cooldowns)


@dataclass(slots=True)
class Health:
    """What the last attempts have shown."""

    is_open: bool = False
    """Whether it succeeded lately; otherwise an attempt is a probe."""
    is_failing: bool = False
    """Whether the last attempt failed."""
    failed_probe_count: int = 0
    refusal_count: int = 0
    """Refusals since the last delivery."""

    def succeeded(self) -> None:
        """Open it: the receiver answered, or a connection to the origin was made."""
        self.is_open, self.is_failing, self.failed_probe_count = True, False, 0

    def failed(self, now: datetime, *, is_probe: bool) -> datetime | None:
        """Close it; returns until when it cools down, None if a probe may begin at once."""
        self.is_open, self.is_failing = False, True
        if not is_probe:
            return None
        factor: int = 2 ** min(self.failed_probe_count, 10)
        cooldown = min(COOLDOWN_FIRST * factor, COOLDOWN_MAX)
        self.failed_probe_count += 1
        return now + cooldown
