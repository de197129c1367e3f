"""`python -m benchmarks`: measures everything, shows progress on stderr and prints the tables."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import click

from benchmarks import load
from benchmarks.bursts import Delivered, Target
from benchmarks.costs import START_SECONDS, TAKING_TURNS, TURNS, take_turns, waiting
from benchmarks.errors import BenchmarkError
from benchmarks.folders import temporary_folder
from benchmarks.machine import OTHER_CORES, description
from benchmarks.part import Part, Setting
from benchmarks.plan import COSTS, FULL, FURTHER, PARTS, QUICK, SPEED, Measured, Plan, is_measured
from benchmarks.processes import refusing_url
from benchmarks.receiver import Receiver, receiving
from benchmarks.services import FLOOR, OURS, Service
from benchmarks.speed import measure_speed
from benchmarks.stores import STORES, Missing, Store, opened_stores
from benchmarks.table import Results, as_markdown


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share, and where their results go."""

    plan: Plan
    stores: Mapping[str, Store]
    receiver: Receiver
    refusing_url: str
    results: Results


@click.command()
@click.option("--quick", is_flag=True, help="One or two minutes: one shorter round, speed alone.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(PARTS),
    help="One part of it; may be given several times.",
)
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of everything.")
@click.option("--count", type=click.IntRange(min=1), help="Invoices for each delivered/s.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    quick: bool,
    only: tuple[str, ...],
    rounds: int | None,
    count: int | None,
    json_file: Path | None,
) -> None:
    """Measure the service beside its floor and beside what one would write instead."""
    plan = QUICK if quick else FULL
    if only:
        plan = replace(plan, parts=only)
    if rounds:
        plan = plan.with_rounds(rounds)
    if count:
        plan = plan.with_count(count)
    _end_when_told()
    machine, results = description(), Results()
    began = time.monotonic()
    os.sched_setaffinity(0, OTHER_CORES)
    with (
        temporary_folder() as folder,
        receiving(folder) as receiver,
        refusing_url() as nobody,
        opened_stores(folder) as stores,
    ):
        machine["load, receiver"] = f"{load.KIND}, {receiver.kind}"
        machine.update({name: stores[name].description for name in STORES})
        _measure(Bench(plan, stores, receiver, nobody, results))
        machine["minutes taken"] = f"{(time.monotonic() - began) / 60:.1f}"
        missing = {name for name in STORES if isinstance(stores[name], Missing)}
    click.echo("\n".join(f"* {name}: {value}" for name, value in machine.items()))
    click.echo(f"\n{as_markdown(results)}")
    if json_file:
        json_file.write_text(json.dumps({"machine": machine, **asdict(results)}, indent=2))
    sys.exit(1 if has_failed(results.failures, missing) else 0)


def _end_when_told() -> None:
    """Make a signal the end of every block, so that no other process is left behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _frame: object) -> None:
        # Whoever is impatient now would stop the stopping.
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(f"ended by {signal.Signals(number).name}")

    for number in numbers:
        signal.signal(number, end)


def _measure(bench: Bench) -> None:
    parts = bench.plan.parts
    if SPEED in parts:
        _measure_speeds(bench)
    if COSTS in parts:
        _measure_costs(bench)
    _measure_further(bench, {name: part for name, part in FURTHER.items() if name in parts})


def _measure_speeds(bench: Bench) -> None:
    speeds = bench.plan.speeds
    for number in range(max(one.rounds for one in speeds)):
        for one in speeds:
            if number < one.rounds:
                _measure_speed(bench, one, number)


def _measure_further(bench: Bench, parts: Mapping[str, Part]) -> None:
    for number in range(bench.plan.further_rounds):
        for name, part in parts.items():
            for service in OURS:
                if is_measured(name, service):
                    _measure_part(bench, (name, part), service, number)


def _measure_speed(bench: Bench, measured: Measured, number: int) -> None:
    """Every service once in each round, so that noise of the machine meets all of them."""
    results, service = bench.results, measured.service
    store = bench.stores[service.store]
    if service.name in results.failures:
        return
    what = f"[{number + 1}/{measured.rounds}] {service.name}"
    with _reported(results, service.name, what), temporary_folder() as folder:
        speed = measure_speed(service, store, bench.receiver, folder, measured.extent)
        results.speeds.setdefault(service.name, {})[number] = speed
        _say(f"    {speed.burst.per_second:,.0f} delivered/s, {_company(speed.burst)}")


def _measure_costs(bench: Bench) -> None:
    for number in range(bench.plan.starts):
        what = f"[{number + 1}/{bench.plan.starts}] {COSTS}"
        # Outside of the services: what ends one of them says so.
        with _reported(bench.results, COSTS, f"{what}, {TURNS} turns each"), ExitStack() as ends:
            _measure_start(bench, number, what, ends)


def _measure_start(bench: Bench, number: int, what: str, ends: ExitStack) -> None:
    """All that take turns, started until *ends*; what does not start has no turns."""
    results = bench.results
    targets = dict[str, Target]()
    for service in TAKING_TURNS:
        with _reported(results, f"{COSTS}, {service.name}", f"{what}, {service.name}"):
            store = bench.stores[service.store]
            targets[service.name] = ends.enter_context(waiting(service, store, bench.receiver))
    time.sleep(START_SECONDS)
    for load_name, runs in take_turns(targets):
        of_load = results.costs.setdefault(load_name, {})
        for name, turns in runs.items():
            of_load.setdefault(name, {})[number] = turns
            cost = median(one.cpu_ms_each for one in turns)
            _say(f"    {cost:.2f} CPU ms each at {load_name}, {name}")


def _measure_part(bench: Bench, named: tuple[str, Part], service: Service, number: int) -> None:
    """One round of a part; a failure is not the end of it, the next round tries again."""
    (name, part), results = named, bench.results
    what = f"[{number + 1}/{bench.plan.further_rounds}] {name}, {service.name}"
    with _reported(results, f"{name}, {service.name}", what):
        for figure, value in part(_setting(bench, service, number)):
            runs = results.further.setdefault(figure, {}).setdefault(service.store, {})
            runs[number] = value
            _say(f"    {value:,.2f} {figure}")


def _setting(bench: Bench, service: Service, number: int) -> Setting:
    return Setting(
        service=service,
        store=bench.stores[service.store],
        receiver=bench.receiver,
        refusing_url=bench.refusing_url,
        seconds=bench.plan.further_seconds,
        is_reversed=number % 2 == 1,
        pending_counts=bench.plan.pending_counts,
        history_counts=bench.plan.history_counts,
    )


@contextmanager
def _reported(results: Results, name: str, what: str) -> Iterator[None]:
    """Say what is measured; what cannot be is a line of the table, and the rest goes on."""
    _say(what)
    try:
        yield
    except (BenchmarkError, OSError) as error:
        results.failures[name] = str(error)
        _say(f"    {error}")


def has_failed(failures: Iterable[str], missing: Collection[str]) -> bool:
    """
    Whether one of our own, or a floor, could not be measured though its database is there.

    *failures* are the names of what could not be measured, and *missing* those of databases.
    """
    ours = {one.name for one in (FLOOR, *TAKING_TURNS) if one.store not in missing}
    return any(failed.endswith(name) for failed in failures for name in (COSTS, *ours))


def _company(burst: Delivered) -> str:
    others = f"{burst.others_share:.0%} of its core went to others"
    return f"{others}, the other core was {burst.other_core_share:.0%} busy"


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
