"""
The promises about payments, checked during a run and at its end.

* No invoice has two sessions at Stripe that can be paid, and one that is void has none; but those
  that the key of another account did not know for a while are not under the control of the service.
* At the end, no session can be paid, nothing is asked about any more, and for each invoice the
  ledger of callbacks equals the ledger of money: see `tests.stripe.ledger`.
"""

from __future__ import annotations

from collections import Counter

from service.collection.looking import LookingLoop
from service.collection.stripe.collector import NAME
from service.domain.payment import ACTIVE
from service.domain.states import InvoiceStatus
from tests.stripe.ledger import Records, check_ledger


class Payments:
    """Checks the payments of one run."""

    def __init__(self, world, ledger):
        self._world = world
        self._log = world.log
        self._ledger = ledger

    @property
    def _tables(self):
        return self._world.memory.tables

    def check_sessions(self):
        """No invoice has two sessions that can be paid."""
        void = {row["id"] for row in self._tables.invoices if _is_void(row)}
        stripe = self._world.stripe
        for account_id, fake in stripe.fakes.items():
            counts = Counter(
                one["metadata"]["invoice_id"]
                for one in fake.payable()
                if (account_id, one["id"]) not in stripe.hidden
            )
            for id_, count in counts.items():
                if count > 1:
                    self._log.violate("{} has {} sessions that can be paid", id_, count)
                if id_ in void:
                    self._log.violate("{} is void, and can be paid", id_)

    def are_finished(self):
        """Whether nothing is asked about, nobody asks, and no webhook is on its way."""
        return (
            all(row["due_at"] is None for row in self._tables.payments)
            and all(row["due_at"] is None for row in self._tables.checkouts)
            and self._world.stripe.are_sent()
            and not any(
                loop.held_count
                for process in self._world.running_processes
                for loop in process.service.loops
                if isinstance(loop, LookingLoop)
            )
        )

    def name_unfinished(self):
        """The time limit has passed: name what is still asked about."""
        for rows in (self._tables.checkouts, self._tables.payments):
            for row in rows:
                if row["due_at"] is not None:
                    self._log.violate("the money of {} is still asked about", row["id"])

    def check_end(self):
        """What was told of each invoice is what Stripe holds."""
        self.check_sessions()
        for row in self._tables.checkouts:
            if row["status"] in ACTIVE:
                self._log.violate("the checkout {} is {} for ever", row["id"], row["status"])
        for row in self._tables.invoices:
            fake = self._world.stripe.fakes[row["account_id"]]
            try:
                check_ledger(fake, self._records(row))
            except AssertionError as error:
                self._log.violate("the ledgers differ: {}", error.args[0])

    def _records(self, row):
        key = row["account_id"], row["key"]
        of_invoice = lambda rows: [  # noqa: E731
            one for one in rows if (one["account_id"], one["invoice_key"]) == key
        ]
        told = [one for one in of_invoice(self._tables.events) if one["collector"] == NAME]
        return Records(
            row,
            sorted(told, key=lambda one: one["sequence"]),
            of_invoice(self._tables.payments),
            of_invoice(self._tables.refunds),
        )


def _is_void(row):
    return row["status"] == InvoiceStatus.VOID.value
