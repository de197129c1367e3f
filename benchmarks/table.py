"""The results as one table: medians of the runs, and ratios taken within each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.services import BARE_FLOOR, FLOOR, SHARED_CLIENT
from benchmarks.speed import Speed

HEAD = (
    "| service | accepted/s | delivered/s | of the floor | of the bare floor | times FastAPI |"
    " CPU ms each | CPU of floor's | p50 ms | p95 ms | p99 ms | others |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)

Rounds = Mapping[int, Speed]


@dataclass(slots=True)
class Results:
    """Everything that was measured; a failure is the sentence that stands in place of figures."""

    speeds: dict[str, dict[int, Speed]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    further: dict[str, list[float]] = field(default_factory=dict)
    """Further figures by their name and unit, each with its runs."""


def as_markdown(results: Results) -> str:
    """All results, to be read."""
    rows = [_row(name, rounds, results) for name, rounds in results.speeds.items() if rounds]
    lines = [HEAD, *rows]
    if results.further:
        lines += ["", "| what | median | of runs |", "|---|--:|--:|"]
        lines += [
            f"| {name} | {median(runs):.1f} | {len(runs)} |"
            for name, runs in results.further.items()
        ]
    if results.failures:
        lines += ["", *(f"* {name}: {why}" for name, why in results.failures.items())]
    return "\n".join(lines)


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
        *(f"{_median(rounds, delay):.1f}" for delay in (_p50, _p95, _p99)),
        f"{_median(rounds, _others):.0%}",
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


def _p50(speed: Speed) -> float:
    return speed.delay_p50_ms


def _p95(speed: Speed) -> float:
    return speed.delay_p95_ms


def _p99(speed: Speed) -> float:
    return speed.delay_p99_ms


def _others(speed: Speed) -> float:
    return speed.others_share
