"""
The promises that hold at the end: once trouble is over and time goes on, everything has ended.

* Every invoice that is stored, and every one that was acknowledged is, comes to its end; each of
  its events has a delivery; each delivery is delivered or dead; nothing is leased any more.
* The attempts of a delivery are numbered from 1 without gaps, and as many as its row says.
* What is delivered was answered ok, or was settled by somebody who had such an answer.
* The processes that live have all their slots and all their room back.
"""

from __future__ import annotations

from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeliveryStatus


class Ending:
    """Looks at what is left of one run."""

    def __init__(self, world, ledger):
        self._world = world
        self._story = world.story
        self._ledger = ledger

    @property
    def _tables(self):
        return self._world.memory.tables

    def is_reached(self):
        """Whether nothing is left to be done."""
        return (
            all(row["due_at"] is None for row in self._tables.invoices)
            and all(row["status"] != DeliveryStatus.PENDING for row in self._tables.deliveries)
            and not any(one.in_flight or one.collecting_count for one in self._world.living)
        )

    def tell_what_is_left(self):
        """Time is up: say who waits for ever."""
        for row in self._tables.invoices:
            if row["due_at"] is not None:
                self._story.violate("{} is {} for ever", row["id"], row["status"])
        for row in self._tables.deliveries:
            if row["status"] == DeliveryStatus.PENDING:
                self._story.violate("{} is pending for ever", row["id"])
        self._story.violate("an attempt is in flight for ever")

    def check(self):
        """Everything that holds at the end."""
        for id_ in self._ledger.acknowledged:
            if ("dev", id_) not in self._tables.invoices.by("account_id", "id"):
                self._story.violate("{} was acknowledged and is lost", id_)
        for row in self._tables.invoices:
            self._check_invoice(row)
        for row in self._tables.deliveries:
            self._check_delivery(row)
        for process in self._world.living:
            self._check_room(process)

    def check_drained(self, process):
        """A process that drained in time has its room back, and left no lease that it knew."""
        if process.has_given_up:
            return
        self._check_room(process)
        if process.unavailable_count:
            return
        for (table, key), (holder, token) in self._ledger.holders.items():
            if holder is process:
                row = getattr(self._tables, table).get("dev", key)
                if row["lease_token"] == token and row["leased_until"] is not None:
                    self._story.violate("{} has drained and left {} leased", process, key)

    def _check_invoice(self, row):
        if row["leased_until"] is not None:
            self._story.violate("{} is at its end and leased", row["id"])
        by_event = self._tables.deliveries.by("account_id", "invoice_key", "sequence")
        for sequence in range(1, row["event_count"] + 1):
            key = (row["account_id"], row["key"], sequence)
            if self._tables.events.get(*key) is None:
                self._story.violate("event {} of {} is missing", sequence, row["id"])
            if row["callback"] and key not in by_event:
                self._story.violate("event {} of {} has no delivery", sequence, row["id"])
        planned = self._world.written(row["id"]).plan
        if row["event_count"] != planned.event_count:
            self._story.violate("{} has {} events", row["id"], row["event_count"])

    def _check_delivery(self, row):
        id_, count = row["id"], row["attempt_count"]
        if row["leased_until"] is not None:
            self._story.violate("{} is settled and leased", id_)
        made = [one for one in self._tables.attempts if one["delivery_id"] == id_]
        if sorted(one["number"] for one in made) != list(range(1, count + 1)):
            self._story.violate("the attempts of {} are not numbered from 1 to {}", id_, count)
        sent = [one for one in made if one["outcome"] != AttemptOutcome.LOST.value]
        if len(sent) > self._ledger.request_counts[id_]:
            self._story.violate("{} has more attempts than requests", id_)
        delivered = [one for one in made if one["outcome"] == AttemptOutcome.DELIVERED.value]
        if (row["status"] == DeliveryStatus.DELIVERED.value) and not delivered:
            self._story.violate("{} is delivered without an attempt that says so", id_)

    def _check_room(self, process):
        """Nothing is in hand any more, so nothing may be counted as if it were."""
        origins, plan = process.dispatcher._origins, self._world.plan
        if process.collection.held_count:
            self._story.violate("{} counts invoices that it has not", process)
        if origins.held_count or any(one.held_count for one in origins._known.values()):
            self._story.violate("{} counts leases that it has not", process)
        if origins._free_slots != plan.concurrency:
            self._story.violate("{} has lost slots", process)
        if origins._busy or any(one.in_flight_count for one in origins._known.values()):
            self._story.violate("{} holds origins busy that are not", process)
