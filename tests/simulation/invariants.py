"""
All that is promised of a run, in one place; each kind of promise has a module of its own.

`fencing` looks into transactions, `requests` at what receivers see, `ending` at what is left. Here
is what is compared with the answers that the store gives: what it says is done is in the memory.
"""

from __future__ import annotations

from service.domain.states import Acceptance, DeliveryStatus
from service.errors import StorageUnavailable
from tests.simulation.clocks import true_now
from tests.simulation.ending import Ending
from tests.simulation.fencing import Fencing
from tests.simulation.ledger import Ledger
from tests.simulation.requests import Requests

PENDING = DeliveryStatus.PENDING.value


class Invariants:
    """Watches one run; what is broken first is told to its story."""

    def __init__(self, world):
        self.ledger = Ledger()
        self.ending = Ending(world, self.ledger)
        fencing, requests = Fencing(world, self.ledger), Requests(world, self.ledger)
        self._story = world.story
        self._memory = world.memory
        self._statuses = {}
        self.watch = fencing.watch
        self.turn_given = requests.turn_given
        self.attempt_begins = requests.attempt_begins
        self.attempt_ends = requests.attempt_ends
        self.request_begins = requests.request_begins
        self.request_ends = requests.request_ends
        self.drained = self.ending.check_drained

    def look_at_states(self, tx):
        """A settled delivery stays as it is, unless somebody asked to redeliver it."""
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
                self._story.tell("memory", "{} is pending again, as asked", id_)
            else:
                self._story.violate("{} was {} and is {}", id_, was, status)

    def acknowledged(self, invoice_id, acceptance):
        """Whoever sent an invoice in was told that it is stored."""
        stored = self._memory.tables.invoices.by("account_id", "id")
        if acceptance is Acceptance.CONFLICT or ("dev", invoice_id) not in stored:
            self._story.violate("{} was acknowledged and is not stored", invoice_id)
        self.ledger.acknowledged.append(invoice_id)

    def settling(self, settlement):
        """A process tries to settle."""
        self.ledger.tried_at[settlement.delivery_id, settlement.lease_token] = true_now()

    def told_of_settlement(self, settlement, is_settled):
        """The store has said whether *settlement* was written."""
        key = settlement.delivery_id, settlement.lease_token
        if is_settled and self.ledger.settlements.get(key) is not settlement:
            self._story.violate("a settlement of {} was told and not written", key[0])

    def told_of_step(self, step, is_taken):
        """The store has said whether *step* was written."""
        if is_taken and (step.invoice.key, step.invoice.lease_token) not in self.ledger.steps:
            self._story.violate("a step of {} was told and not written", step.invoice.id)

    def logged(self, process, record):
        """The service has logged a warning, or an error that nobody has foreseen."""
        self._story.tell(process or "log", "{}", record.getMessage())
        if record.getMessage() == "drain.timed_out" and process:
            process.has_given_up = True
        error = record.exc_info and record.exc_info[1]
        if error and not isinstance(error, StorageUnavailable):
            self._story.violate("{} logged {}: {!r}", process, record.getMessage(), error)
