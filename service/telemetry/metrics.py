"""
The metrics for Prometheus: every metric is declared and changed in this module alone.

Callers say what happened; the metric and its labels are chosen here. No label has a value that a
client can choose: no origin, no id, and the account only of the ten busiest (see `busiest`).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.domain.notices import NoticeKind
from service.domain.outcomes import AttemptOutcome, MailOutcome
from service.domain.payment import PaymentKind, RefundStatus
from service.domain.states import (
    COLLECTED,
    Acceptance,
    DeadReason,
    DeliveryStatus,
    InvoiceStatus,
)
from service.errors import PREVENTED_BY
from service.telemetry.busiest import BusiestAccounts
from service.telemetry.counting import DELAY_SECONDS, OUTLIVING_DELAY_SECONDS, Sums
from service.telemetry.workers import SHARED_FOLDER, WorkersCollector

NAMESPACE = "invoices"

OTHER = "other"
"""The operation of requests that match no operation of the API."""

ATTEMPT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
DELIVERY_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    *(60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 57_600, 86_400),
)
COMMIT_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

BACKLOG_GAUGES = {
    "deliveries_due": "Deliveries that are due and not leased.",
    "deliveries_waiting": "Deliveries whose next attempt is due later, or whose receiver is held.",
    "due_receivers": "Receivers with due deliveries.",
    "oldest_due_delivery_age_seconds": "For how long the oldest due delivery has been due.",
    "collections_due": "Invoices whose collection is due and not leased.",
    "oldest_due_collection_age_seconds": "For how long the oldest due collection has been due.",
    "oldest_unanswered_payment_age_seconds": "For how long the collector has given no answer about "
    "the checkout or payment that has waited for one longest.",
    "mails_due": "Mails that are due and not leased.",
    "oldest_due_mail_age_seconds": "For how long the oldest due mail has been due.",
}
"""What can wait in the database, each with its help text."""


class Metrics:
    """
    The metrics of a process.

    A worker counts under its own *worker_number*, and exposes the sums over all workers.
    """

    def __init__(self, version: str = "", *, worker_number: int | None = None) -> None:
        # The created metrics would be one more series for every counter and histogram.
        disable_created_metrics()
        self._looked_up = _LookedUp(version)
        is_worker = worker_number is not None
        self._sums = Sums(OUTLIVING_DELAY_SECONDS if is_worker else DELAY_SECONDS)
        self._exposed = CollectorRegistry()
        self._exposed.register(self._looked_up)
        if worker_number is None:
            # Of several workers, a scrape would show the process of a random one.
            ProcessCollector(registry=self._exposed)
            GCCollector(registry=self._exposed)
            self._declare(self._exposed)
            self.accounts = BusiestAccounts(NAMESPACE)
        else:
            WorkersCollector(self._exposed, worker_number)
            self._declare(None)
            folder = Path(os.environ[SHARED_FOLDER])
            self.accounts = BusiestAccounts(NAMESPACE, folder, worker_number)
        self._exposed.register(self.accounts)

    def _declare(self, registry: CollectorRegistry | None) -> None:
        counter = partial(Counter, namespace=NAMESPACE, registry=registry)

        def observing(name: str, help_text: str, buckets: Sequence[float]) -> Callable[..., None]:
            """Declare a histogram; the function that has it observe an amount."""
            histogram = Histogram(
                name, help_text, namespace=NAMESPACE, registry=registry, buckets=buckets
            )
            return partial(self._sums.observe, histogram)

        # Over workers, a gauge is the sum of those that run.
        gauge = partial(Gauge, namespace=NAMESPACE, registry=registry, multiprocess_mode="livesum")

        self._received = _by_labels(
            counter("received", "Invoices sent in, by what became of them.", ["acceptance"]),
            ((acceptance,) for acceptance in Acceptance),
        )
        self._collected = _by_labels(
            counter("collected", "Invoices whose collection has ended, by how.", ["status"]),
            ((status,) for status in COLLECTED),
        )
        self._payments = _by_labels(
            counter("payments", "Payments that a collector has received, by kind.", ["kind"]),
            ((kind,) for kind in PaymentKind),
        )
        self._refunds = _by_labels(
            counter("refunds", "Refunds that have ended, by how.", ["status"]),
            ((status,) for status in RefundStatus if status is not RefundStatus.PENDING),
        )
        self._attempts = _by_labels(
            counter("attempts", "Attempts that were recorded, by their outcome.", ["outcome"]),
            ((outcome,) for outcome in AttemptOutcome),
        )
        self._settled = _by_labels(
            counter(
                "deliveries_settled",
                "Deliveries that have ended, by how and why.",
                ["status", "reason"],
            ),
            [(DeliveryStatus.DELIVERED, ""), *((DeliveryStatus.DEAD, one) for one in DeadReason)],
        )
        self._requests = _by_labels(
            counter("http_requests", "Requests that were answered.", ["operation", "code"])
        )

        self._prevented = _by_labels(
            counter(
                "attempts_prevented", "Attempts that a failure on our side prevented.", ["cause"]
            ),
            ((cause,) for cause in PREVENTED_BY),
        )
        self.attempt_outlived_lease = counter(
            "attempts_outlived_lease", "Attempts that took longer than their lease."
        ).inc
        self.redelivered = counter(
            "deliveries_redelivered", "Deliveries that were made pending again by hand."
        ).inc
        self.process_lost = counter(
            "processes_lost", "Processes that were found dead, and whose leases were taken over."
        ).inc
        self.swept = counter("deliveries_swept", "Deliveries that retention has removed.").inc

        self._notices = _by_labels(
            counter(
                "receiver_notices", "Notices that accounts were given about receivers.", ["kind"]
            ),
            ((kind,) for kind in NoticeKind),
        )
        self._mail_attempts = _by_labels(
            counter("mail_attempts", "Attempts at mails, by their outcome.", ["outcome"]),
            ((outcome,) for outcome in MailOutcome),
        )
        self.mail_paused = gauge(
            "mail_paused", "Whether sending is paused until the operator mends something."
        ).set

        in_flight = gauge("attempts_in_flight", "Attempts that are in flight.")
        self.attempt_began = partial(self._sums.add, in_flight)
        self.attempt_ended = partial(self._sums.add, in_flight, -1)
        self.slots = gauge("attempts_slots", "Attempts that may be in flight at once.").set
        self.receivers_cooling_down = gauge(
            "receivers_cooling_down", "Receivers and origins that get no attempts for a while."
        ).set

        self._declare_connections(counter, gauge)

        self.committed = observing(
            "commit_items", "How many items shared one transaction.", buckets=COMMIT_ITEMS
        )
        self.attempt_took = observing(
            "attempt_duration_seconds",
            "How long a request to a receiver took.",
            buckets=ATTEMPT_SECONDS,
        )
        self.delivered_after = observing(
            "accepted_to_delivered_seconds",
            "From the acceptance of an invoice until an event of it was delivered.",
            buckets=DELIVERY_SECONDS,
        )

    def _declare_connections(
        self, counter: Callable[..., Counter], gauge: Callable[..., Gauge]
    ) -> None:
        self.listeners_connected = gauge(
            "listeners_connected", "Listeners that are connected to take callbacks."
        ).set
        self.connections_open = gauge("connections_open", "Connections that clients have open.").set
        self.connections_kept = gauge(
            "connections_kept", "Idle connections to receivers that are kept."
        ).set
        self._descriptors_open = gauge("descriptors_open", "File descriptors that are in use.").set
        self._descriptors_allowed = gauge(
            "descriptors_allowed", "File descriptors that may be in use."
        ).set
        self.descriptors_exhausted = counter(
            "descriptors_exhausted", "How often no file descriptor was left."
        ).inc

    def received(self, acceptance: Acceptance) -> None:
        """Count an invoice that was sent in."""
        self._sums.add(self._received(acceptance))

    def collected(self, status: InvoiceStatus) -> None:
        """Count an invoice whose collection has ended in *status*."""
        self._sums.add(self._collected(status))

    def payment_received(self, kind: PaymentKind) -> None:
        """Count a payment that a collector has received."""
        self._payments(kind).inc()

    def refund_settled(self, status: RefundStatus) -> None:
        """Count a refund that has ended in *status*."""
        self._refunds(status).inc()

    def noticed(self, kind: NoticeKind) -> None:
        """Count a notice that an account was given about a receiver."""
        self._notices(kind).inc()

    def mail_attempted(self, outcome: MailOutcome) -> None:
        """Count an attempt at a mail that was recorded."""
        self._mail_attempts(outcome).inc()

    def attempt_recorded(self, outcome: AttemptOutcome) -> None:
        """Count an attempt that was recorded."""
        self._sums.add(self._attempts(outcome))

    def attempt_prevented(self, cause: str) -> None:
        """Count an attempt that was not made, for a reason on our side."""
        self._prevented(cause).inc()

    def descriptors(self, open_count: int, allowed_count: int) -> None:
        """Expose how many file descriptors are in use, and how many may be."""
        self._descriptors_open(open_count)
        self._descriptors_allowed(allowed_count)

    def attempts_lost(self, count: int) -> None:
        """Count attempts whose process ended before they did."""
        self._attempts(AttemptOutcome.LOST).inc(count)

    def settled(self, status: DeliveryStatus, reason: DeadReason | None) -> None:
        """Count a delivery that has ended."""
        self._sums.add(self._settled(status, reason or ""))

    def answered(self, operation: str, code: int) -> None:
        """Count a request that was answered with the HTTP status *code*."""
        self._sums.add(self._requests(operation, code))

    def storage_answered(self, backlog: Mapping[str, float]) -> None:
        """Expose what waits in the database, by the names of `BACKLOG_GAUGES`."""
        self._looked_up.backlog = backlog

    def storage_unavailable(self) -> None:
        """Expose that the database does not answer, and expose no backlog."""
        self._looked_up.backlog = None

    def flush(self) -> None:
        """Let everything that was counted be exposed, also by other workers."""
        self._sums.flush()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Every metric as text in the format that *accept* prefers, and its content type."""
        self.flush()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the version in the header is not validated
            encode, content_type = choose_encoder("")
        return encode(self._exposed), content_type


class _LookedUp(Collector):
    """Gauges with one value for the whole service: they are not summed over the workers."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.backlog: Mapping[str, float] | None = None

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            f"{NAMESPACE}_build_info", "The version that runs here; always 1.", labels=["version"]
        )
        build.add_metric([self._version], 1)
        yield build
        yield GaugeMetricFamily(
            f"{NAMESPACE}_storage_up",
            "Whether the database answered when it was last asked for its backlog.",
            0 if self.backlog is None else 1,
        )
        # No sample rather than a 0 while the database does not answer.
        for name, value in (self.backlog or {}).items():
            yield GaugeMetricFamily(f"{NAMESPACE}_{name}", BACKLOG_GAUGES[name], value)


def _by_labels(counter: Counter, known: Iterable[tuple[str, ...]] = ()) -> Callable[..., Counter]:
    """
    Find the counter of given label values; `labels` is slow, so each is looked up there once.

    Those with *known* values are exposed with 0 from the start: of a series that begins with 1,
    Prometheus sees no increase.
    """
    find = cache(counter.labels)
    for label_values in known:
        find(*label_values)
    return find
