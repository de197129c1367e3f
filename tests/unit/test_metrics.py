import re
from dataclasses import asdict, fields

import pytest
from prometheus_client import values
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.domain.states import INVOICE_MOVES, DeadReason, DeliveryStatus
from service.storage.backlog import Backlog
from service.storage.invoices import Acceptance
from service.storage.settlements import AttemptOutcome
from service.telemetry.figures import SHARED_FOLDER, forget_worker
from service.telemetry.metrics import (
    ACCEPTANCES,
    BACKLOG_FIGURES,
    COLLECTED,
    ENDS,
    OUTCOMES,
    Metrics,
)
from tests.figures import changes, told

BACKLOG = asdict(
    Backlog(
        deliveries_due=3,
        deliveries_waiting=2,
        due_origins=1,
        oldest_due_delivery_age_seconds=1.5,
        collections_due=4,
        oldest_due_collection_age_seconds=0.25,
    )
)
UNITS = ("_total", "_seconds", "_info", "_bytes", "_up")
COUNTS = {
    *("invoices_attempts_in_flight", "invoices_attempts_slots", "invoices_commit_items"),
    *("invoices_connections_open", "invoices_origins_resting", "invoices_deliveries_due"),
    *("invoices_deliveries_waiting", "invoices_due_origins", "invoices_collections_due"),
}
"""Gauges and histograms of things, whose name says of what they are the number."""


