"""The benchmark: what its plan measures, and what its tables say."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import has_failed
from benchmarks.bursts import Delivered
from benchmarks.costs import TWO_WORKERS
from benchmarks.plan import FULL, LOW_RATE, QUICK
from benchmarks.receiver import Receiver
from benchmarks.services import BARE_FLOOR, FLOOR, OURS, POST, SHARED_CLIENT
from benchmarks.speed import Speed
from benchmarks.steady import Delays, Steady, delays_of
from benchmarks.table import Results, as_markdown

SQLITE, POSTGRES = (service.name for service in OURS)


def a_steady(rate, *, has_events):
    """A load whose delays are 1, 2 and 3 ms, and one more from the event."""
    delays = Delays(1, 2, 3)
    return Steady(rate, delays, delays, Delays(2, 3, 4) if has_events else None)


def a_burst(per_second, cpu_ms, server=0.0):
    """What was delivered as fast as possible."""
    return Delivered(per_second, cpu_ms, server, 0.01, 0.5)


def a_speed(per_second, cpu_ms, *, low_rate=LOW_RATE, has_events=False):
    """One run: its burst, half of it, and the load of *low_rate*."""
    half = a_steady(per_second / 2, has_events=has_events)
    low = low_rate and a_steady(low_rate, has_events=has_events)
    return Speed(5_000, a_burst(per_second, cpu_ms), half, low)


def starts(*starts, server=0.0):
    """What was delivered in the turns after each start, at these costs each."""
    delivered = [[a_burst(1_000, one, server) for one in turns] for turns in starts]
    return dict(enumerate(delivered))


def rows_of(table):
    """The cells of each row, by its first cell and the kind of its table."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [line for line in lines if not line[0].startswith("---")]


def test_delays_are_those_of_each_invoice():
    """A delay is from what one invoice did first to its own arrival, in milliseconds."""
    since = {f"run1-{number}": 10.0 for number in range(100)}
    arrived = {name: 10.0 + number / 1000 for number, name in enumerate(since)}

    found = delays_of(since, arrived)

    assert [49.5, 94.05, 98.01] == [round(one, 2) for one in (found.p50, found.p95, found.p99)]


def test_half_a_tick_is_added_to_a_coarse_clock(tmp_path):
    """Instants that are cut to whole milliseconds are not early on the average."""
    arrivals = tmp_path / "arrivals"
    arrivals.write_text("100.001 /invoices/run1-1\n100.002 /invoices/run1-1\n")

    arrived = Receiver("nginx", "http://127.0.0.1:1", arrivals, 0.001).wait_for("run1", 1)

    assert {"run1-1": pytest.approx(100.0015)} == arrived


def test_ratios_are_those_of_a_round():
    """The median of ratios within rounds: noise that meets both sides of a round cancels out."""
    results = Results()
    results.speeds[BARE_FLOOR.name] = {0: a_speed(4_000, 0.2), 1: a_speed(2_000, 0.4)}
    results.speeds[SQLITE] = {0: a_speed(2_000, 0.4), 1: a_speed(1_000, 0.8)}

    rows = rows_of(as_markdown(results))

    (burst,) = [row for row in rows if row[0] == SQLITE and len(row) == 11]
    assert ["1,500", "-", "0.50"] == burst[2:5]


def test_costs_are_compared_turn_by_turn():
    """Each service with the bare floor, two workers with one: for each start, a median of turns."""
    results = Results()
    results.costs["100/s"] = {
        BARE_FLOOR.name: starts([1, 2, 1], [1], [1]),
        SQLITE: starts([2, 4, 9], [2.2], [2.4]),
        POSTGRES: starts([1.5, 4, 1.5], [1.5], [1.5], server=0.2),
        TWO_WORKERS.name: starts([1.5, 4, 3], [3], [1.8], server=0.3),
    }
    results.costs["burst"] = {BARE_FLOOR.name: starts([0.5]), SQLITE: starts([1])}

    rows = {row[0]: row[1:] for row in rows_of(as_markdown(results))}

    assert ["1.00", "-", "-", "0.50"] == rows[BARE_FLOOR.name]
    assert ["2.40", "-", "-", "1.00"] == rows[SQLITE]
    times = rows[f"{SQLITE}, times the bare floor's"]
    assert ["2.20 (2.00 to 2.40)", "-", "-", "2.00"] == times
    times = rows[f"{TWO_WORKERS.name}, times one worker's"]
    assert ["1.20 (1.00 to 2.00)", "-", "-", "-"] == times
    assert ["0.20", "-", "-", "-"] == rows[f"{POSTGRES}, the server's besides"]


def test_each_load_has_its_delays():
    """At the lowest rate and at half load: from the POST, from the 202, and from the event."""
    results = Results()
    results.speeds[POSTGRES] = {0: a_speed(1_800, 0.6, has_events=True)}
    results.speeds[FLOOR.name] = {0: a_speed(2_000, 0.4, low_rate=None)}

    rows = rows_of(as_markdown(results))

    told = "1.0 / 2.0 / 3.0"
    assert [POSTGRES, "100/s", told, told, "2.0 / 3.0 / 4.0"] in rows
    assert [POSTGRES, "half, 900/s", told, told, "2.0 / 3.0 / 4.0"] in rows
    assert [FLOOR.name, "half, 1,000/s", told, told, "-"] in rows


def test_what_could_not_be_measured_is_said():
    """A failure is a line, and no table is made of nothing."""
    results = Results(failures={SQLITE: "does not listen"})

    text = as_markdown(results)

    assert f"* {SQLITE}: does not listen" in text
    assert [] == rows_of(text)


@pytest.mark.parametrize(
    ("failed", "missing", "expected"),
    [
        (SQLITE, (), True),
        (f"memory, {POSTGRES}", (), True),
        ("costs", (), True),
        (f"costs, {TWO_WORKERS.name}", (), True),
        (f"costs, {TWO_WORKERS.name}", ("PostgreSQL",), False),
        (f"held, {POSTGRES}", ("PostgreSQL",), False),
        (POST.name, (), False),
    ],
)
def test_what_is_ours_has_to_be_measured(failed, missing, expected):
    """The benchmark fails if it could not measure our own, unless a database is not there."""
    assert expected is has_failed([failed], missing)


def test_the_service_and_the_bare_floor_have_the_same_low_load():
    """Their delays at a steady rate are compared; nothing else is measured there."""
    compared = {one.service.name for one in FULL.speeds if one.extent.low_rate}

    assert {BARE_FLOOR.name, SQLITE, POSTGRES} == compared
    assert {LOW_RATE, None} == {one.extent.low_rate for one in FULL.speeds}


def test_what_one_would_write_instead_takes_little_time():
    """Each has one round, and fewer invoices than ours: a third of them at most."""
    counts = {one.service.name: (one.rounds, one.extent.count) for one in FULL.speeds}

    assert (3, 3_000) == counts[SQLITE]
    assert (1, 1_000) == counts[SHARED_CLIENT.name]
    assert (1, 500) == counts[POST.name]


def test_rounds_and_counts_can_be_given():
    """Both are those of every service and part."""
    plan = QUICK.with_rounds(7).with_count(42)

    assert {7} == {one.rounds for one in plan.speeds} | {plan.starts, plan.further_rounds}
    assert {42} == {one.extent.count for one in plan.speeds}
