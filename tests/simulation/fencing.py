"""
The promises of leases, checked in the transactions that take and end leases.

* A row is leased only while it is free, by a process whose own clock shows that it is free.
* The token of a row grows by one with each lease. A write with another token changes nothing; a
write with the right token is never refused.
* A delivery is leased only while it is pending, after the earlier ones of the same callback of
its invoice, and not while its origin is on hold. For each expired lease a lost attempt is
recorded.
* No delivery is leased from the moment at which a client learns that its receiver is paused until
it asks for the end of the pause, not even one that was asked for by hand.
* Every lease expires within the deadline and the margin of an attempt.
* A delivery fails as often as its schedule allows, and is dead then.
* The events of an invoice are numbered without gaps. Each is written with one delivery for every
  callback that it fires and its invoice asks for.
* A cancellation ends a delivery that is pending, and its lease with it; the attempt in progress is
recorded as lost.
* Retention removes only deliveries that were settled long ago.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

from service.delivery.dispatcher import LEASE_MARGIN
from service.domain.delivery import Dead
from service.domain.outcomes import AttemptOutcome
from service.domain.states import Acceptance, DeadReason, DeliveryStatus
from service.storage import (
    accepting,
    attempts,
    deliveries,
    invoices,
    mails,
    payments,
    redelivery,
    retention,
    steps,
)
from tests import memory
from tests.simulation.clocks import true_now
from tests.simulation.processes import State

PENDING = DeliveryStatus.PENDING.value
SETTLING_SLACK = timedelta(seconds=4)
"""How long a settlement may take that finds the memory unavailable, with a reserve."""


class Fencing:
    """Checks the transactions of one run."""

    def __init__(self, world, ledger, leases, mail_rules):
        self._world = world
        self._plan = world.plan
        self._log = world.log
        self._ledger = ledger
        self._leases = leases
        self._mails = mail_rules
        self._lease = world.plan.timeout + LEASE_MARGIN
        self._watched = {
            invoices.accept: self._accept,
            accepting.accept: self._accept_begun,
            steps.lease_due: self._lease_invoices,
            steps.take_steps: self._take_step,
            steps.report: self._report,
            deliveries.lease_due: self._lease_deliveries,
            deliveries.release: self._release,
            attempts.settle: self._settle,
            mails.lease_due: mail_rules.lease,
            mails.settle: mail_rules.settle,
            mails.release: mail_rules.release,
        }

    def watch_items(self, process, work, tx, items):
        """Do *work* for *items*, one after the other, and check the changes of each."""
        watched = self._watched[work]
        return [
            watched(process, lambda one: memory.WORK[work](tx, [one])[0], tx, item)
            for item in items
        ]

    def watch(self, process, work, tx, args, options):
        """Do *work*, which has its own transaction, and check its changes."""
        if work is payments.settle:
            return self._report(process, partial(memory.run, work, tx), tx, *args)
        if work is redelivery.cancel:
            return self._cancel(process, tx, *args)
        before = dict(tx.deliveries.by_key) if work is retention.sweep else {}
        result = memory.run(work, tx, *args, **options)
        if work is redelivery.redeliver and result is not None:
            _, id_, _ = args
            self._ledger.failure_counts[id_] = 0
        for key, row in before.items():
            if key not in tx.deliveries.by_key:
                self._check_removal(process, row)
        return result

    # Invoices

    def _accept(self, process, run, tx, item):
        invoice, leased_until, _ = item
        acceptance = run(item)
        self._log.add(process, "accepts {}: {}", invoice.id, acceptance.value)
        if acceptance is Acceptance.STORED and leased_until:
            self._ledger.holders["invoices", invoice.account_id, invoice.key] = (process, 1)
        return acceptance

    def _accept_begun(self, process, run, tx, item):
        step, *_ = item
        invoice = step.invoice
        acceptance, inserted = run(item)
        self._log.add(process, "accepts {}: {}", invoice.id, acceptance.value)
        if acceptance is Acceptance.STORED:
            self._log.add(process, "takes its first step to {}", step.status.value)
            self._ledger.collected.add((invoice.account_id, invoice.key))
            row = tx.invoices.get(invoice.account_id, invoice.key)
            before = {**row, "status": invoice.status.value, "event_count": 0}
            self._check_event(process, tx, step, before, row, inserted)
        elif inserted is not None:
            self._log.violate("{} is not stored, and has taken a step", invoice.id)
        return acceptance, inserted

    def _lease_invoices(self, process, run, tx, round_):
        before = {row["key"]: (row["leased_until"], row["lease_token"]) for row in tx.invoices}
        due = run(round_)
        for one in due.invoices:
            self._log.add(process, "leases {} (token {})", one.id, one.lease_token)
            until, token = before[one.key]
            self._leases.check_taking(process, one.id, until, token + 1 == one.lease_token)
            self._ledger.holders["invoices", one.account_id, one.key] = (process, one.lease_token)
        return due

    def _take_step(self, process, run, tx, item):
        step, *_ = item
        invoice = step.invoice
        row = tx.invoices.get(invoice.account_id, invoice.key)
        before = dict(row)
        inserted = run(item)
        is_taken = inserted is not None
        name = f"a step of {invoice.id}"
        self._leases.check_giving_up(
            process, name, invoice.lease_token, before, row, is_done=is_taken
        )
        if is_taken:
            self._log.add(process, "takes {} to {}", name, step.status.value)
            if before["event_count"] != invoice.event_count:
                self._log.violate("{} is taken, and counts the events wrong", name)
            self._ledger.collected.add((invoice.account_id, invoice.key))
            self._check_event(process, tx, step, before, row, inserted)
        return inserted

    def _report(self, process, run, tx, item):
        step, *_ = item
        row = tx.invoices.get(step.invoice.account_id, step.invoice.key)
        before = dict(row)
        write = partial(self._mails.report, process, run, tx) if step.mail_attempt else run
        inserted = write(item)
        if inserted is not None:
            event = step.event and step.event.description
            self._log.add(process, "records {!r} of {}", event, step.invoice.id)
            self._check_event(process, tx, step, before, row, inserted)
        return inserted

    def _check_event(self, process, tx, step, before, row, inserted):
        """An event has the next number, and is written with the deliveries that it fires."""
        invoice, event, count = step.invoice, step.event, before["event_count"]
        if row["event_count"] != count + (event is not None):
            self._log.violate("{} counts {} events", invoice.id, row["event_count"])
        if event is None:
            return
        if tx.events.get(row["account_id"], row["key"], count + 1) is None:
            self._log.violate("event {} of {} is missing", count + 1, invoice.id)
        self._ledger.events[row["account_id"], row["key"], count + 1] = event
        self._ledger.recorded[process, invoice.id, event.description] += 1
        fired = [
            (one.callback, one.url, one.origin, count + 1)
            for one in invoice.callbacks
            if one.callback in event.callbacks
        ]
        stored = [tx.deliveries.get(one.account_id, one.id) for one in inserted]
        named = ("callback", "url", "origin", "sequence")
        if fired != [tuple(one[name] for name in named) for one in stored]:
            self._log.violate("event {} of {} has not fired {}", count + 1, invoice.id, fired)
        for one, delivery in zip(stored, inserted, strict=True):
            self._log.add(
                process,
                "inserts {} for {} of {}, leased until {}",
                one["id"],
                one["callback"],
                invoice.id,
                delivery.leased_until,
            )
            if delivery.leased_until:
                self._check_lease(process, tx, one)
                self._note_lease(process, delivery)

    # Deliveries

    def _lease_deliveries(self, process, run, tx, round_):
        before = {row["id"]: dict(row) for row in tx.deliveries if row["status"] == PENDING}
        due = run(round_)
        # Each lease gets new bytes, as from a database: the bytes of a request identify its lease.
        leased = [replace(one, body=bytes(memoryview(one.body))) for one in due.deliveries]
        for one in leased:
            row = tx.deliveries.get(one.account_id, one.id)
            self._log.add(
                process, "leases {} (token {}) until {}", one.id, one.lease_token, one.leased_until
            )
            if one.id not in before:
                self._log.violate("{} leased {}, which is {}", process, one.id, row["status"])
                continue
            was = before[one.id]
            is_next = was["lease_token"] + 1 == one.lease_token == row["lease_token"]
            self._leases.check_taking(process, one.id, was["leased_until"], is_next)
            self._check_lease(process, tx, row)
            if was["leased_until"]:
                self._check_loss(process, tx, was, row)
            self._note_lease(process, one)
        return replace(due, deliveries=leased)

    def _note_lease(self, process, delivery):
        self._ledger.leases[id(delivery.body)] = (delivery.body, process, delivery)
        key = "deliveries", delivery.account_id, delivery.id
        self._ledger.holders[key] = (process, delivery.lease_token)

    def _release(self, process, run, tx, item):
        delivery, _ = item
        row = tx.deliveries.get(delivery.account_id, delivery.id)
        before = row and dict(row)
        is_done = run(item)
        name = f"the release of {delivery.id}"
        self._log.add(process, "releases {}: {}", delivery.id, is_done)
        self._leases.check_giving_up(
            process, name, delivery.lease_token, before, row, is_done=is_done
        )
        return is_done

    def _settle(self, process, run, tx, attempt):
        delivery = attempt.delivery
        row = tx.deliveries.get(delivery.account_id, delivery.id)
        before = row and dict(row)
        is_done = run(attempt)
        name = f"the settlement of {delivery.id}"
        self._leases.check_giving_up(
            process, name, delivery.lease_token, before, row, is_done=is_done
        )
        if is_done:
            decision = attempt.decision
            self._log.add(
                process,
                "settles {} (token {}): {}, {} {}",
                delivery.id,
                delivery.lease_token,
                attempt.outcome.value,
                decision.status.value,
                decision.reason.value if isinstance(decision, Dead) else "",
            )
            self._check_settlement(process, attempt, before, row)
        return is_done

    def _cancel(self, process, tx, account_id, id_, now):
        row = tx.deliveries.get(account_id, id_)
        before = row and dict(row)
        receiver = memory.run(redelivery.cancel, tx, account_id, id_, now)
        is_pending = before is not None and before["status"] == PENDING
        self._log.add(process, "cancels {}: {}", id_, receiver is not None)
        if (receiver is not None) != is_pending:
            self._log.violate("{} cancels {}, which was not pending", process, id_)
        if not is_pending:
            return receiver
        self._ledger.cancelled.add((id_, before["lease_token"]))
        self._ledger.final.add(id_)
        is_over = row["status"] == DeliveryStatus.DEAD and row["reason"] == DeadReason.CANCELLED
        if not is_over or row["leased_until"] or row["lease_token"] == before["lease_token"]:
            self._log.violate("{} was cancelled, and can be settled", id_)
        if row["attempt_count"] != before["attempt_count"] + (before["leased_until"] is not None):
            self._log.violate("{} was cancelled, and counts its attempts wrong", id_)
        return receiver

    def _check_settlement(self, process, attempt, before, row):
        id_, ledger = attempt.delivery.id, self._ledger
        ledger.settlements[id_, attempt.delivery.lease_token] = attempt
        ledger.settled[id_, attempt.number] = (process, attempt)
        self._check_correspondence(attempt)
        if not before["attempt_count"] + 1 == attempt.number == row["attempt_count"]:
            self._log.violate("attempt {} of {} has the wrong number", attempt.number, id_)
        ledger.failure_counts[id_] += attempt.decision.status is not DeliveryStatus.DELIVERED
        is_exhausted = ledger.failure_counts[id_] > len(self._plan.schedule)
        if row["status"] != PENDING:
            ledger.final.add(id_)
        elif is_exhausted:
            self._log.violate("{} is retried though its schedule is exhausted", id_)
        if row["reason"] == DeadReason.EXHAUSTED and not is_exhausted:
            self._log.violate("{} is dead as exhausted before its schedule is", id_)

    def _check_correspondence(self, attempt):
        """A recorded attempt was made, and has the outcome of its answer."""
        id_, outcome = attempt.delivery.id, attempt.outcome
        request = self._ledger.requests.get((id_, attempt.delivery.lease_token))
        if request is None or request.answer is None:
            self._log.violate("{} was settled as {} without a request", id_, outcome.value)
        elif (outcome is AttemptOutcome.DELIVERED) != self._is_ok(request.answer):
            self._log.violate("{} was settled as {} after {}", id_, outcome.value, request.answer)

    def _is_ok(self, answer):
        if getattr(answer, "status_code", None) != 200:
            return False
        return answer.body == b'{"ok": true}' or not self._plan.is_strict

    def _check_removal(self, process, row):
        self._log.add(process, "removes {}", row["id"])
        place = ("account_id", "invoice_key", "callback", "sequence")
        self._ledger.swept[row["id"]] = tuple(row[name] for name in place)
        limit = process.clock.latest - self._plan.retention
        if row["status"] == PENDING or row["settled_at"] >= limit:
            self._log.violate("{} removed {}, which was {}", process, row["id"], row["status"])

    def _check_lease(self, process, tx, row):
        """The lease of a delivery is in order, not of one that rests or is paused, and expires."""
        for earlier in tx.earlier_of(row):
            if earlier["status"] == PENDING:
                self._log.violate(
                    "{} leased {} before {} was settled", process, row["id"], earlier["id"]
                )
        if row["receiver"] in self._ledger.paused:
            self._log.violate("{} leased {}, whose receiver is paused", process, row["id"])
        state = tx.receivers.get(row["receiver"])
        held_until = state and state["held_until"]
        if held_until and held_until > process.clock.latest and not row["is_asked"]:
            self._log.violate(
                "{} leased {}, whose receiver is on hold until {}", process, row["id"], held_until
            )
        if not row["leased_until"] or row["leased_until"] > process.clock.latest + self._lease:
            self._log.violate(
                "the lease of {} ends at {}", row["id"], row["leased_until"] or "no time"
            )

    def _check_loss(self, process, tx, was, row):
        """A lost attempt is recorded, and no running process stopped its settlement too early."""
        number = was["attempt_count"] + 1
        attempt = tx.attempts.get(row["account_id"], row["id"], number)
        if not attempt or attempt["outcome"] != "lost" or row["attempt_count"] != number:
            self._log.violate("a lost attempt of {} was not recorded", row["id"])
        self._log.add(process, "records a lost attempt of {}", row["id"])
        key = "deliveries", row["account_id"], row["id"]
        holder, token = self._ledger.holders.get(key, (None, 0))
        tried_at = self._ledger.tried_at.get((row["id"], was["lease_token"]))
        if token != was["lease_token"] or not tried_at or self._plan.is_skewed:
            return
        enough_at = was["leased_until"] - self._plan.poll - SETTLING_SLACK
        if holder.state is State.RUNNING and tried_at < min(enough_at, true_now()):
            self._log.violate(
                "{} knew the answer to {} and stopped the settlement too early", holder, row["id"]
            )
