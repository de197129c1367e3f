"""
The promises of leases, looked at in the very transactions that take and give them.

* A row is leased only while it is free, by a process that has seen it free on its own clock.
* Its token grows by one with each lease. Whoever shows another number changes nothing; whoever
  shows the right one is never refused.
* A delivery is leased only while it is pending, behind the earlier ones of its invoice, and not
  at an origin that is held. A lease that ran out is told as a lost attempt.
* Every lease runs out: it ends within the deadline and the margin of an attempt.
* A delivery fails as often as the schedule says, and is dead then.
"""

from __future__ import annotations

from datetime import timedelta

from service.delivery.dispatcher import LEASE_MARGIN
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason, DeliveryStatus
from service.storage import deliveries, invoices, settlements, steps
from tests.simulation.clocks import true_now
from tests.simulation.processes import State

PENDING = DeliveryStatus.PENDING.value
SETTLING_SLACK = timedelta(seconds=4)
"""How long a try to settle may take that finds the memory away, and some more."""


class Fencing:
    """Watches the transactions of one run."""

    def __init__(self, world, ledger):
        self._plan = world.plan
        self._story = world.story
        self._ledger = ledger
        self._lease = world.plan.timeout + LEASE_MARGIN
        self._watched = {
            invoices.accept: self._accept,
            steps.lease_due: self._lease_invoices,
            steps.take_steps: self._take_steps,
            deliveries.lease_due: self._lease_deliveries,
            deliveries.release: self._release,
            settlements.settle: self._settle,
        }

    def watch(self, process, work, done, tx, items):
        """Have *items* done; look at each before and after."""
        watched = self._watched.get(work)
        if watched is None:
            return done(tx, items)
        return [watched(process, done, tx, item) for item in items]

    # Invoices

    def _accept(self, process, done, tx, item):
        (acceptance,) = done(tx, [item])
        invoice = item.invoice
        self._story.tell(process, "accepts {}: {}", invoice.id, acceptance.value)
        if acceptance is invoices.Acceptance.STORED and item.leased_until:
            self._ledger.holders["invoices", invoice.key] = (process, 1)
        return acceptance

    def _lease_invoices(self, process, done, tx, item):
        before = {row["key"]: (row["leased_until"], row["lease_token"]) for row in tx.invoices}
        (due,) = done(tx, [item])
        for one in due.invoices:
            self._story.tell(process, "leases {} (token {})", one.id, one.lease_token)
            until, token = before[one.key]
            self._check_taking(process, one.id, until, token + 1 == one.lease_token)
            self._ledger.holders["invoices", one.key] = (process, one.lease_token)
        return due

    def _take_steps(self, process, done, tx, item):
        step = item.step
        row = tx.invoices.get(step.invoice.account_id, step.invoice.key)
        before = dict(row)
        (taken,) = done(tx, [item])
        name = f"a step of {step.invoice.id}"
        self._check_giving_up(process, name, step.invoice.lease_token, before, row, taken.is_taken)
        if not taken.is_taken:
            return taken
        self._ledger.steps.add((row["key"], step.invoice.lease_token))
        self._story.tell(process, "takes {} to {}", name, step.status.value)
        if taken.delivery:
            self._check_birth(process, tx, taken.delivery)
        return taken

    def _check_birth(self, process, tx, delivery):
        row = tx.deliveries.get(delivery.account_id, delivery.id)
        self._story.tell(process, "bears {} leased until {}", delivery.id, row["leased_until"])
        self._check_order(process, tx, row)
        self._check_hold(process, tx, row)
        self._check_end(process, row)
        self._ledger.holders["deliveries", delivery.id] = (process, delivery.lease_token)

    # Deliveries

    def _lease_deliveries(self, process, done, tx, item):
        before = {row["id"]: dict(row) for row in tx.deliveries if row["status"] == PENDING}
        (due,) = done(tx, [item])
        for one in due.deliveries:
            row = tx.deliveries.get(one.account_id, one.id)
            self._story.tell(
                process, "leases {} (token {}) until {}", one.id, one.lease_token, one.leased_until
            )
            if one.id not in before:
                self._story.violate("{} leased {}, which is {}", process, one.id, row["status"])
                continue
            was = before[one.id]
            is_next = was["lease_token"] + 1 == one.lease_token == row["lease_token"]
            self._check_taking(process, one.id, was["leased_until"], is_next)
            self._check_order(process, tx, row)
            self._check_hold(process, tx, row)
            self._check_end(process, row)
            if was["leased_until"]:
                self._check_loss(tx, was, row)
            self._ledger.holders["deliveries", one.id] = (process, one.lease_token)
        return due

    def _release(self, process, done, tx, leased):
        row = tx.deliveries.get(leased.account_id, leased.id)
        before = dict(row)
        (is_released,) = done(tx, [leased])
        name = f"the release of {leased.id}"
        self._story.tell(process, "gives {} back: {}", leased.id, is_released)
        self._check_giving_up(process, name, leased.lease_token, before, row, is_released)
        return is_released

    def _settle(self, process, done, tx, end):
        row = tx.deliveries.get(end.account_id, end.delivery_id)
        before = dict(row)
        (is_settled,) = done(tx, [end])
        name = f"the settlement of {end.delivery_id}"
        self._check_giving_up(process, name, end.lease_token, before, row, is_settled)
        if is_settled:
            self._story.tell(
                process,
                "settles {} (token {}): {}, {} {}",
                end.delivery_id,
                end.lease_token,
                end.attempt.outcome.value,
                end.status.value,
                end.reason or "",
            )
            self._check_settlement(end, before, row)
        return is_settled

    def _check_settlement(self, end, before, row):
        id_, ledger = end.delivery_id, self._ledger
        ledger.settlements[id_, end.lease_token] = end
        self._check_correspondence(end)
        if not before["attempt_count"] + 1 == end.attempt.number == row["attempt_count"]:
            self._story.violate("attempt {} of {} is out of turn", end.attempt.number, id_)
        ledger.failure_counts[id_] += end.status is not DeliveryStatus.DELIVERED
        if row["status"] != PENDING:
            ledger.final.add(id_)
        elif ledger.failure_counts[id_] > len(self._plan.schedule):
            self._story.violate("{} goes on though its schedule is exhausted", id_)
        is_exhausted = ledger.failure_counts[id_] > len(self._plan.schedule)
        if row["reason"] == DeadReason.EXHAUSTED and not is_exhausted:
            self._story.violate("{} is exhausted before its schedule is", id_)

    def _check_correspondence(self, end):
        """An attempt that is recorded was made, and answered as the record says."""
        request = self._ledger.requests.get((end.delivery_id, end.lease_token))
        outcome = end.attempt.outcome
        if request is None or request.answer is None:
            if outcome is not AttemptOutcome.LOST:
                self._story.violate("{} was settled as {} unasked", end.delivery_id, outcome.value)
        elif (outcome is AttemptOutcome.DELIVERED) != self._is_ok(request.answer):
            self._story.violate(
                "{} was settled as {} after {}", end.delivery_id, outcome.value, request.answer
            )

    def _is_ok(self, answer):
        if getattr(answer, "status_code", None) != 200:
            return False
        return answer.body == b'{"ok": true}' or not self._plan.is_strict

    # What holds for every lease

    def _check_taking(self, process, id_, until, is_next):
        if until and until > process.clock.latest:
            self._story.violate("{} leased {}, whose lease holds until {}", process, id_, until)
        if not is_next:
            self._story.violate("the token of {} did not grow by one", id_)

    def _check_giving_up(self, process, name, token, before, row, is_done):
        holds = before["lease_token"] == token and before["leased_until"] is not None
        if is_done and not holds:
            self._story.violate("{} wrote {} without holding its lease", process, name)
        elif holds and not is_done:
            self._story.violate("{} holds the lease, and {} was refused", process, name)
        elif not is_done:
            self._story.tell(process, "outlived its lease (token {}): {} is refused", token, name)
            if before != row:
                self._story.violate("{} outlived its lease, and {} changed it", process, name)
        elif row["leased_until"] is not None:
            self._story.violate("{} left its row leased", name)

    def _check_order(self, process, tx, row):
        for earlier in tx.earlier_of(row):
            if earlier["status"] == PENDING:
                self._story.violate(
                    "{} leased {} before {} was settled", process, row["id"], earlier["id"]
                )

    def _check_hold(self, process, tx, row):
        hold = tx.origins.get(row["origin"])
        if hold and hold["held_until"] > process.clock.latest:
            self._story.violate(
                "{} leased {}, whose origin is held until {}",
                process,
                row["id"],
                hold["held_until"],
            )

    def _check_end(self, process, row):
        if not row["leased_until"] or row["leased_until"] > process.clock.latest + self._lease:
            self._story.violate(
                "the lease of {} ends at {}", row["id"], row["leased_until"] or "no time"
            )

    def _check_loss(self, tx, was, row):
        """A lease that ran out is told as a lost attempt, and nobody who lived gave up early."""
        number = was["attempt_count"] + 1
        attempt = tx.attempts.get(row["account_id"], row["id"], number)
        if not attempt or attempt["outcome"] != "lost" or row["attempt_count"] != number:
            self._story.violate("a lost attempt of {} was not recorded", row["id"])
        holder, token = self._ledger.holders.get(("deliveries", row["id"]), (None, 0))
        tried_at = self._ledger.tried_at.get((row["id"], was["lease_token"]))
        if token != was["lease_token"] or not tried_at or self._plan.is_skewed:
            return
        enough_at = was["leased_until"] - self._plan.poll - SETTLING_SLACK
        if holder.state is State.RUNNING and tried_at < min(enough_at, true_now()):
            self._story.violate(
                "{} knew the answer to {} and stopped trying to settle it", holder, row["id"]
            )
