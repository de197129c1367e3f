"""
All promises that are checked during a run; each kind of promise has its own module.

`fencing` checks transactions, `requests` checks what receivers get, `mails` what the mail server
gets, `ending` checks the rows at the end. This module compares the memory with the responses and
the log of each process.
"""

from __future__ import annotations

import logging

from service.domain.states import Acceptance, DeliveryStatus
from service.errors import StorageUnavailable
from service.storage import attempts
from tests.simulation.clocks import true_now
from tests.simulation.ending import Ending
from tests.simulation.fencing import Fencing
from tests.simulation.greedy import Fairness
from tests.simulation.lease_rules import LeaseRules
from tests.simulation.ledger import Ledger
from tests.simulation.mails import Mails
from tests.simulation.payments import Payments
from tests.simulation.predictions import Predictions
from tests.simulation.requests import Requests

PENDING = DeliveryStatus.PENDING.value


class Invariants:
    """Checks one run; the first broken promise is added to its log."""

    def __init__(self, world):
        self.ledger = Ledger()
        self.ending = Ending(world, self.ledger)
        leases = LeaseRules(world.log)
        self.mails = Mails(world, self.ledger, leases)
        self.payments = Payments(world, self.ledger)
        fencing = Fencing(world, self.ledger, leases, self.mails)
        requests = Requests(world, self.ledger)
        self.fairness = Fairness(world) if world.plan.reads else None
        self._log = world.log
        self._memory = world.memory
        self._statuses = {}
        self.watch = fencing.watch
        self.watch_items = fencing.watch_items
        self.attempt_begins = requests.attempt_begins
        self.attempt_ends = requests.attempt_ends
        self.predictions = Predictions(world, self.ledger)
        self._requests = requests
        self.drained = self.ending.check_drained

    def batch_begins(self, batch):
        """A process begins to write *batch*."""
        for attempt in batch.get(attempts.settle, ()):
            key = attempt.delivery.id, attempt.delivery.lease_token
            self.ledger.tried_at[key] = true_now()

    def request_begins(self, attempt, outgoing):
        """A request is made; see `Requests.request_begins`."""
        request = self._requests.request_begins(attempt, outgoing)
        self.predictions.check_request(request.delivery)
        return request

    def check_states(self, tx):
        """A delivery is settled or cancelled, and keeps that unless a redelivery was requested."""
        self.predictions.look(tx)
        for row in tx.deliveries:
            id_, status = row["id"], row["status"]
            was = self._statuses.get(id_, PENDING)
            if was == status:
                continue
            self._statuses[id_] = status
            if was == PENDING:
                token = row["lease_token"]
                is_cancelled = (id_, token - 1) in self.ledger.cancelled
                if (id_, token) not in self.ledger.settlements and not is_cancelled:
                    self._log.violate("{} is {} without a settlement", id_, status)
            elif status == PENDING and id_ in self.ledger.redelivery_requests:
                self.ledger.failure_counts[id_] = 0
                self._log.add("memory", "{} is pending again after a redelivery", id_)
            else:
                self._log.violate("{} was {} and is {}", id_, was, status)

    def acknowledged(self, invoice, acceptance):
        """A client got a response for *invoice*: it is stored."""
        key = invoice.account_id, invoice.id
        stored = self._memory.tables.invoices.by("account_id", "id")
        if acceptance is Acceptance.CONFLICT or key not in stored:
            self._log.violate("{} was acknowledged and is not stored", invoice.id)
        self.ledger.acknowledged.append(key)

    def cancelled(self, row):
        """A client got a response to the cancellation of *row*: it is pending no more."""
        if row["status"] == PENDING and row["id"] not in self.ledger.redelivery_requests:
            self._log.violate("{} was acknowledged as cancelled, and is pending", row["id"])

    def event_acknowledged(self, event):
        """A client got a response for *event*: it is stored."""
        if all(row["description"] != event.description for row in self._memory.tables.events):
            self._log.violate("{!r} was acknowledged and is not stored", event.description)

    def logged(self, process, record):
        """Check a log record of the service: an unexpected error breaks a promise."""
        message = record.getMessage()
        if message == "attempt.settled":
            self._check_settled(process, record.fields)
        elif message == "event.recorded":
            self._check_recorded(process, record.fields)
        if record.levelno < logging.WARNING:
            return
        self._log.add(process or "log", "{}", message)
        if message == "drain.timed_out" and process:
            process.has_given_up = True
        error = record.exc_info and record.exc_info[1]
        if error and not isinstance(error, StorageUnavailable):
            self._log.violate("{} logged {}: {!r}", process, message, error)

    def _check_settled(self, process, fields):
        """An attempt that is logged as settled was committed as the log line says."""
        id_ = fields["delivery_id"]
        writer, attempt = self.ledger.settled.get((id_, fields["number"]), (None, None))
        if writer is not process or attempt.outcome != fields["outcome"]:
            self._log.violate("{} logged that it settled {}, and has not", process, id_)

    def _check_recorded(self, process, fields):
        """An event that is logged as recorded was committed, with the logged deliveries."""
        key = process, fields["invoice_id"], fields["description"]
        known = {(row["account_id"], row["id"]) for row in self._memory.tables.deliveries}
        known |= {(fields["account_id"], id_) for id_ in self.ledger.swept}
        is_stored = all((fields["account_id"], one) in known for one in fields["delivery_ids"])
        self.ledger.recorded[key] -= 1
        if self.ledger.recorded[key] < 0 or not is_stored:
            self._log.violate("{} logged that it recorded {!r}, and has not", *key[::2])
