"""
What the service says will happen next to a delivery, happens.

From time to time every delivery is explained. What its explanation predicts is compared with the
rows, as the lease rounds read them, and with what happens:

* an attempt "at" an instant is possible from that instant on and not before; one that is due now is
  possible now; while an attempt is in progress, the lease lasts;
* no request is made before the instant that was predicted for it, unless a redelivery was requested
  or the receiver has answered meanwhile; none before the earlier event was settled;
* of an invoice without an event, the mail is sent at the instant that is told, the collector is
asked at that of its row or of its checkout, the customer can pay, or it is told that nothing comes;
* a delivery that is told as cancelled is dead, and stays so unless it was asked for again;
* what was to be attempted has been attempted at the end of the run, or was cancelled.

Where clocks differ, a process may see another instant than the one that explains; such worlds are
left out.
"""

from __future__ import annotations

from datetime import timedelta

from service.domain.explanation import NextStep, Verdict, explain_delivery, explain_invoice
from service.domain.payment import CheckoutStatus
from service.domain.states import PAYABLE, DeadReason, DeliveryStatus, MailStatus
from service.storage import explaining
from tests import memory, memory_money
from tests.simulation.clocks import true_now

EVERY = 5
"""After so many transactions, all deliveries are explained."""

MOMENT = timedelta(microseconds=1)


class Predictions:
    """Checks the explanations of one run."""

    def __init__(self, world, ledger):
        self._world = world
        self._log = world.log
        self._ledger = ledger
        self._count = 0
        self._made = {}
        """The latest explanation of each delivery, and the number of its attempts then."""

    def look(self, tx):
        """Explain the deliveries, if it is time to, and compare with their rows."""
        self._count += 1
        if self._world.plan.is_skewed or self._count % EVERY:
            return
        now = true_now()
        for row in tx.deliveries:
            facts = memory.run(explaining.delivery_facts, tx, row["account_id"], row["id"])
            explanation = explain_delivery(facts, now)
            self._made[row["id"]] = explanation, row["attempt_count"]
            is_told = (explanation.verdict is Verdict.CANCELLED) == _is_cancelled(row)
            if not is_told or not _is_true(tx, row, explanation.next, now):
                self._is_wrong(row, explanation)
        for row in tx.invoices:
            if not row["event_count"] and row["callbacks"]:
                facts = memory.run(explaining.invoice_facts, tx, row["account_id"], row["id"])
                explanation = explain_invoice(facts, now)
                if not _is_true_of_invoice(tx, row, explanation.next):
                    self._is_wrong(row, explanation)

    def _is_wrong(self, row, explanation):
        told = explanation.verdict, explanation.next
        self._log.violate("{} is told as {}: {}, which is not so", row["id"], *told)

    def check_request(self, delivery):
        """A request is made for *delivery*: it was not predicted for later."""
        explanation, count = self._made.get(delivery.id, (None, None))
        if explanation is None or explanation.next is None or count != delivery.attempt_count:
            return
        next_, evidence = explanation.next, explanation.evidence
        is_asked = delivery.id in self._ledger.redelivery_requests
        can_end = explanation.verdict is Verdict.COOLDOWN
        is_early = next_.what is NextStep.ATTEMPT and next_.at and true_now() < next_.at
        if is_early and not is_asked and not can_end:
            self._log.violate("{} is attempted before {}, as was told", delivery.id, next_.at)
        earlier = evidence.get("earlier_delivery_id")
        if earlier and earlier not in self._ledger.final:
            self._log.violate("{} is attempted before {}, as was told", delivery.id, earlier)

    def check_end(self):
        """At the end, what was to be attempted has been."""
        for row in self._world.memory.tables.deliveries:
            explanation, count = self._made.get(row["id"], (None, None))
            was_to_be = explanation and explanation.next and row["attempt_count"] <= count
            if was_to_be and not _is_cancelled(row):
                told = explanation.next.what
                self._log.violate("{} should have had an attempt: {}", row["id"], told)


def _is_cancelled(row):
    is_dead = row["status"] == DeliveryStatus.DEAD.value
    return is_dead and row["reason"] == DeadReason.CANCELLED.value


def _is_true(tx, row, predicted, now):
    """Whether what is *predicted* of a delivery agrees with its rows at *now*."""
    if row["status"] != DeliveryStatus.PENDING.value:
        return predicted is None
    checks = {
        NextStep.OUTCOME: lambda: predicted.at == row["leased_until"] and predicted.at > now,
        NextStep.EARLIER_EVENT: lambda: any(
            one["status"] == DeliveryStatus.PENDING.value for one in tx.earlier_of(row)
        ),
        NextStep.RESUMPTION: lambda: tx.is_paused(row["receiver"]),
        NextStep.ATTEMPT: lambda: _is_attempted_at(tx, row, predicted.at, now),
    }
    return predicted is not None and checks[predicted.what]()


def _is_true_of_invoice(tx, row, predicted):
    """Whether what is *predicted* of an invoice without an event agrees with its rows."""
    if predicted is None:
        return bool(row["mismatch"])
    key = row["account_id"], row["key"]
    mails = [one for one in tx.mails if (one["account_id"], one["invoice_key"]) == key]
    checkout = memory_money.find_active(tx, *key)
    is_on_its_way = checkout is not None and checkout.status is CheckoutStatus.PROCESSING
    asked_at = checkout.due_at if is_on_its_way else row["due_at"]
    checks = {
        NextStep.MAIL: lambda: (
            [predicted.at]
            == [one["due_at"] for one in mails if one["status"] == MailStatus.PENDING.value]
        ),
        NextStep.COLLECTION: lambda: predicted.at == asked_at,
        NextStep.PAYMENT: lambda: row["status"] in PAYABLE and asked_at is None,
    }
    is_said = not row["mismatch"] and (predicted.what is NextStep.COLLECTION or not is_on_its_way)
    return is_said and checks[predicted.what]()


def _is_attempted_at(tx, row, at, now):
    """Whether an attempt is possible from *at* on, and not before; now, if that is None."""
    if at is None:
        return _may_be_leased(tx, row, now)
    return at > now and _may_be_leased(tx, row, at) and not _may_be_leased(tx, row, at - MOMENT)


def _may_be_leased(tx, row, at):
    """Whether a lease round at an instant may lease a delivery, if nothing changes before."""
    if not memory._free(tx, [row], at) or tx.is_paused(row["receiver"]):
        return False
    return row["is_asked"] or (row["due_at"] <= at and not tx.rests_until(row, at))
