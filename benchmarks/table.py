"""The results as tables, ready for docs/performance.md: medians, and ratios within each round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.machine import OTHER_CORES, SERVICE_CORES
from benchmarks.services import BARE_FLOOR, FLOOR, SHARED_CLIENT
from benchmarks.speed import Speed
from benchmarks.steady import Delays
from benchmarks.stores import STORES

CORES = (
    f"The service has core {min(SERVICE_CORES)} to itself; load generator, receiver and a database "
    f"server of the benchmark's own share core {min(OTHER_CORES)}."
)

BURST_HEAD = (
    "| service | accepted/s | delivered/s | of the floor | of the bare floor | times FastAPI |"
    " CPU ms each | CPU of floor's | database server's CPU ms each | others | second core |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)

DELAYS_HEAD = (
    "| p50 / p95 / p99 ms until the arrival | rate | from POST | from the 202 | from the event |\n"
    "|---|--:|--:|--:|--:|"
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
    measured = {name: rounds for name, rounds in results.speeds.items() if rounds}
    tables = [CORES]
    if measured:
        bursts = [_burst_row(name, rounds, measured) for name, rounds in measured.items()]
        delays = [row for name, rounds in measured.items() for row in _delay_rows(name, rounds)]
        tables.append("\n".join([BURST_HEAD, *bursts]))
        tables.append("\n".join([DELAYS_HEAD, *delays]))
        tables += _cost_table(measured)
    if results.further:
        figures = [_further_row(name, runs) for name, runs in results.further.items()]
        tables.append("\n".join([FURTHER_HEAD, *figures]))
    if results.failures:
        tables.append("\n".join(f"* {name}: {why}" for name, why in results.failures.items()))
    return "\n\n".join(tables)


def _burst_row(name: str, rounds: Rounds, measured: Mapping[str, Rounds]) -> str:
    def ratio(other: str, of: Callable[[Speed], float], digits: int = 2) -> str:
        return _ratio(rounds, measured.get(other, {}), of, digits)

    server = _median(rounds, _server_cpu)
    return _line(
        name,
        f"{_median(rounds, lambda one: one.accepted_per_second):,.0f}",
        f"{_median(rounds, _delivered):,.0f}",
        ratio(FLOOR.name, _delivered),
        ratio(BARE_FLOOR.name, _delivered),
        ratio(SHARED_CLIENT.name, _delivered, 1),
        f"{_median(rounds, _cpu):.2f}",
        ratio(FLOOR.name, _cpu),
        f"{server:.2f}" if server else "-",
        f"{_median(rounds, lambda one: one.burst.others_share):.0%}",
        f"{_median(rounds, lambda one: one.burst.other_core_share):.0%}",
    )


def _delay_rows(name: str, rounds: Rounds) -> Iterator[str]:
    """One row for the lowest rate, and one for half of what the service delivers."""
    rates, half = _rates(rounds)[:1], [one.half for one in rounds.values()]
    loads = {f"{rate}/s": [one.steady[rate] for one in rounds.values()] for rate in rates}
    loads[f"half, {median(one.rate for one in half):,.0f}/s"] = half
    for rate, runs in loads.items():
        yield _line(
            name,
            rate,
            _delays([one.from_post for one in runs]),
            _delays([one.from_answer for one in runs]),
            _delays([one.from_event for one in runs if one.from_event]),
        )


def _cost_table(measured: Mapping[str, Rounds]) -> list[str]:
    """
    The processor time of one delivered invoice at each rate, beside the bare application.

    No table if there were no steady loads.
    """
    compared = {name: rounds for name, rounds in measured.items() if _rates(rounds)}
    rates = _rates(next(iter(compared.values()), {}))
    bare = measured.get(BARE_FLOOR.name, {})
    head = _line("CPU ms each", *(f"{rate}/s" for rate in rates), "burst")
    rows = [head, f"|---|{'--:|' * len(rates)}--:|"]
    for name, rounds in compared.items():
        costs = [_cost_at(rate) for rate in rates]
        rows.append(_costs(name, rounds, [*costs, _cpu]))
        if rounds is not bare:
            ratios = [_ratio(rounds, bare, cost) for cost in (*costs, _cpu)]
            rows.append(_line(f"{name}, times the bare floor's", *ratios))
        if _median(rounds, _server_cpu):
            costs = [_server_cost_at(rate) for rate in rates]
            rows.append(_costs(f"{name}, the server's besides", rounds, [*costs, _server_cpu]))
    return ["\n".join(rows)] if compared else []


def _costs(name: str, rounds: Rounds, costs: Sequence[Callable[[Speed], float]]) -> str:
    return _line(name, *(f"{_median(rounds, cost):.2f}" for cost in costs))


def _cost_at(rate: int) -> Callable[[Speed], float]:
    return lambda one: one.steady[rate].cpu_ms_each


def _server_cost_at(rate: int) -> Callable[[Speed], float]:
    return lambda one: one.steady[rate].server_cpu_ms_each


def _rates(rounds: Rounds) -> tuple[int, ...]:
    return tuple(next(iter(rounds.values())).steady) if rounds else ()


def _delays(runs: Sequence[Delays]) -> str:
    if not runs:
        return "-"
    medians = (median(getattr(one, name) for one in runs) for name in ("p50", "p95", "p99"))
    return " / ".join(f"{one:.1f}" for one in medians)


def _further_row(name: str, runs: Mapping[str, Mapping[int, float]]) -> str:
    cells = [_spread(list(runs[store].values())) if store in runs else "-" for store in STORES]
    count = max(len(rounds) for rounds in runs.values())
    return _line(name, *cells, str(count))


def _spread(values: Sequence[float]) -> str:
    told = _told(median(values))
    return f"{told} ({_told(min(values))} to {_told(max(values))})" if len(values) > 1 else told


def _told(value: float) -> str:
    """Three digits or a little more: nobody measures better than that here."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _median(rounds: Rounds, of: Callable[[Speed], float]) -> float:
    return median(of(speed) for speed in rounds.values())


def _ratio(ours: Rounds, theirs: Rounds, of: Callable[[Speed], float], digits: int = 2) -> str:
    """The median of the ratios of rounds that both were measured in."""
    ratios = [of(ours[number]) / of(theirs[number]) for number in ours.keys() & theirs.keys()]
    return f"{median(ratios):.{digits}f}" if ratios else "-"


def _delivered(speed: Speed) -> float:
    return speed.burst.per_second


def _cpu(speed: Speed) -> float:
    return speed.burst.cpu_ms_each


def _server_cpu(speed: Speed) -> float:
    return speed.burst.server_cpu_ms_each
