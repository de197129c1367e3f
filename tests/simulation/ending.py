"""
The promises at the end of a run: after the last fault, everything finishes.

* Every stored invoice, which includes every acknowledged one, is fully collected. It has the events
of its collection and the events recorded beside it, numbered from 1 without gaps.
* Each event has a delivery for every callback that it fires and its invoice asks for, unless
retention has removed it. Each delivery is delivered or dead, and no row is leased.
* The attempts of a delivery are numbered from 1 without gaps; its row has their count.
* A delivered delivery was answered ok, or was settled by a process that had such an answer.
* Every running process has all its slots and all its capacity free.
"""

from __future__ import annotations

from collections import Counter

from service.collection import mailing
from service.domain.delivery import base_of
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeliveryStatus
from tests.simulation.clocks import true_now


class Ending:
    """Checks the rows at the end of one run."""

    def __init__(self, world, ledger):
        self._world = world
        self._log = world.log
        self._ledger = ledger

    @property
    def _tables(self):
        return self._world.memory.tables

    def is_reached(self):
        """Whether all work is finished."""
        return (
            all(row["due_at"] is None for row in self._tables.invoices)
            and all(row["status"] != DeliveryStatus.PENDING for row in self._tables.deliveries)
            and not any(
                one.in_flight or one.service.collection.held_count
                for one in self._world.running_processes
            )
        )

    def name_unfinished_rows(self):
        """The time limit has passed: name the unfinished rows."""
        for row in self._tables.invoices:
            if row["due_at"] is not None:
                self._log.violate("{} is still {}", row["id"], row["status"])
        for row in self._tables.deliveries:
            if row["status"] == DeliveryStatus.PENDING:
                self._log.violate("{} is still pending", row["id"])
        self._log.violate("an attempt or a step is still in progress")

    def check(self):
        """Check every promise of the end."""
        for key in self._ledger.acknowledged:
            if key not in self._tables.invoices.by("account_id", "id"):
                self._log.violate("{} was acknowledged and is lost", key[1])
        self._check_events()
        for row in self._tables.invoices:
            self._check_invoice(row)
        for row in self._tables.deliveries:
            self._check_delivery(row)
        for process in self._world.running_processes:
            self._check_capacity(process)

    def check_rest(self):
        """Whoever never fails never rests, whatever others on the same origin do."""
        plan, now = self._world.plan, true_now()
        away = {one.origin for one in plan.outages}
        well = {one.base for one in plan.receivers if one.is_well}
        for row in self._tables.receivers:
            ends = [row["cooldown_until"], row["held_until"]]
            if base_of(row["receiver"]) in well and any(at and at > now for at in ends):
                self._log.violate("{} never fails, and rests", row["receiver"])
        for process in self._world.running_processes:
            cooldowns = process.service.dispatcher._receivers.cooldowns
            for name in cooldowns._cooldowns:
                if base_of(name) in well or name in {one.origin for one in plan.receivers} - away:
                    self._log.violate("{} lets {} rest, which never fails", process, name)

    def check_drained(self, process):
        """A process that drained in time has free capacity, and left no lease that it knew of."""
        if process.has_given_up:
            return
        self._check_capacity(process)
        if process.unavailable_count:
            return
        for (table, *key), (holder, token) in self._ledger.holders.items():
            row = getattr(self._tables, table).get(*key)
            if holder is process and row and row["lease_token"] == token and row["leased_until"]:
                self._log.violate("{} has drained and left {} leased", process, key[1])

    def _check_events(self):
        """The committed events are stored, and no others."""
        stored = {
            (row["account_id"], row["invoice_key"], row["sequence"]): row["description"]
            for row in self._tables.events
        }
        if stored != {key: event.description for key, event in self._ledger.events.items()}:
            self._log.violate("the events are {}", stored)

    def _check_invoice(self, row):
        plan, invoice_key = self._world.script_of(row["id"]).plan, (row["account_id"], row["key"])
        if row["leased_until"] is not None:
            self._log.violate("{} is finished and leased", row["id"])
        ordered = self._tables.deliveries.by("account_id", "invoice_key", "callback", "sequence")
        counts = Counter()
        for sequence in range(1, row["event_count"] + 1):
            event = self._ledger.events.get((*invoice_key, sequence))
            if event is None:
                self._log.violate("event {} of {} is missing", sequence, row["id"])
                return
            if event.collector != mailing.NAME:
                counts[event.description if event.collector == "operator" else None] += 1
            for callback in plan.asked_for(event.callbacks):
                key = (*invoice_key, callback, sequence)
                if key not in ordered and key not in self._ledger.swept.values():
                    self._log.violate("event {} of {} has no delivery", sequence, row["id"])
        collected_count, planned = counts.pop(None, 0), {one.description for one in plan.events}
        # What Stripe has collected is compared with what it holds: see `payments`.
        is_complete = self._world.stripe or collected_count == plan.event_count
        if not is_complete or counts.keys() != planned:
            self._log.violate("{} has {} events", row["id"], row["event_count"])

    def _check_delivery(self, row):
        id_, count = row["id"], row["attempt_count"]
        if row["leased_until"] is not None:
            self._log.violate("{} is settled and leased", id_)
        made = [one for one in self._tables.attempts if one["delivery_id"] == id_]
        if sorted(one["number"] for one in made) != list(range(1, count + 1)):
            self._log.violate("the attempts of {} are not numbered from 1 to {}", id_, count)
        sent = [one for one in made if one["outcome"] != AttemptOutcome.LOST.value]
        if len(sent) > self._ledger.request_counts[id_]:
            self._log.violate("{} has more attempts than requests", id_)
        delivered = [one for one in made if one["outcome"] == AttemptOutcome.DELIVERED.value]
        if (row["status"] == DeliveryStatus.DELIVERED.value) and not delivered:
            self._log.violate("{} is delivered without a delivered attempt", id_)

    def _check_capacity(self, process):
        """No row is leased at the end, so no capacity and no slot may be in use."""
        dispatcher, plan = process.service.dispatcher, self._world.plan
        receivers = dispatcher._receivers
        known = receivers._known.values()
        if process.service.collection.held_count:
            self._log.violate("{} counts invoices that it has not leased", process)
        if receivers.held_count or any(one.held_count for one in known):
            self._log.violate("{} counts leases that it does not have", process)
        if receivers._slots.free != plan.concurrency:
            self._log.violate("{} has lost slots", process)
        if receivers._busy or any(one.in_flight_count for one in known):
            self._log.violate("{} counts attempts that have ended", process)
