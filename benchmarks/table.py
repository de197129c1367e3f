"""The results as two tables: medians of the runs, and ratios taken within each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.machine import OTHER_CORES, SERVICE_CORES
from benchmarks.services import BARE_FLOOR, FLOOR, SHARED_CLIENT
from benchmarks.speed import Speed
from benchmarks.stores import STORES

CORES = (
    f"The service has core {min(SERVICE_CORES)} to itself; load generator, receiver and a database "
    f"server of the benchmark's own share core {min(OTHER_CORES)}."
)

HEAD = (
    "| service | accepted/s | delivered/s | of the floor | of the bare floor | times FastAPI |"
    " CPU ms each | CPU of floor's | database server's CPU ms each | p50 ms | p95 ms | p99 ms |"
    " others | second core |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)

FURTHER_HEAD = (
    f"| median (lowest to highest) | {' | '.join(STORES)} | rounds |\n"
    f"|---|{'--:|' * len(STORES)}--:|"
)

Rounds = Mapping[int, Speed]


@dataclass(slots=True)
class Results:
    """Everything that was measured; a failure is the sentence that stands in place of figures."""

    speeds: dict[str, dict[int, Speed]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    further: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """Further figures by their name and unit, then by store, then by round."""


def as_markdown(results: Results) -> str:
    """All results, to be read."""
    rows = [_row(name, rounds, results) for name, rounds in results.speeds.items() if rounds]
    tables = [CORES]
    if rows:
        tables.append("\n".join([HEAD, *rows]))
    if results.further:
        figures = [_further_row(name, runs) for name, runs in results.further.items()]
        tables.append("\n".join([FURTHER_HEAD, *figures]))
    if results.failures:
        tables.append("\n".join(f"* {name}: {why}" for name, why in results.failures.items()))
    return "\n\n".join(tables)


def _further_row(name: str, runs: Mapping[str, Mapping[int, float]]) -> str:
    cells = [_spread(list(runs[store].values())) if store in runs else "-" for store in STORES]
    count = max(len(rounds) for rounds in runs.values())
    return f"| {name} | {' | '.join(cells)} | {count} |"


def _spread(values: Sequence[float]) -> str:
    told = _told(median(values))
    return f"{told} ({_told(min(values))} to {_told(max(values))})" if len(values) > 1 else told


def _told(value: float) -> str:
    """Three digits or a little more: nobody measures better than that here."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def _row(name: str, rounds: Rounds, results: Results) -> str:
    def ratio(other: str, of: Callable[[Speed], float], digits: int = 2) -> str:
        return _ratio(rounds, results.speeds.get(other, {}), of, digits)

    cells: Sequence[Any] = (
        name,
        f"{_median(rounds, _accepted):,.0f}",
        f"{_median(rounds, _delivered):,.0f}",
        ratio(FLOOR.name, _delivered),
        ratio(BARE_FLOOR.name, _delivered),
        ratio(SHARED_CLIENT.name, _delivered, 1),
        f"{_median(rounds, _cpu):.2f}",
        ratio(FLOOR.name, _cpu),
        f"{_median(rounds, _server_cpu):.2f}" if _median(rounds, _server_cpu) else "-",
        *(f"{_median(rounds, delay):.1f}" for delay in (_p50, _p95, _p99)),
        f"{_median(rounds, _others):.0%}",
        f"{_median(rounds, _other_core):.0%}",
    )
    return f"| {' | '.join(cells)} |"


def _median(rounds: Rounds, of: Callable[[Speed], float]) -> float:
    return median(of(speed) for speed in rounds.values())


def _ratio(ours: Rounds, theirs: Rounds, of: Callable[[Speed], float], digits: int) -> str:
    """The median of the ratios of rounds that both were measured in."""
    ratios = [of(ours[number]) / of(theirs[number]) for number in ours.keys() & theirs.keys()]
    return f"{median(ratios):.{digits}f}" if ratios else "-"


def _accepted(speed: Speed) -> float:
    return speed.accepted_per_second


def _delivered(speed: Speed) -> float:
    return speed.delivered_per_second


def _cpu(speed: Speed) -> float:
    return speed.cpu_ms_per_delivery


def _server_cpu(speed: Speed) -> float:
    return speed.server_cpu_ms_per_delivery


def _p50(speed: Speed) -> float:
    return speed.delay_p50_ms


def _p95(speed: Speed) -> float:
    return speed.delay_p95_ms


def _p99(speed: Speed) -> float:
    return speed.delay_p99_ms


def _others(speed: Speed) -> float:
    return speed.others_share


def _other_core(speed: Speed) -> float:
    return speed.other_core_share
