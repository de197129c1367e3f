import asyncio
import re
from dataclasses import asdict, fields

import pytest
from prometheus_client import values
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.domain.outcomes import AttemptOutcome, MailOutcome
from service.domain.payment import PaymentKind
from service.domain.states import (
    COLLECTED,
    Acceptance,
    DeadReason,
    DeliveryStatus,
    InvoiceStatus,
)
from service.errors import PREVENTED_BY
from service.storage.backlog import Backlog
from service.telemetry.metrics import BACKLOG_GAUGES, Metrics
from service.telemetry.workers import SHARED_FOLDER, forget_worker
from tests.samples import changes, samples_of

BACKLOG = asdict(
    Backlog(
        deliveries_due=3,
        deliveries_waiting=2,
        due_receivers=1,
        oldest_due_delivery_age_seconds=1.5,
        collections_due=4,
        oldest_unanswered_payment_age_seconds=8,
        oldest_due_collection_age_seconds=0.25,
        mails_due=5,
        oldest_due_mail_age_seconds=0.5,
    )
)
STORED = 'invoices_received_total{acceptance="stored"}'
UNITS = ("_total", "_seconds", "_info", "_bytes", "_up")
COUNTS = {
    *("invoices_attempts_in_flight", "invoices_attempts_slots", "invoices_commit_items"),
    *("invoices_connections_open", "invoices_receivers_cooling_down", "invoices_deliveries_due"),
    *("invoices_deliveries_waiting", "invoices_due_receivers", "invoices_collections_due"),
    *("invoices_connections_kept", "invoices_descriptors_open", "invoices_descriptors_allowed"),
    *("invoices_mails_due", "invoices_mail_paused"),
    *(f"invoices_account_attempts_{name}" for name in ("in_flight", "waiting", "refused")),
    *("invoices_mails_due", "invoices_mail_paused", "invoices_listeners_connected"),
}
"""Gauges, and histograms of counts: their names say what they count."""


