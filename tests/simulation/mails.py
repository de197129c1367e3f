"""
The promises about mails, checked during a run and at its end.

* The first step of an invoice whose customer has an address commits one mail. Only what was
committed is handed over, always with the same bytes, under a lease that lasts, once for each lease.
* An attempt is recorded with what the server has said. What the service cannot do itself is none.
* At the end each mail was taken by the server, or is undeliverable: the server does not know the
customer, or the schedule is exhausted. Its attempts are numbered from 1 without gaps.
* An invoice whose mail is undeliverable has an event for it, if it could still be paid.
"""

from __future__ import annotations

from collections import Counter

from service.collection.mailing import NAME
from service.domain.outcomes import MailOutcome
from service.domain.states import INVOICE_MOVES, InvoiceStatus, MailStatus
from tests.simulation.plan import Recipient

PENDING = MailStatus.PENDING.value


class Mails:
    """Checks the mails of one run."""

    def __init__(self, world, ledger, leases):
        self._world = world
        self._log = world.log
        self._ledger = ledger
        self._leases = leases
        self._handed_over = set()
        """The mails and tokens under which one was handed over."""
        self._answers = {}
        """Mail and token -> the answer that its process has got."""
        self._reported = Counter()
        """Key of an invoice -> the events that say it is undeliverable."""

    # Hand-overs

    def handed_over(self, process, mail):
        """*process* begins to hand *mail* over."""
        row = self._tables.mails.get(mail.account_id, mail.id)
        token = mail.lease_token
        self._log.add(process, "hands {} over (token {})", mail.id, token)
        if row is None or (row["body"] is not None and row["body"] != mail.body):
            self._log.violate("{} is handed over, and is not what was committed", mail.id)
            return
        if (mail.id, token) in self._handed_over:
            self._log.violate("{} is handed over twice under one lease", mail.id)
        self._handed_over.add((mail.id, token))
        holds = row["lease_token"] == token and row["leased_until"]
        if not (holds and holds > process.clock.now()) and not self._world.plan.is_skewed:
            self._log.violate("{} hands {} over without a lease that holds", process, mail.id)

    def answered(self, mail, sending):
        """A process has got the answer for *mail*."""
        self._answers[mail.id, mail.lease_token] = sending

    # Transactions

    def lease(self, process, run, tx, round_):
        """A process leases what is due."""
        before = {row["id"]: dict(row) for row in tx.mails if row["status"] == PENDING}
        due = run(round_)
        for mail in due.mails:
            self._log.add(process, "leases {} (token {})", mail.id, mail.lease_token)
            was = before.get(mail.id)
            if was is None:
                self._log.violate("{} leased {}, which is settled", process, mail.id)
                continue
            is_next = was["lease_token"] + 1 == mail.lease_token
            self._leases.check_taking(process, mail.id, was["leased_until"], is_next)
            self._ledger.holders["mails", mail.account_id, mail.id] = (process, mail.lease_token)
        return due

    def settle(self, process, run, tx, attempt):
        """A process records an attempt after which the mail is still pending."""
        if attempt.status is not MailStatus.PENDING:
            self._log.violate("{} ends, and its invoice does not learn it", attempt.mail.id)
        return self._giving_up(
            process, tx, attempt.mail, "the attempt", lambda: run(attempt), attempt
        )

    def release(self, process, run, tx, mail):
        """A process gives up a lease without an attempt."""
        if (mail.id, mail.lease_token) in self._answers:
            self._log.violate("{} has an answer for {}, and forgets it", process, mail.id)
        return self._giving_up(process, tx, mail, "the release", lambda: run(mail))

    def report(self, process, run, tx, item):
        """A process records the last attempt, with what it means for the invoice."""
        step, *_ = item
        attempt, invoice = step.mail_attempt, step.invoice
        status = tx.invoices.get(invoice.account_id, invoice.key)["status"]
        result = []

        def write():
            result.append(run(item))
            return tx.mails.get(attempt.mail.account_id, attempt.mail.id)["status"] != PENDING

        is_done = self._giving_up(
            process, tx, attempt.mail, "the last attempt", write, attempt, is_last=True
        )
        is_legal = step.status in INVOICE_MOVES[InvoiceStatus(status)]
        if is_done and is_legal != (result[0] is not None):
            self._log.violate("{} is {} and its mail {}", invoice.id, status, step.status.value)
        if result[0] is not None and step.event:
            self._reported[invoice.key] += 1
        return result[0]

    def _giving_up(self, process, tx, mail, what, write, attempt=None, *, is_last=False):
        row = tx.mails.get(mail.account_id, mail.id)
        before = dict(row)
        # An earlier attempt of a process that has lost its lease may have ended the mail.
        is_done = write() and (before["status"] == PENDING or not is_last)
        name = f"{what} of {mail.id}"
        self._leases.check_giving_up(process, name, mail.lease_token, before, row, is_done=is_done)
        if is_done and attempt:
            self._check_attempt(process, attempt, before)
        return is_done

    def _check_attempt(self, process, attempt, before):
        mail, plan = attempt.mail, self._world.plan
        sending = self._answers.get((mail.id, mail.lease_token))
        self._log.add(
            process,
            "records attempt {} of {}: {}, {}",
            attempt.number,
            mail.id,
            attempt.outcome.value,
            attempt.status.value,
        )
        if not self._is_void(mail) and getattr(sending, "outcome", None) is not attempt.outcome:
            self._log.violate("{} was settled as {} after {}", mail.id, attempt.outcome, sending)
        if attempt.number != before["attempt_count"] + 1:
            self._log.violate("attempt {} of {} has the wrong number", attempt.number, mail.id)
        is_exhausted = attempt.number > len(plan.mail_schedule)
        if attempt.outcome is MailOutcome.DEFERRED and is_exhausted != (
            attempt.status is MailStatus.UNDELIVERABLE
        ):
            self._log.violate("{} is {} after {}", mail.id, attempt.status, attempt.number)

    def _is_void(self, mail):
        """Whether the invoice of a mail is void, so that it may end without being handed over."""
        row = self._tables.invoices.get(mail.account_id, mail.invoice_key)
        return row["status"] == InvoiceStatus.VOID.value

    # The end

    @property
    def _tables(self):
        return self._world.memory.tables

    def are_finished(self):
        """Whether no mail is pending, and no process waits for an answer."""
        return all(row["status"] != PENDING for row in self._tables.mails) and not any(
            one.service.mailing.held_count for one in self._world.running_processes
        )

    def check_end(self):
        """Check every mail, and that there are no others."""
        for row in self._tables.invoices:
            plan = self._world.script_of(row["id"]).plan
            found = [one for one in self._tables.mails if one["invoice_key"] == row["key"]]
            # What is void or paid before its collection begins needs no mail.
            is_begun = (row["account_id"], row["key"]) in self._ledger.collected
            if len(found) != (plan.recipient is not None and is_begun):
                self._log.violate("{} has {} mails", row["id"], len(found))
            for one in found:
                self._check_mail(one, plan)
            told = sum(
                event.collector == NAME
                for key, event in self._ledger.events.items()
                if key[:2] == (row["account_id"], row["key"])
            )
            if told != self._reported[row["key"]] or told > 1:
                self._log.violate("{} says {} times that it is undeliverable", row["id"], told)

    def _check_mail(self, row, plan):
        id_, count = row["id"], row["attempt_count"]
        made = [one for one in self._tables.mail_attempts if one["mail_id"] == id_]
        if sorted(one["number"] for one in made) != list(range(1, count + 1)):
            self._log.violate("the attempts of {} are not numbered from 1 to {}", id_, count)
        if row["leased_until"] is not None or row["body"] is not None:
            self._log.violate("{} is settled, and leased or kept", id_)
        is_taken = self._world.mail_server.taken[id_] > 0
        if row["status"] == MailStatus.SENT.value and not is_taken:
            self._log.violate("{} is sent, and has never arrived", id_)
        is_exhausted = count > len(self._world.plan.mail_schedule)
        invoice = self._tables.invoices.get(row["account_id"], row["invoice_key"])
        is_void = invoice["status"] == InvoiceStatus.VOID.value
        if (
            row["status"] == MailStatus.UNDELIVERABLE.value
            and plan.recipient is Recipient.KNOWN
            and not is_exhausted
            and not is_void
        ):
            self._log.violate("{} is undeliverable, and its schedule is not exhausted", id_)