@pytest.fixture
def metrics():
    """What is counted."""
    return Metrics("1.2.3")


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Makes the metrics of a worker; all of them share a folder."""
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    # How values are kept is global in prometheus_client.
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    return lambda number: Metrics("1.2.3", worker_number=number)


def families(metrics):
    """What *metrics* tell, family by family, without those of the process."""
    metrics.storage_answered(BACKLOG)
    found = text_string_to_metric_families(metrics.exposition("")[0].decode())
    return [one for one in found if not one.name.startswith(("process_", "python_"))]


# Names


def test_every_figure_is_named_as_prometheus_has_it(metrics):
    """A name begins with whose it is and ends with its unit; the help is one sentence."""
    for family in families(metrics):
        name = family.name + "_total" if family.type == "counter" else family.name
        assert re.fullmatch(r"invoices_[a-z]+(_[a-z]+)*", name)
        assert name.endswith(UNITS) or name in COUNTS, name
        assert re.fullmatch(r"[A-Z][^.]+\.", family.documentation), name


def test_known_labels_are_those_of_the_service():
    """What can happen to an invoice, an attempt and a delivery is there before it happens."""
    ends = [status for status, moves in INVOICE_MOVES.items() if not moves]
    dead = {(DeliveryStatus.DEAD, reason) for reason in DeadReason}

    assert [one.value for one in Acceptance] == list(ACCEPTANCES)
    assert set(ends) == set(COLLECTED)
    assert set(AttemptOutcome) == set(OUTCOMES)
    assert {(DeliveryStatus.DELIVERED, ""), *dead} == set(ENDS)


def test_labels_are_few_and_known(metrics):
    """No label could hold an account, an origin or an id: a figure would grow without end."""
    metrics.answered("create_invoice", 202)
    labels = {
        label
        for family in families(metrics)
        for sample in family.samples
        for label in sample.labels
    }

    assert labels == {
        *("acceptance", "status", "reason", "outcome", "operation", "code", "le", "version")
    }


# What is counted


@pytest.mark.parametrize(
    ("expected", "happen"),
    [
        ({'received_total{acceptance="replayed"}': 1}, lambda m: m.received("replayed")),
        ({'collected_total{status="paid"}': 1}, lambda m: m.collected("paid")),
        ({"commit_items_count": 1, "commit_items_sum": 16}, lambda m: m.committed(16)),
        ({"attempts_in_flight": 1}, lambda m: m.attempt_began()),
        ({"attempts_in_flight": -1}, lambda m: m.attempt_ended()),
        (
            {"attempt_duration_seconds_count": 1, "attempt_duration_seconds_sum": 0.5},
            lambda m: m.attempt_took(0.5),
        ),
        ({'attempts_total{outcome="timeout"}': 1}, lambda m: m.attempt_recorded("timeout")),
        ({'attempts_total{outcome="lost"}': 3}, lambda m: m.attempts_lost(3)),
        ({"attempts_outlived_lease_total": 1}, lambda m: m.attempt_outlived_lease()),
        (
            {'deliveries_settled_total{reason="",status="delivered"}': 1},
            lambda m: m.settled(DeliveryStatus.DELIVERED, None),
        ),
        (
            {'deliveries_settled_total{reason="gone",status="dead"}': 1},
            lambda m: m.settled(DeliveryStatus.DEAD, DeadReason.GONE),
        ),
        (
            {"accepted_to_delivered_seconds_count": 1, "accepted_to_delivered_seconds_sum": 2},
            lambda m: m.delivered_after(2),
        ),
        ({"deliveries_redelivered_total": 2}, lambda m: m.redelivered(2)),
        ({"deliveries_swept_total": 7}, lambda m: m.swept(7)),
        (
            {'http_requests_total{code="503",operation="other"}': 1},
            lambda m: m.answered("other", 503),
        ),
        ({"attempts_slots": 256}, lambda m: m.slots(256)),
        ({"origins_resting": 4}, lambda m: m.origins_resting(4)),
        ({"connections_open": 9}, lambda m: m.connections_open(9)),
    ],
)
def test_what_happens_changes_its_figure_and_no_other(metrics, expected, happen):
    """Each word of the rooms is one figure, or count and sum of one."""
    before = told(metrics)

    happen(metrics)

    ours = {name: by for name, by in changes(before, told(metrics)).items() if "invoices_" in name}
    assert {f"invoices_{name}": by for name, by in expected.items()} == ours


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [("0.005", 0), ("0.005", 0.005), ("0.01", 0.006), ("60.0", 60), ("+Inf", 61), ("0.005", -1)],
)
def test_a_size_falls_into_the_first_bucket_that_holds_it(metrics, expected, seconds):
    """A bound belongs to its bucket; clocks that disagree make nothing smaller than the first."""
    metrics.attempt_took(seconds)
    found = [
        name for name, value in told(metrics).items() if "attempt_duration" in name and value == 1
    ]

    assert f'invoices_attempt_duration_seconds_bucket{{le="{expected}"}}' == found[0]


def test_two_processes_in_one_count_for_themselves(metrics):
    """Nothing is global: what one counts is not in another."""
    metrics.received("stored")

    assert 0 == told(Metrics())['invoices_received_total{acceptance="stored"}']


# What was looked up


def test_a_backlog_is_told_while_the_database_answers(metrics):
    """Every field is a figure of its name; without an answer there is none rather than a 0."""
    names = {f"invoices_{one.name}" for one in fields(Backlog)}

    assert 0 == told(metrics)["invoices_storage_up"]
    assert not names & set(told(metrics))

    metrics.storage_answered(BACKLOG)

    assert 1 == told(metrics)["invoices_storage_up"]
    assert set(BACKLOG_FIGURES) == {one.name for one in fields(Backlog)}
    assert [3, 1.5] == [
        told(metrics)[f"invoices_{name}"]
        for name in ("deliveries_due", "oldest_due_delivery_age_seconds")
    ]

    metrics.storage_is_away()

    assert not names & set(told(metrics))


# How it is told


def test_the_version_is_told(metrics):
    """Which version runs can be seen beside what it does."""
    assert 1 == told(metrics)['invoices_build_info{version="1.2.3"}']


def test_process_and_garbage_collector_are_told(metrics):
    """What the process takes stands beside what it does."""
    assert told(metrics)["process_resident_memory_bytes"] > 0
    assert 'python_gc_collections_total{generation="0"}' in told(metrics)


def test_births_are_not_told(metrics):
    """When a counter was made is no series of its own."""
    assert [] == [name for name in told(metrics) if "_created" in name]


def test_openmetrics_is_told_to_whoever_prefers_it(metrics):
    """Both formats are read back, and say the same."""
    metrics.received("stored")
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    (received,) = [
        one for one in read_openmetrics(text.decode()) if "invoices_received" == one.name
    ]
    assert [1, 0, 0] == [sample.value for sample in received.samples]


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text;version=²"]
)
def test_a_version_that_is_none_gets_the_plainest_format(metrics, accept):
    """What prometheus_client cannot compare is no reason to tell nothing."""
    assert metrics.exposition("")[1] == metrics.exposition(accept)[1]


# Workers


def test_any_worker_tells_what_all_have_counted(worker):
    """Whichever process a scrape reaches, counters and gauges are those of all of them."""
    first, second = worker(0), worker(1)
    first.received("stored")
    second.received("stored")
    second.attempt_took(0.002)
    first.slots(256)
    second.slots(256)

    for one in (first, second):
        assert 2 == told(one)['invoices_received_total{acceptance="stored"}']
        assert 1 == told(one)["invoices_attempt_duration_seconds_count"]
        assert 512 == told(one)["invoices_attempts_slots"]


def test_what_was_looked_up_is_not_added_up(worker):
    """There is one backlog, however many workers have looked at it."""
    first, second = worker(0), worker(1)
    first.storage_answered(BACKLOG)
    second.storage_answered(BACKLOG)

    assert [3, 3] == [told(one)["invoices_deliveries_due"] for one in (first, second)]


def test_a_worker_that_is_replaced_has_counted_all_the_same(worker, tmp_path):
    """Counts go on where the one before ended; what was the case in it is over."""
    for _ in range(3):
        ended = worker(0)
        ended.received("stored")
        ended.attempt_began()
        forget_worker(0, str(tmp_path))

    assert 3 == told(worker(0))['invoices_received_total{acceptance="stored"}']
    assert 0 == told(worker(0))["invoices_attempts_in_flight"]
    assert 3 == len(list(tmp_path.iterdir()))


def test_a_worker_of_which_nobody_knows_which_tells_nothing_of_its_process(worker):
    """Memory and time of one of several, taken at random, would jump up and down."""
    assert [] == [name for name in told(worker(0)) if name.startswith(("process_", "python_"))]


def test_a_file_that_cannot_be_read_takes_nothing_else_along(worker, tmp_path):
    """A scrape that meets a file in its making is answered."""
    metrics = worker(0)
    (tmp_path / "counter_1.db").write_bytes(b"")

    assert 0 == told(metrics)["invoices_storage_up"]