@pytest.fixture
def metrics():
    """The metrics of a process."""
    return Metrics("1.2.3")


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Makes the metrics of a worker; all workers share a folder."""
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    # The class of values is global in prometheus_client.
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    return lambda number: Metrics("1.2.3", worker_number=number)


def families(metrics):
    """The metric families of *metrics*, without those of the process."""
    metrics.storage_answered(BACKLOG)
    found = text_string_to_metric_families(metrics.exposition("")[0].decode())
    return [one for one in found if not one.name.startswith(("process_", "python_"))]


# Names


def test_metric_names_follow_the_rules_of_prometheus(metrics):
    """A name begins with the service and ends with its unit; its help is one sentence."""
    for family in families(metrics):
        name = family.name + "_total" if family.type == "counter" else family.name
        assert re.fullmatch(r"invoices_[a-z]+(_[a-z]+)*", name)
        assert name.endswith(UNITS) or name in COUNTS, name
        assert re.fullmatch(r"[A-Z][^.]+\.", family.documentation), name


def test_known_labels_are_exposed_from_the_start(metrics):
    """The counter of every known label is 0 before its first event."""
    settled = [("", DeliveryStatus.DELIVERED), *((one, DeliveryStatus.DEAD) for one in DeadReason)]
    known = {
        *(f'received_total{{acceptance="{one}"}}' for one in Acceptance),
        *(f'collected_total{{status="{one}"}}' for one in COLLECTED),
        *(f'payments_total{{kind="{one}"}}' for one in PaymentKind),
        *(f'refunds_total{{status="{one}"}}' for one in ("succeeded", "failed")),
        *(
            f'receiver_notices_total{{kind="{one}"}}'
            for one in ("failing", "still_failing", "recovered")
        ),
        *(f'attempts_total{{outcome="{one}"}}' for one in AttemptOutcome),
        *(f'attempts_prevented_total{{cause="{one}"}}' for one in PREVENTED_BY),
        *(f'mail_attempts_total{{outcome="{one}"}}' for one in MailOutcome),
        *(f'deliveries_settled_total{{reason="{one}",status="{end}"}}' for one, end in settled),
    }
    exposed = {
        name: value
        for name, value in samples_of(metrics).items()
        if name.startswith("invoices_") and "_total{" in name
    }

    assert {f"invoices_{name}": 0 for name in known} == exposed


def test_labels_have_few_values(metrics):
    """
    No label contains an origin or an id, because the number of series is limited.

    An account is the label of the metrics for the ten busiest accounts alone.
    """
    metrics.answered("create_invoice", 202)
    metrics.accounts.attempt_refused("acc_1")
    labels = {
        label
        for family in families(metrics)
        for sample in family.samples
        for label in sample.labels
    }

    assert labels == {
        *("acceptance", "status", "reason", "outcome", "operation", "code", "le", "version"),
        *("kind", "cause", "account"),
    }
    of_accounts = {one.name for one in families(metrics) if "account" in one.name}
    assert of_accounts == {
        one.name
        for one in families(metrics)
        for sample in one.samples
        if "account" in sample.labels
    }


# Counting


@pytest.mark.parametrize(
    ("expected", "happen"),
    [
        ({'received_total{acceptance="replayed"}': 1}, lambda m: m.received(Acceptance.REPLAYED)),
        ({'collected_total{status="paid"}': 1}, lambda m: m.collected(InvoiceStatus.PAID)),
        ({"commit_items_count": 1, "commit_items_sum": 16}, lambda m: m.committed(16)),
        ({"attempts_in_flight": 1}, lambda m: m.attempt_began()),
        ({"attempts_in_flight": -1}, lambda m: m.attempt_ended()),
        (
            {"attempt_duration_seconds_count": 1, "attempt_duration_seconds_sum": 0.5},
            lambda m: m.attempt_took(0.5),
        ),
        (
            {'attempts_total{outcome="timeout"}': 1},
            lambda m: m.attempt_recorded(AttemptOutcome.TIMEOUT),
        ),
        ({'attempts_total{outcome="lost"}': 3}, lambda m: m.attempts_lost(3)),
        ({'attempts_prevented_total{cause="proxy"}': 1}, lambda m: m.attempt_prevented("proxy")),
        ({"processes_lost_total": 1}, lambda m: m.process_lost()),
        ({"connections_kept": 7}, lambda m: m.connections_kept(7)),
        ({"descriptors_open": 7, "descriptors_allowed": 9}, lambda m: m.descriptors(7, 9)),
        ({"descriptors_exhausted_total": 1}, lambda m: m.descriptors_exhausted()),
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
        ({"receivers_cooling_down": 4}, lambda m: m.receivers_cooling_down(4)),
        ({"connections_open": 9}, lambda m: m.connections_open(9)),
    ],
)
def test_an_event_changes_its_metric_only(metrics, expected, happen):
    """Each event changes one sample, or the count and the sum of one histogram."""
    before = samples_of(metrics)

    happen(metrics)

    ours = {
        name: by for name, by in changes(before, samples_of(metrics)).items() if "invoices_" in name
    }
    assert {f"invoices_{name}": by for name, by in expected.items()} == ours


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [("0.005", 0), ("0.005", 0.005), ("0.01", 0.006), ("60.0", 60), ("+Inf", 61), ("0.005", -1)],
)
def test_a_size_is_in_the_first_bucket_that_includes_it(metrics, expected, seconds):
    """A bound belongs to its bucket; a negative duration is in the first bucket."""
    metrics.attempt_took(seconds)
    found = [
        name
        for name, value in samples_of(metrics).items()
        if "attempt_duration" in name and value == 1
    ]

    assert f'invoices_attempt_duration_seconds_bucket{{le="{expected}"}}' == found[0]


def test_two_metrics_in_one_process_are_independent(metrics):
    """No counter is global."""
    metrics.received(Acceptance.STORED)

    assert 0 == samples_of(Metrics())[STORED]


# The backlog


def test_a_backlog_is_exposed_while_the_database_is_available(metrics):
    """Every field is a gauge of its name; without a database the gauge is missing and not 0."""
    names = {f"invoices_{one.name}" for one in fields(Backlog)}

    assert 0 == samples_of(metrics)["invoices_storage_up"]
    assert not names & set(samples_of(metrics))

    metrics.storage_answered(BACKLOG)

    assert 1 == samples_of(metrics)["invoices_storage_up"]
    assert set(BACKLOG_GAUGES) == {one.name for one in fields(Backlog)}
    assert [3, 1.5] == [
        samples_of(metrics)[f"invoices_{name}"]
        for name in ("deliveries_due", "oldest_due_delivery_age_seconds")
    ]

    metrics.storage_unavailable()

    assert not names & set(samples_of(metrics))


# Exposition


def test_the_version_is_exposed(metrics):
    """The version of the process is a metric."""
    assert 1 == samples_of(metrics)['invoices_build_info{version="1.2.3"}']


def test_process_and_garbage_collector_are_exposed(metrics):
    """Memory, processor time and garbage collections of the process are metrics."""
    assert samples_of(metrics)["process_resident_memory_bytes"] > 0
    assert 'python_gc_collections_total{generation="0"}' in samples_of(metrics)


def test_created_series_are_not_exposed(metrics):
    """The instants at which counters were created are not exposed."""
    assert [] == [name for name in samples_of(metrics) if "_created" in name]


def test_openmetrics_is_exposed_if_preferred(metrics):
    """Both formats contain the same samples."""
    metrics.received(Acceptance.STORED)
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    (received,) = [
        one for one in read_openmetrics(text.decode()) if "invoices_received" == one.name
    ]
    assert [1, 0, 0] == [sample.value for sample in received.samples]


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text;version=²"]
)
def test_an_invalid_version_gets_the_plain_format(metrics, accept):
    """A version that prometheus_client cannot compare does not fail the scrape."""
    assert metrics.exposition("")[1] == metrics.exposition(accept)[1]


# Workers


def test_any_worker_exposes_the_metrics_of_all(worker):
    """A scrape of any worker returns the sums over all workers."""
    first, second = worker(0), worker(1)
    first.received(Acceptance.STORED)
    second.received(Acceptance.STORED)
    second.attempt_took(0.002)
    first.slots(256)
    second.slots(256)

    for one in (first, second):
        assert 2 == samples_of(one)[STORED]
        assert 1 == samples_of(one)["invoices_attempt_duration_seconds_count"]
        assert 512 == samples_of(one)["invoices_attempts_slots"]


async def test_what_a_worker_counts_reaches_the_others_soon(worker, monkeypatch):
    """A count of a busy worker waits for others, and not until that worker is scraped."""
    monkeypatch.setattr("service.telemetry.metrics.OUTLIVING_DELAY_SECONDS", 0)
    first, second = worker(0), worker(1)
    loop = asyncio.get_running_loop()
    passed = loop.create_future()

    first.received(Acceptance.STORED)
    before = samples_of(second)[STORED]
    loop.call_later(0, loop.call_soon, passed.set_result, None)
    await passed

    assert (0, 1) == (before, samples_of(second)[STORED])


def test_a_backlog_is_not_summed(worker):
    """The workers share one backlog, which is exposed once."""
    first, second = worker(0), worker(1)
    first.storage_answered(BACKLOG)
    second.storage_answered(BACKLOG)

    assert [3, 3] == [samples_of(one)["invoices_deliveries_due"] for one in (first, second)]


def test_a_restarted_worker_continues_its_counters(worker, tmp_path):
    """Counters continue after a restart; the gauges of the old worker are removed."""
    for _ in range(3):
        ended = worker(0)
        ended.received(Acceptance.STORED)
        ended.attempt_began()
        forget_worker(0, str(tmp_path))

    assert 3 == samples_of(worker(0))[STORED]
    assert 0 == samples_of(worker(0))["invoices_attempts_in_flight"]
    assert 3 == len(list(tmp_path.iterdir()))


def test_a_worker_exposes_nothing_of_its_process(worker):
    """Memory and time of one of several processes would change from scrape to scrape."""
    assert [] == [
        name for name in samples_of(worker(0)) if name.startswith(("process_", "python_"))
    ]


def test_an_unreadable_file_does_not_fail_the_scrape(worker, tmp_path):
    """A scrape succeeds while a worker creates its file."""
    metrics = worker(0)
    (tmp_path / "counter_1.db").write_bytes(b"")

    assert 0 == samples_of(metrics)["invoices_storage_up"]
