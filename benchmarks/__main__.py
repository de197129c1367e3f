"""`python -m benchmarks`: measures everything, shows progress on stderr and prints one table."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks import load
from benchmarks.errors import BenchmarkError
from benchmarks.hanging import measure_healthy
from benchmarks.machine import OTHER_CORES, description
from benchmarks.memory import measure_memory
from benchmarks.receiver import Receiver, receiving
from benchmarks.services import BARE_FLOOR, DEFAULT_DELAY, FLOOR, OURS, POST, SHARED_CLIENT, Service
from benchmarks.speed import Speed, measure_speed
from benchmarks.table import Results, as_markdown


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: *seconds* for each figure of each service in each round."""

    rounds: int
    seconds: float
    further_rounds: int
    further_seconds: float
    services: tuple[Service, ...]
    pending_counts: tuple[int, ...] = (0, 10_000, 100_000)


RIVALS = (SHARED_CLIENT, POST)
FULL = Plan(
    rounds=5,
    seconds=3,
    further_rounds=3,
    further_seconds=10,
    services=(FLOOR, BARE_FLOOR, *OURS, *DEFAULT_DELAY, *RIVALS),
)
QUICK = Plan(
    rounds=2,
    seconds=1,
    further_rounds=0,
    further_seconds=0,
    services=(FLOOR, BARE_FLOOR, *OURS, *RIVALS),
)


@click.command()
@click.option(
    "--quick", is_flag=True, help="About a minute: fewer and shorter rounds, speed alone."
)
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of everything.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(quick: bool, rounds: int | None, json_file: Path | None) -> None:
    """Measure the service beside its floor and beside what one would write instead."""
    plan = QUICK if quick else FULL
    if rounds:
        plan = replace(plan, rounds=rounds, further_rounds=min(rounds, plan.further_rounds))
    machine, results = description(), Results()
    # Ended from outside, Python would leave the other processes behind, busy on their cores.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    os.sched_setaffinity(0, OTHER_CORES)
    with _folder() as folder, receiving(folder) as receiver:
        machine["load, receiver"] = f"{load.KIND}, {receiver.kind}"
        _measure_speeds(plan, receiver, results)
        for number in range(plan.further_rounds):
            _measure_further(plan, f"{number + 1}/{plan.further_rounds}", receiver, results)
    click.echo("\n".join(f"* {name}: {value}" for name, value in machine.items()))
    click.echo(f"\n{as_markdown(results)}")
    if json_file:
        json_file.write_text(json.dumps({"machine": machine, **asdict(results)}, indent=2))
    sys.exit(1 if any(service.name in results.failures for service in OURS) else 0)


def _measure_speeds(plan: Plan, receiver: Receiver, results: Results) -> None:
    """Every service once in each round, so that noise of the machine meets all of them."""
    for number in range(plan.rounds):
        for service in plan.services:
            if service.name in results.failures:
                continue
            with (
                _reported(results, service.name, f"{number + 1}/{plan.rounds}"),
                _folder() as folder,
            ):
                speed = measure_speed(service, receiver, folder, plan.seconds)
                results.speeds.setdefault(service.name, {})[number] = speed
                _say(f"    {speed.delivered_per_second:,.0f} delivered/s, {_company(speed)}")


def _measure_further(plan: Plan, number: str, receiver: Receiver, results: Results) -> None:
    for service in OURS:
        for count in plan.pending_counts:
            _add(
                results,
                f"{service.name}: MiB with {count:,} pending",
                number,
                lambda folder, service=service, count=count: measure_memory(
                    service, folder, count, plan.further_seconds
                ),
            )
        for is_beside, words in ((False, "alone"), (True, "beside 100 that hang")):
            _add(
                results,
                f"{service.name}: p99 ms of a healthy receiver {words}",
                number,
                lambda folder, service=service, is_beside=is_beside: measure_healthy(
                    service, receiver, folder, plan.further_seconds, is_beside_hanging=is_beside
                ),
            )


def _add(results: Results, name: str, number: str, measure: Callable[[Path], float]) -> None:
    if name in results.failures:
        return
    with _reported(results, name, number), _folder() as folder:
        figure = measure(folder)
        results.further.setdefault(name, []).append(figure)
        _say(f"    {figure:.1f}")


@contextmanager
def _reported(results: Results, name: str, number: str) -> Iterator[None]:
    """Say what is measured; what cannot be is a line of the table, and the rest goes on."""
    _say(f"[{number}] {name}")
    try:
        yield
    except BenchmarkError as error:
        results.failures[name] = str(error)
        _say(f"    {error}")


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for one measurement, readable by a receiver that gives up its privileges."""
    with TemporaryDirectory(prefix="invoices-benchmark-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _company(speed: Speed) -> str:
    return f"{speed.others_share:.0%} of its core went to others"


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
