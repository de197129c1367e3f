"""
Runs simulated worlds from the command line.

    python -m tests.simulation SEED             prints the story of that run; several may be named
    python -m tests.simulation --runs 5000      explores that many seeds, from --first on
    python -m tests.simulation --twin …         the same, with the statements of SQLite beside it
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.runs import run


def main(arguments=None):
    """Print stories, or explore; the exit status is 1 if a promise was broken."""
    options = _parser().parse_args(arguments)
    if options.seeds:
        return max([_print_story(seed, options.twin) for seed in options.seeds])
    return _explore(range(options.first, options.first + options.runs), options.twin)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seeds", nargs="*", type=int, help="the runs whose stories are printed")
    parser.add_argument("--runs", type=int, default=2000, help="how many seeds are explored")
    parser.add_argument("--twin", action="store_true", help="try the statements of SQLite too")
    parser.add_argument("--first", type=int, default=0, help="the seed that is explored first")
    return parser


def _print_story(seed, has_twin):
    finished = run(seed, has_twin=has_twin)
    _say(f"{finished.plan}\n")
    for line in finished.story.lines():
        _say(line)
    _say(f"\n{finished.complaint or 'every promise was kept'}")
    return 1 if finished.complaint else 0


def _explore(seeds, has_twin):
    begun_at, failed, seconds, request_count = time.perf_counter(), [], 0.0, 0
    for number, seed in enumerate(seeds, 1):
        finished = run(seed, has_twin=has_twin)
        seconds += finished.seconds
        request_count += finished.request_count
        if finished.complaint:
            failed.append(seed)
            _say(f"\r{finished.complaint}")
        if sys.stdout.isatty() and number % 20 == 0:
            sys.stdout.write(f"\r{number} of {len(seeds)} runs")
            sys.stdout.flush()
    took = time.perf_counter() - begun_at
    _say(
        f"\r{len(seeds)} runs in {took:.1f} s ({1000 * took / len(seeds):.1f} ms each): "
        f"{seconds / 3600:.1f} virtual hours, {request_count} requests, {len(failed)} failed"
    )
    return 1 if failed else 0


def _say(line):
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
