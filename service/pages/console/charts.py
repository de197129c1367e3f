"""Bars of the last 24 hours, as a template draws them: what was delivered, and what failed."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.pages.console.texts import percent
from service.storage.console import HourCounts

HEIGHT = 30.0
WIDTH = 10.0
"""Of one hour; a bar is a little narrower."""

LEAST = 2.0
"""How high at least something is that is there at all."""


@dataclass(frozen=True, slots=True)
class Bar:
    """An hour: how high its delivered and its failed part are, and what is said of it."""

    x: float
    good: float
    bad: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The bars of some hours; *words* say the same to those who do not see them."""

    bars: Sequence[Bar]
    width: float
    words: str


def chart_of(hours: Sequence[HourCounts]) -> Chart:
    """The chart of *hours*, whose highest bar has the whole height."""
    most = max((one.delivered + one.failed for one in hours), default=0)
    bars = [_bar(number, one, most) for number, one in enumerate(hours)]
    return Chart(bars, WIDTH * len(hours), _words(hours))


def _bar(number: int, hour: HourCounts, most: int) -> Bar:
    good, bad = (_height(count, most) for count in (hour.delivered, hour.failed))
    if good + bad > HEIGHT:
        good = HEIGHT - bad
    said = f"{hour.hour:%H:%M}: {hour.delivered} delivered, {hour.failed} failed"
    return Bar(number * WIDTH, good, bad, said)


def _height(count: int, most: int) -> float:
    return max(LEAST, round(HEIGHT * count / most, 1)) if count else 0.0


def _words(hours: Sequence[HourCounts]) -> str:
    delivered, failed = (
        sum(getattr(one, name) for one in hours) for name in ("delivered", "failed")
    )
    if not delivered + failed:
        return "No attempt in the last 24 hours"
    all_ = delivered + failed
    share = f"{percent(delivered / all_)} delivered: {delivered} of {all_} attempts"
    failing = [f"{one.hour:%H:%M}" for one in hours if one.failed]
    when = f"; {failed} failed, in the hours from {', '.join(failing)}" if failing else ""
    return f"In the last 24 hours {share}{when}"
