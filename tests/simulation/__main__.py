"""
Runs simulated worlds from the command line.

    python -m tests.simulation SEED             prints the events of that run; or of several
    python -m tests.simulation --runs 5000      runs that many seeds, from --first on
    python -m tests.simulation --twin …         the same, and compares with SQLite
    python -m tests.simulation --greedy …       the same in the worlds with a greedy account
    python -m tests.simulation --paying …       the same in the worlds with payments
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.runs import run


def main(arguments=None):
    """Print the events of runs, or run many seeds; the exit status is 1 if a promise was broken."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.twin and options.greedy:
        # What the memory lists is not compared with SQLite; a greedy account lists all the time.
        parser.error("a greedy world has no twin")
    if options.seeds:
        return max([_print_events(seed, options) for seed in options.seeds])
    seeds = range(options.first, options.first + options.runs)
    return _run_many(seeds, options)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seeds", nargs="*", type=int, help="the seeds whose events are printed")
    parser.add_argument("--runs", type=int, default=2000, help="how many seeds are run")
    parser.add_argument("--twin", action="store_true", help="compare with the statements on SQLite")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--greedy", action="store_true", help="run worlds with a greedy account")
    kinds.add_argument("--paying", action="store_true", help="run worlds with payments")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    return parser


def _run(seed, options):
    return run(seed, has_twin=options.twin, is_greedy=options.greedy, is_paying=options.paying)


def _print_events(seed, options):
    finished = _run(seed, options)
    _print(f"{finished.plan}\n")
    for line in finished.log.lines():
        _print(line)
    _print(f"\n{finished.failure or 'every promise was kept'}")
    return 1 if finished.failure else 0


def _run_many(seeds, options):
    begun_at, failed, seconds, request_count = time.perf_counter(), [], 0.0, 0
    for number, seed in enumerate(seeds, 1):
        finished = _run(seed, options)
        seconds += finished.seconds
        request_count += finished.request_count
        if finished.failure:
            failed.append(seed)
            _print(f"\r{finished.failure}")
        if sys.stdout.isatty() and number % 20 == 0:
            sys.stdout.write(f"\r{number} of {len(seeds)} runs")
            sys.stdout.flush()
    took = time.perf_counter() - begun_at
    _print(
        f"\r{len(seeds)} runs in {took:.1f} s ({1000 * took / len(seeds):.1f} ms each): "
        f"{seconds / 3600:.1f} virtual hours, {request_count} requests, {len(failed)} failed"
    )
    return 1 if failed else 0


def _print(line):
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
