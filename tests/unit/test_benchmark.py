"""The benchmark: what its plan measures, and what its tables say."""

from __future__ import annotations

import pytest

from benchmarks.bursts import Delivered
from benchmarks.plan import FULL, QUICK, RATES
from benchmarks.receiver import Receiver
from benchmarks.services import BARE_FLOOR, FLOOR, OURS, POST, SHARED_CLIENT
from benchmarks.speed import Speed
from benchmarks.steady import Delays, Steady, delays_of
from benchmarks.table import Results, as_markdown

SQLITE, POSTGRES = (service.name for service in OURS)


def a_steady(rate, cpu_ms, *, has_events=False, server=0.0):
    """A load whose delays are 1, 2 and 3 ms, and one more from the event."""
    delays = Delays(1, 2, 3)
    return Steady(rate, cpu_ms, server, delays, delays, Delays(2, 3, 4) if has_events else None)


def a_speed(per_second, cpu_ms, *, rates=RATES, has_events=False, server=0.0):
    """One run: its burst, half of it, and the loads of *rates*."""

    def steady(rate, cpu_ms):
        return a_steady(rate, cpu_ms, has_events=has_events, server=server)

    burst = Delivered(per_second, cpu_ms, server, 0.01, 0.5)
    loads = {rate: steady(rate, 2 * cpu_ms) for rate in rates}
    return Speed(5_000, burst, steady(per_second / 2, cpu_ms), loads)


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
    (times,) = [row for row in rows if row[0] == f"{SQLITE}, times the bare floor's"]
    assert ["2.00"] * 4 == times[1:]


def test_each_load_has_its_delays():
    """At the lowest rate and at half load: from the POST, from the 202, and from the event."""
    results = Results()
    results.speeds[POSTGRES] = {0: a_speed(1_800, 0.6, has_events=True, server=0.2)}
    results.speeds[FLOOR.name] = {0: a_speed(2_000, 0.4, rates=())}

    rows = rows_of(as_markdown(results))

    told = "1.0 / 2.0 / 3.0"
    assert [POSTGRES, "100/s", told, told, "2.0 / 3.0 / 4.0"] in rows
    assert [POSTGRES, "half, 900/s", told, told, "2.0 / 3.0 / 4.0"] in rows
    assert [FLOOR.name, "half, 1,000/s", told, told, "-"] in rows
    assert [f"{POSTGRES}, the server's besides", "0.20", "0.20", "0.20", "0.20"] in rows


def test_what_could_not_be_measured_is_said():
    """A failure is a line, and no table is made of nothing."""
    results = Results(failures={SQLITE: "does not listen"})

    text = as_markdown(results)

    assert f"* {SQLITE}: does not listen" in text
    assert [] == rows_of(text)


def test_the_service_and_the_bare_floor_have_the_same_loads():
    """Their processor times at a steady rate are compared; nothing else is measured there."""
    compared = {one.service.name for one in FULL.speeds if one.extent.rates}

    assert {BARE_FLOOR.name, SQLITE, POSTGRES} == compared
    assert {RATES, ()} == {one.extent.rates for one in FULL.speeds}


def test_what_one_would_write_instead_takes_little_time():
    """Each has one round, and fewer invoices than ours: a third of them at most."""
    counts = {one.service.name: (one.rounds, one.extent.count) for one in FULL.speeds}

    assert (3, 3_000) == counts[SQLITE]
    assert (1, 1_000) == counts[SHARED_CLIENT.name]
    assert (1, 500) == counts[POST.name]


def test_rounds_and_counts_can_be_given():
    """Both are those of every service and part."""
    plan = QUICK.with_rounds(7).with_count(42)

    assert {7} == {one.rounds for one in plan.speeds} | {plan.further_rounds}
    assert {42} == {one.extent.count for one in plan.speeds}
