"""The results as tables, ready for docs/performance.md: medians, and ratios within each round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.bursts import Delivered
from benchmarks.costs import COMPARED, LOADS
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

Starts = Mapping[int, Sequence[Delivered]]
"""What one service delivered in its turns, by the number of the start."""


@dataclass(slots=True)
class Results:
    """Everything that was measured; a failure is the sentence that stands in place of figures."""

    speeds: dict[str, dict[int, Speed]] = field(default_factory=dict)
    costs: dict[str, dict[str, dict[int, list[Delivered]]]] = field(default_factory=dict)
    """What was delivered in each turn, by load, by service and by the number of the start."""
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
    if results.costs:
        tables.append("\n".join(_cost_rows(results.costs)))
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
    """One row for the low rate, if that was measured, and one for half of what is delivered."""
    half = [one.half for one in rounds.values()]
    low = [one.low for one in rounds.values() if one.low]
    loads = {f"{one.rate}/s": low for one in low[:1]}
    loads[f"half, {median(one.rate for one in half):,.0f}/s"] = half
    for rate, runs in loads.items():
        yield _line(
            name,
            rate,
            _delays([one.from_post for one in runs]),
            _delays([one.from_answer for one in runs]),
            _delays([one.from_event for one in runs if one.from_event]),
        )


def _cost_rows(costs: Mapping[str, Mapping[str, Starts]]) -> Iterator[str]:
    """The processor time of a delivered invoice at each load, and how many times another's."""
    yield _line("CPU ms each", *LOADS)
    yield f"|---|{'--:|' * len(LOADS)}"
    of_loads = [costs.get(load, {}) for load in LOADS]
    for name in next(iter(costs.values())):
        ours = [of_load.get(name, {}) for of_load in of_loads]
        yield _line(name, *(_cost(one, _service_ms) for one in ours))
        other, words = COMPARED.get(name, ("", ""))
        if any(other in of_load for of_load in of_loads):
            theirs = [of_load.get(other, {}) for of_load in of_loads]
            yield _line(f"{name}, {words}", *map(_times, ours, theirs))
        if any(_server_ms(turn) for one in ours for turn in _turns(one)):
            yield _line(f"{name}, the server's besides", *(_cost(one, _server_ms) for one in ours))


def _cost(starts: Starts, of: Callable[[Delivered], float]) -> str:
    turns = _turns(starts)
    return f"{median(map(of, turns)):.2f}" if turns else "-"


def _times(ours: Starts, theirs: Starts) -> str:
    """How many times the cost of *theirs* that of *ours* is: turn by turn, then start by start."""
    ratios = [
        median(_service_ms(a) / _service_ms(b) for a, b in zip(ours[at], theirs[at], strict=True))
        for at in ours.keys() & theirs.keys()
    ]
    return _spread(ratios) if ratios else "-"


def _turns(starts: Starts) -> list[Delivered]:
    return [turn for turns in starts.values() for turn in turns]


def _service_ms(delivered: Delivered) -> float:
    return delivered.cpu_ms_each


def _server_ms(delivered: Delivered) -> float:
    return delivered.server_cpu_ms_each


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
