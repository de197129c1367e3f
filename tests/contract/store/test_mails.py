"""Mails in every kind of store."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.mail import Mail, MailAttempt
from service.domain.outcomes import MailOutcome
from service.domain.states import InvoiceStatus, MailStatus
from service.errors import NotFound
from service.storage.leases import LeaseRound
from service.storage.tables import mails
from tests.clock import START
from tests.rows import LEASE, SECOND, a_step, an_event, an_invoice, lease_invoice, rows_of

RECEIVED, SENT, PAID = InvoiceStatus.RECEIVED, InvoiceStatus.SENT, InvoiceStatus.PAID
UNDELIVERABLE = InvoiceStatus.UNDELIVERABLE


def a_mail(invoice, id_="mail_1", **changes):
    """A new mail of *invoice*."""
    values = {
        "account_id": invoice.account_id,
        "id": id_,
        "invoice_key": invoice.key,
        "recipient": "richie@example.com",
        "subject": "Invoice 1",
        "message_id": f"<{id_}@example.com>",
        "body": b"Subject: Invoice 1\r\n\r\n\xff",
        "created_at": START,
    }
    return Mail(**{**values, **changes})


async def commit_mail(store, id_="1", *, due_at=None):
    """Accept an invoice and take its first step with a mail; returns its value."""
    await store.accept(an_invoice(id_, customer_email="richie@example.com"))
    invoice = await lease_invoice(store)
    step = replace(a_step(invoice, RECEIVED, due_at=due_at), mail=a_mail(invoice, f"mail_{id_}"))
    assert [] == await store.take_step(step, [])
    return invoice


async def lease_mails(store, *, now=START, limit=10):
    """The mails that one round leases."""
    return (await store.lease_mails(LeaseRound(now, now + LEASE, limit))).mails


def an_attempt(mail, outcome=MailOutcome.ACCEPTED, status=MailStatus.SENT, **changes):
    """An attempt at *mail*."""
    values = {"number": mail.attempt_count + 1, "started_at": START, "ended_at": START}
    return MailAttempt(mail=mail, outcome=outcome, status=status, **{**values, **changes})


async def state(store):
    """The state of the invoice, and that of its mail."""
    (mail,) = await store.history.mails_of("dev", "1")
    return (await store.history.find_invoice("dev", "1"))["status"], mail["status"]


async def test_a_mail_is_committed_with_the_step(store, elsewhere):
    """The step and its mail are stored together, and every process learns that one is due."""
    invoice = await commit_mail(store)

    assert store.mails_due.is_set()
    assert await elsewhere.has_mail(invoice)
    assert (RECEIVED, "pending") == await state(store)
    assert [replace(a_mail(invoice), lease_token=1)] == await lease_mails(elsewhere)


async def commit_mails(store, account_id, count, *, at=START):
    """Accept invoices of an account, each with a mail; the last of these is due at *at*."""
    for number in range(count):
        id_ = f"{account_id}{number:03}"
        due_at = at - (count - 1 - number) * SECOND
        await store.accept(an_invoice(id_, account_id=account_id, at=due_at))
        invoice = await lease_invoice(store, now=due_at)
        mail = a_mail(invoice, f"mail_{id_}", created_at=due_at)
        await store.take_step(replace(a_step(invoice, RECEIVED), mail=mail), [])


async def test_mails_are_leased_fairly_among_accounts(store):
    """The only mail of an account does not wait for the many of another, whatever is free."""
    await commit_mails(store, "a", 8)
    await commit_mails(store, "b", 1, at=START + SECOND)
    now, until = START + SECOND, START + LEASE

    async def accounts(limit, *held):
        round_ = LeaseRound(now, until, limit, held=held)
        return [one.account_id for one in (await store.lease_mails(round_)).mails]

    first = await accounts(3)
    await commit_mails(store, "c", 1, at=now)
    await commit_mails(store, "d", 1, at=now)
    second = await accounts(1, *first)

    assert ["a", "b", "a"] == first
    assert ["c"] == second
    assert ["a", "d", "a"] == await accounts(3, "c")
    assert ["a"] * 4 == await accounts(10)


async def test_the_mails_of_an_account_are_leased_in_order(store):
    """Of one account, those that have been due longest go first."""
    await commit_mails(store, "a", 5)

    leased = [mail.id for mail in await lease_mails(store, limit=3)]

    assert [f"mail_a{number:03}" for number in range(3)] == leased


async def test_a_step_that_lost_its_lease_commits_no_mail(store):
    """A stale step leaves no mail behind, so that a customer never gets two."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    await lease_invoice(store, now=START + LEASE)

    step = replace(a_step(stale, RECEIVED), mail=a_mail(stale))
    assert None is await store.take_step(step, [])
    assert not await store.has_mail(stale)


async def test_a_leased_mail_is_not_leased_again(store, elsewhere):
    """A mail has one sender at a time, until the lease has run out."""
    await commit_mail(store)

    assert 1 == len(await lease_mails(store))
    assert [] == await lease_mails(elsewhere, now=START + LEASE - SECOND)
    (again,) = await lease_mails(elsewhere, now=START + LEASE)
    assert 2 == again.lease_token


