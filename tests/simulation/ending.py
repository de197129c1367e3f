"""
The promises that hold at the end: once trouble is over and time goes on, everything has ended.

* Every invoice that is stored, and every one that was acknowledged is, comes to its end. It has the
  events of its collection and those that were recorded beside it, numbered from 1 without gaps.
* Each event has a delivery for every callback that it fires and its invoice asks for, unless
  retention has removed it. Each delivery is delivered or dead; no row is leased any more.
* The attempts of a delivery are numbered from 1 without gaps, and as many as its row says.
* What is delivered was answered ok, or was settled by a process that had such an answer.
* The processes that live have all their slots and all their capacity back.
"""

from __future__ import annotations

from collections import Counter

from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeliveryStatus


class Ending:
    """Checks what is left of one run."""

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

    def name_what_is_left(self):
        """Time is up: name what waits for ever."""
        for row in self._tables.invoices:
            if row["due_at"] is not None:
                self._story.violate("{} is {} for ever", row["id"], row["status"])
        for row in self._tables.deliveries:
            if row["status"] == DeliveryStatus.PENDING:
                self._story.violate("{} is pending for ever", row["id"])
        self._story.violate("an attempt is in flight for ever")

    def check(self):
        """Everything that holds at the end."""
        for key in self._ledger.acknowledged:
            if key not in self._tables.invoices.by("account_id", "id"):
                self._story.violate("{} was acknowledged and is lost", key[1])
        self._check_events()
        for row in self._tables.invoices:
            self._check_invoice(row)
        for row in self._tables.deliveries:
            self._check_delivery(row)
        for process in self._world.living:
            self._check_capacity(process)

    def check_drained(self, process):
        """A process that drained in time has its capacity back, and left no lease it knew of."""
        if process.has_given_up:
            return
        self._check_capacity(process)
        if process.unavailable_count:
            return
        for (table, *key), (holder, token) in self._ledger.holders.items():
            row = getattr(self._tables, table).get(*key)
            if holder is process and row and row["lease_token"] == token and row["leased_until"]:
                self._story.violate("{} has drained and left {} leased", process, key[1])

    def _check_events(self):
        """The events that were committed are all there, and no other."""
        stored = {
            (row["account_id"], row["invoice_key"], row["sequence"]): row["description"]
            for row in self._tables.events
        }
        if stored != {key: event.description for key, event in self._ledger.events.items()}:
            self._story.violate("the events are {}", stored)

    def _check_invoice(self, row):
        plan, invoice_key = self._world.script_of(row["id"]).plan, (row["account_id"], row["key"])
        if row["leased_until"] is not None:
            self._story.violate("{} is at its end and leased", row["id"])
        ordered = self._tables.deliveries.by("account_id", "invoice_key", "callback", "sequence")
        counts = Counter()
        for sequence in range(1, row["event_count"] + 1):
            event = self._ledger.events.get((*invoice_key, sequence))
            if event is None:
                self._story.violate("event {} of {} is missing", sequence, row["id"])
                return
            counts[event.description if event.collector == "operator" else None] += 1
            for callback in plan.asked_for(event.callbacks):
                key = (*invoice_key, callback, sequence)
                if key not in ordered and key not in self._ledger.swept.values():
                    self._story.violate("event {} of {} has no delivery", sequence, row["id"])
        if counts.pop(None, 0) != plan.event_count or counts.keys() != {
            one.description for one in plan.events
        }:
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

    def _check_capacity(self, process):
        """Nothing is leased any more, so nothing may be counted as if it were."""
        dispatcher, plan = process.service.dispatcher, self._world.plan
        origins = dispatcher._origins
        if process.service.collection.held_count:
            self._story.violate("{} counts invoices that it has not", process)
        if origins.held_count or any(one.held_count for one in origins._known.values()):
            self._story.violate("{} counts leases that it has not", process)
        if origins._free_slots != plan.concurrency:
            self._story.violate("{} has lost slots", process)
        if origins._busy or any(one.in_flight_count for one in origins._known.values()):
            self._story.violate("{} holds origins busy that are not", process)
