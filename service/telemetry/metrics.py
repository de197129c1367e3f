"""
What is counted, for Prometheus to read: every figure is declared and changed here alone.

The rooms say what happened; which figure that is, with which labels, is known to nobody else. No
label holds what others can make up: no account, no origin, no id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from service.telemetry.figures import Figures, measured

ACCEPTANCES = ("stored", "replayed", "conflict")
COLLECTED = ("paid", "payment_failed")
OUTCOMES = (
    *("delivered", "refused", "invalid_answer", "unreachable"),
    *("timeout", "malformed", "lost", "blocked"),
)
ENDS = (("delivered", ""), *(("dead", reason) for reason in ("exhausted", "gone", "blocked")))
"""The labels of what was sent in, collected, attempted and settled."""

OTHER = "other"
"""The operation of requests that are for none of ours."""

ATTEMPT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
DELIVERY_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    *(60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 57_600, 86_400),
)
COMMIT_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

BACKLOG_FIGURES = {
    "deliveries_due": "Deliveries that could be attempted now and are in nobody's hands.",
    "deliveries_waiting": "Deliveries whose next attempt is due later, or whose origin is held.",
    "due_origins": "Origins with due deliveries.",
    "oldest_due_delivery_age_seconds": "For how long the oldest due delivery has been due.",
    "collections_due": "Invoices whose collection could go on now and is in nobody's hands.",
    "oldest_due_collection_age_seconds": "For how long the oldest due collection has been due.",
}
"""What can wait in the database, each with what it tells."""


class Metrics:
    """
    Everything that is counted in a process.

    Of workers on one port, each counts under its own *worker_number* and tells for all.
    """

    def __init__(self, version: str = "", *, worker_number: int | None = None) -> None:
        self._version = version
        self._backlog: Mapping[str, float] | None = None
        self._figures = figures = Figures(worker_number)
        self._received = figures.tallies(
            "received", "Invoices sent in, by what became of them.", ("acceptance",), ACCEPTANCES
        )
        self._collected = figures.tallies(
            "collected", "Invoices whose collection has ended, by how.", ("status",), COLLECTED
        )
        self._declare_attempts()
        self._declare_deliveries()
        self._commit_items = figures.spread(
            "commit_items", "How much shared one transaction.", COMMIT_ITEMS
        )
        self._connections = figures.gauge("connections_open", "Connections that clients have open.")
        self._requests = figures.tallies(
            "http_requests", "Requests that were answered.", ("operation", "code")
        )

    def _declare_attempts(self) -> None:
        figures = self._figures
        self._attempts = figures.tallies(
            "attempts",
            "Attempts to deliver that were recorded, by what came of them.",
            ("outcome",),
            OUTCOMES,
        )
        self._outlived = figures.tally(
            "attempts_outlived_lease", "Attempts that took longer than their lease."
        )
        self._in_flight = figures.gauge("attempts_in_flight", "Attempts that are being made.")
        self._slots = figures.gauge("attempts_slots", "Attempts that may be in flight at once.")
        self._attempt_seconds = figures.spread(
            "attempt_duration_seconds", "How long a request to a receiver took.", ATTEMPT_SECONDS
        )
        self._resting = figures.gauge("origins_resting", "Origins that are left alone for a while.")

    def _declare_deliveries(self) -> None:
        figures = self._figures
        self._settled = figures.tallies(
            "deliveries_settled",
            "Deliveries that have ended, by how and why.",
            ("status", "reason"),
            ENDS,
        )
        self._delivery_seconds = figures.spread(
            "accepted_to_delivered_seconds",
            "From the acceptance of an invoice until an event of it was delivered.",
            DELIVERY_SECONDS,
        )
        self._redelivered = figures.tally(
            "deliveries_redelivered", "Deliveries that were made pending again by hand."
        )
        self._swept = figures.tally("deliveries_swept", "Deliveries that retention has removed.")

    # What happened

    def received(self, acceptance: str) -> None:
        """Count an invoice that was sent in, by what became of it."""
        self._received[acceptance].inc()

    def collected(self, status: str) -> None:
        """Count an invoice whose collection has ended."""
        self._collected[status].inc()

    def committed(self, item_count: int) -> None:
        """Count a transaction, by how much shared it."""
        self._commit_items.observe(item_count)

    def attempt_began(self) -> None:
        """Count one more attempt in flight."""
        self._in_flight.inc()

    def attempt_ended(self) -> None:
        """Count one attempt less in flight."""
        self._in_flight.dec()

    def attempt_took(self, seconds: float) -> None:
        """Count the request of an attempt, by how long it took."""
        self._attempt_seconds.observe(seconds)

    def attempt_recorded(self, outcome: str) -> None:
        """Count an attempt that stands in the history of its delivery now."""
        self._attempts[outcome].inc()

    def attempts_lost(self, count: int) -> None:
        """Count attempts of which nobody knows how they ended: their process did."""
        self._attempts["lost"].inc(count)

    def attempt_outlived_lease(self) -> None:
        """Count an attempt that came too late to be recorded."""
        self._outlived.inc()

    def settled(self, status: str, reason: str | None) -> None:
        """Count a delivery that has ended."""
        self._settled[status, reason or ""].inc()

    def delivered_after(self, seconds: float) -> None:
        """Count a delivery that has arrived, by how long after the acceptance of its invoice."""
        self._delivery_seconds.observe(seconds)

    def redelivered(self, count: int) -> None:
        """Count deliveries that were made pending again by hand."""
        self._redelivered.inc(count)

    def swept(self, count: int) -> None:
        """Count deliveries that retention has removed."""
        self._swept.inc(count)

    def answered(self, operation: str, code: int) -> None:
        """Count a request that was answered."""
        self._requests[operation, code].inc()

    # What is the case

    def slots(self, count: int) -> None:
        """So many attempts may be in flight at once."""
        self._slots.set(count)

    def origins_resting(self, count: int) -> None:
        """So many origins are left alone now."""
        self._resting.set(count)

    def connections_open(self, count: int) -> None:
        """So many connections are open now."""
        self._connections.set(count)

    def storage_answered(self, backlog: Mapping[str, float]) -> None:
        """The database has told what waits in it, by the names of `BACKLOG_FIGURES`."""
        self._backlog = backlog

    def storage_is_away(self) -> None:
        """The database does not tell what waits in it."""
        self._backlog = None

    # How it is told

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Every figure in the format that *accept* prefers, and that format's content type."""
        return self._figures.exposition(accept, self._measured())

    def _measured(self) -> Iterator[Any]:
        told = "The version that runs here; always 1."
        yield measured("build_info", told, 1, {"version": self._version})
        told = "Whether the database answered when it was last asked for its backlog."
        yield measured("storage_up", told, 0 if self._backlog is None else 1)
        # Nothing rather than a 0 where nobody could look.
        for name, value in (self._backlog or {}).items():
            yield measured(name, BACKLOG_FIGURES[name], value)