async def test_mails_are_leased_in_the_order_in_which_they_are_due(store):
    """The longest due mail is leased first; the round says when the next one may find more."""
    for id_ in ("1", "2", "3"):
        await commit_mail(store, id_)
    for mail in await lease_mails(store):
        due_at = START + int(mail.id[-1]) * SECOND
        attempt = an_attempt(mail, MailOutcome.DEFERRED, MailStatus.PENDING, due_at=due_at)
        assert await store.settle_mail(attempt)

    due = await store.lease_mails(LeaseRound(START + SECOND, START + LEASE, 10))
    assert (["mail_1"], START + 2 * SECOND) == ([one.id for one in due.mails], due.next_due_at)
    due = await store.lease_mails(LeaseRound(START + 9 * SECOND, START + LEASE, 1))
    assert ["mail_2"] == [one.id for one in due.mails]
    assert START + 9 * SECOND == due.next_due_at


async def test_an_accepted_mail_makes_its_invoice_sent(store, database):
    """The attempt and the state of the invoice are one commit, and the bytes are dropped."""
    invoice = await commit_mail(store)
    (mail,) = await lease_mails(store)

    step = replace(a_step(invoice, SENT), is_report=True, mail_attempt=an_attempt(mail, code=250))
    assert [] == await store.report(step, [])

    assert (SENT, "sent") == await state(store)
    (row,) = await rows_of(database, mails)
    assert (None, START, None) == (row["body"], row["settled_at"], row["leased_until"])


async def test_an_accepted_mail_of_a_paid_invoice_is_recorded(store):
    """An invoice that was paid before its mail had gone stays paid, and the mail is sent."""
    invoice = await commit_mail(store, due_at=START)
    (mail,) = await lease_mails(store)
    paid = await lease_invoice(store)
    await store.take_step(a_step(paid, PAID, event=an_event(delivery_id=None)), [])

    step = replace(a_step(invoice, SENT), is_report=True, mail_attempt=an_attempt(mail))
    assert None is await store.report(step, [])

    assert (PAID, "sent") == await state(store)


async def test_a_stale_attempt_changes_nothing(store, elsewhere):
    """An attempt that outlived its lease makes no invoice undeliverable and records nothing."""
    invoice = await commit_mail(store)
    (stale,) = await lease_mails(store)
    (held,) = await lease_mails(elsewhere, now=START + LEASE)

    attempt = an_attempt(stale, MailOutcome.REJECTED, MailStatus.UNDELIVERABLE)
    event = an_event("Invoice undeliverable", paid=False, delivery_id=None)
    step = replace(a_step(invoice, UNDELIVERABLE, event=event), is_report=True)
    assert None is await store.report(replace(step, mail_attempt=attempt), [])
    assert not await store.settle_mail(attempt)
    assert not await store.release_mail(stale)

    assert (RECEIVED, "pending") == await state(store)
    assert await store.release_mail(held)


async def test_a_released_mail_is_due_and_has_no_attempt(store):
    """A failure on our side is no attempt: the mail is leased again as it was."""
    await commit_mail(store)
    (mail,) = await lease_mails(store)

    assert await store.release_mail(mail)

    (again,) = await lease_mails(store)
    assert replace(mail, lease_token=2) == again
    (shown,) = await store.history.mails_of("dev", "1")
    assert (0, []) == (shown["attempt_count"], shown["attempts"])


async def test_mails_are_shown_with_their_attempts(store):
    """The mails of an invoice are told to its account, attempt by attempt, without the bytes."""
    await commit_mail(store)
    (mail,) = await lease_mails(store)
    later = {"due_at": START + 60 * SECOND, "code": 451, "detail": "greylisted"}
    await store.settle_mail(an_attempt(mail, MailOutcome.DEFERRED, MailStatus.PENDING, **later))
    (mail,) = await lease_mails(store, now=START + timedelta(minutes=1))
    await store.settle_mail(an_attempt(mail, code=250))

    (shown,) = await store.history.mails_of("dev", "1")
    assert ("mail_1", "<mail_1@example.com>", "richie@example.com", "sent") == (
        shown["id"],
        shown["message_id"],
        shown["recipient"],
        shown["status"],
    )
    assert [(1, "deferred", 451, "greylisted"), (2, "accepted", 250, None)] == [
        (one["number"], one["outcome"], one["code"], one["detail"]) for one in shown["attempts"]
    ]
    assert "body" not in shown


@pytest.mark.parametrize(("account_id", "id_"), [("other", "1"), ("dev", "2")])
async def test_the_mails_of_an_unknown_invoice_are_not_found(store, account_id, id_):
    """Another account, or another id, has no mails to show."""
    await commit_mail(store)

    with pytest.raises(NotFound):
        await store.history.mails_of(account_id, id_)
