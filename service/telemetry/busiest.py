"""
What the busiest accounts have of the attempts: metrics with the account as label.

Ten accounts at most are exposed, so the number of series is bounded; they are chosen anew whenever
the text of the metrics is made, and the series of an account that is no longer among them end.
prometheus_client cannot remove a series that workers share. So each worker writes its figures into
a file of their folder, and a scrape adds those of the others to its own.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

ACCOUNTS_MAX = 10
"""Accounts that are exposed."""

SHARED_MAX = 1_000
"""Accounts whose figures a worker writes for the others, the busiest."""

REMEMBERED_MAX = 10_000
"""Accounts whose refused attempts are counted within one period."""

PERIOD_SECONDS = 10.0
PERIODS = 6
"""Refused attempts are counted for the last minute, ten seconds more or less."""

Figures = tuple[int, int, int]
"""Attempts of an account: in flight, waiting for a slot, refused within the last minute."""

HELP = {
    "in_flight": "Attempts in flight of the ten busiest accounts.",
    "waiting": "Leased deliveries of the ten busiest accounts that wait for a slot.",
    "refused": "Attempts of the ten busiest accounts that were refused in the last minute.",
}
"""Each metric, with its help text, in the order of `Figures`."""


class BusiestAccounts(Collector):
    """
    The figures of the accounts, as one process exposes them under names that begin with *prefix*.

    With *folder*, it is the worker *number*, and adds those that the other workers have shared.
    """

    def __init__(
        self,
        prefix: str,
        folder: Path | None = None,
        number: int = 0,
        clock_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix = prefix
        self._folder = folder
        self._number = number
        self._clock_seconds = clock_seconds
        self._refused: dict[int, Counter[str]] = {}
        self.count: Callable[[], Mapping[str, tuple[int, int]]] = dict
        """Counts the attempts in flight and waiting of each account; set by the dispatcher."""

    def attempt_refused(self, account_id: str) -> None:
        """Count an attempt whose receiver refused it."""
        period = int(self._clock_seconds() / PERIOD_SECONDS)
        refused = self._refused.get(period)
        if refused is None:
            self._forget_before(period)
            refused = self._refused[period] = Counter()
        if account_id in refused or len(refused) < REMEMBERED_MAX:
            refused[account_id] += 1

    def share(self) -> None:
        """Write the figures of this process for the other workers, if there are any."""
        if self._folder is None:
            return
        file = _file_of(self._folder, self._number)
        written = file.with_suffix(".new")
        # Without the file, the sums lack this worker; nothing else does.
        with suppress(OSError):
            written.write_text(json.dumps(dict(_busiest(self._own(), SHARED_MAX))))
            written.replace(file)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One series of each metric for each of the busiest accounts."""
        figures = self._own()
        for other in self._others():
            for account_id, more in other.items():
                known = figures.get(account_id, (0, 0, 0))
                figures[account_id] = (known[0] + more[0], known[1] + more[1], known[2] + more[2])
        busiest = _busiest(figures, ACCOUNTS_MAX)
        for index, (name, help_text) in enumerate(HELP.items()):
            family = GaugeMetricFamily(
                f"{self._prefix}_account_attempts_{name}", help_text, labels=["account"]
            )
            for account_id, own in busiest:
                family.add_metric([account_id], own[index])
            yield family

    def _own(self) -> dict[str, Figures]:
        self._forget_before(int(self._clock_seconds() / PERIOD_SECONDS))
        refused = Counter[str]()
        for period in self._refused.values():
            refused.update(period)
        counts = self.count()
        return {one: (*counts.get(one, (0, 0)), refused.get(one, 0)) for one in {*counts, *refused}}

    def _others(self) -> Iterator[dict[str, Figures]]:
        if self._folder is None:
            return
        own = _file_of(self._folder, self._number)
        for file in self._folder.glob(_file_of(self._folder, "*").name):
            # A worker may have ended meanwhile.
            if file != own:
                with suppress(OSError, ValueError):
                    yield json.loads(file.read_text())

    def _forget_before(self, period: int) -> None:
        kept = {at: one for at, one in self._refused.items() if at > period - PERIODS}
        self._refused = kept


def forget_figures(number: int, folder: Path) -> None:
    """Remove the figures of a worker that has ended."""
    _file_of(folder, number).unlink(missing_ok=True)


def _file_of(folder: Path, number: int | str) -> Path:
    return folder / f"accounts_{number}.json"


def _busiest(figures: Mapping[str, Figures], most: int) -> list[tuple[str, Figures]]:
    """Up to *most* accounts that have attempts, those with most of them first."""
    busy = [(account_id, one) for account_id, one in figures.items() if any(one)]
    return sorted(busy, key=lambda item: (-sum(item[1]), item[0]))[:most]
