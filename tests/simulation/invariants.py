"""
All that is promised of a run, in one place; each kind of promise has a module of its own.

`fencing` checks transactions, `requests` what receivers see, `ending` what is left. Here the memory
is compared with what a process says: to its clients, and in its log.
"""

from __future__ import annotations

import logging

from service.domain.states import Acceptance, DeliveryStatus
from service.errors import StorageUnavailable
from service.storage import attempts
from tests.simulation.clocks import true_now
from tests.simulation.ending import Ending
from tests.simulation.fencing import Fencing
from tests.simulation.ledger import Ledger
from tests.simulation.requests import Requests

PENDING = DeliveryStatus.PENDING.value


class Invariants:
    """Watches one run; what is broken first is added to its story."""

    def __init__(self, world):
        self.ledger = Ledger()
        self.ending = Ending(world, self.ledger)
        fencing, requests = Fencing(world, self.ledger), Requests(world, self.ledger)
        self._story = world.story
        self._memory = world.memory
        self._statuses = {}
        self.watch = fencing.watch
        self.watch_items = fencing.watch_items
        self.attempt_begins = requests.attempt_begins
        self.attempt_ends = requests.attempt_ends
        self.request_begins = requests.request_begins
        self.drained = self.ending.check_drained

    def batch_begins(self, batch):
        """A process tries to write *batch*."""
        for attempt in batch.get(attempts.settle, ()):
            key = attempt.delivery.id, attempt.delivery.lease_token
            self.ledger.tried_at[key] = true_now()

    def check_states(self, tx):
        """A settled delivery stays as it is, unless it was asked to be redelivered."""
        for row in tx.deliveries:
            id_, status = row["id"], row["status"]
            was = self._statuses.get(id_, PENDING)
            if was == status:
                continue
            self._statuses[id_] = status
            if was == PENDING:
                if (id_, row["lease_token"]) not in self.ledger.settlements:
                    self._story.violate("{} is {} without a settlement", id_, status)
            elif status == PENDING and id_ in self.ledger.reprieved:
                self.ledger.failure_counts[id_] = 0
                self._story.add("memory", "{} is pending again, as asked", id_)
            else:
                self._story.violate("{} was {} and is {}", id_, was, status)

    def acknowledged(self, invoice, acceptance):
        """A client that sent *invoice* in was answered: it is stored."""
        key = invoice.account_id, invoice.id
        stored = self._memory.tables.invoices.by("account_id", "id")
        if acceptance is Acceptance.CONFLICT or key not in stored:
            self._story.violate("{} was acknowledged and is not stored", invoice.id)
        self.ledger.acknowledged.append(key)

    def event_acknowledged(self, event):
        """A client that recorded *event* was answered: it is stored."""
        if all(row["description"] != event.description for row in self._memory.tables.events):
            self._story.violate("{!r} was acknowledged and is not stored", event.description)

    def logged(self, process, record):
        """The service has logged what it has done, a warning, or an error that is unexpected."""
        message = record.getMessage()
        if message == "attempt.settled":
            self._check_settled(process, record.fields)
        elif message == "event.recorded":
            self._check_recorded(process, record.fields)
        if record.levelno < logging.WARNING:
            return
        self._story.add(process or "log", "{}", message)
        if message == "drain.timed_out" and process:
            process.has_given_up = True
        error = record.exc_info and record.exc_info[1]
        if error and not isinstance(error, StorageUnavailable):
            self._story.violate("{} logged {}: {!r}", process, message, error)

    def _check_settled(self, process, fields):
        """An attempt that is logged as settled was committed, as the line says."""
        id_ = fields["delivery_id"]
        writer, attempt = self.ledger.settled.get((id_, fields["number"]), (None, None))
        if writer is not process or attempt.outcome != fields["outcome"]:
            self._story.violate("{} says that it settled {}, and has not", process, id_)

    def _check_recorded(self, process, fields):
        """An event that is logged as recorded was committed, with the deliveries of the line."""
        key = process, fields["invoice_id"], fields["description"]
        known = {(row["account_id"], row["id"]) for row in self._memory.tables.deliveries}
        known |= {(fields["account_id"], id_) for id_ in self.ledger.swept}
        is_stored = all((fields["account_id"], one) in known for one in fields["delivery_ids"])
        self.ledger.recorded[key] -= 1
        if self.ledger.recorded[key] < 0 or not is_stored:
            self._story.violate("{} says that it recorded {!r}, and has not", *key[::2])
