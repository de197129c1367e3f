"""
Planted bugs in how money is collected; they must be found in the worlds with payments.

See `plants` for the others.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import count

from service.collection.stripe import collector, sessions, webhooks
from service.collection.stripe.calls import AnswerStored, CallRefused
from service.collection.stripe.checkout import Checkouts
from service.collection.stripe.watch import CheckoutWatch
from service.domain import explanation
from service.domain.payment import CheckoutStatus, Refund
from service.storage.money import MoneyStore
from tests import memory_money


def unknown_sessions_are_not_asked_about(patch):
    """The poll passes over a checkout whose session may not have been created."""
    look = CheckoutWatch.look

    async def look_at_known(self, due):
        if due.checkout.status is not CheckoutStatus.CREATING:
            await look(self, due)

    patch.setattr(CheckoutWatch, "look", look_at_known)


def sessions_are_not_asked_about(patch):
    """What a lost webhook would have told is never learned."""
    opened = MoneyStore.checkout_opened

    async def open_for_long(self, known, session_id, url, due_at):
        return await opened(self, known, session_id, url, due_at + timedelta(days=1))

    patch.setattr(MoneyStore, "checkout_opened", open_for_long)


def webhooks_make_nothing_due(patch):
    """A webhook is remembered, and the session that it is about is not asked about."""
    read = webhooks._read

    def without_checkout(body):
        webhook = read(body)
        return webhook and replace(webhook, checkout_id=None)

    patch.setattr(webhooks, "_read", without_checkout)


def early_webhooks_are_forgotten(patch):
    """A webhook about a payment that is not recorded yet has no consequence."""
    patch.setattr(memory_money, "_is_about", lambda row, payment: False)


def sessions_are_replaced_while_they_can_be_paid(patch):
    """A session is given up here, and not at Stripe."""

    async def give_up(self, known, invoice):
        await self._money.close_checkout(known)

    patch.setattr(Checkouts, "_expire", give_up)


def voiding_expires_nothing(patch):
    """An invoice is void, and its session can still be paid."""

    async def forget(self, invoice):
        known = await self._money.active_checkout(invoice.account_id, invoice.key)
        if known:
            await self._money.close_checkout(known)

    patch.setattr(Checkouts, "withdraw", forget)


def stored_failures_are_final(patch):
    """After a failure that Stripe has stored, nobody looks whether it was done all the same."""
    create = Checkouts._create

    async def create_or_give_up(self, known, invoice):
        calls = await self._calls(invoice)
        try:
            await calls.create_session(await self._wanted(known, invoice), known.key)
        except AnswerStored as error:
            await self._money.close_checkout(known)
            raise CallRefused(str(error), "") from None
        return await create(self, known, invoice)

    patch.setattr(Checkouts, "_create", create_or_give_up)


def amounts_are_not_compared(patch):
    """Whatever was paid pays the invoice."""
    patch.setattr(sessions, "is_of", lambda invoice, session: True)


def payments_are_recorded_twice(patch):
    """A payment is recorded by everybody who learns of it."""

    def report_about(tx, known, report, **changes):
        inserted = report()
        if inserted is not None:
            tx.checkouts.change(memory_money._row_of(tx.checkouts, known), **changes)
        return inserted

    numbers = count()
    insert = memory_money._values

    def numbered(one):
        values = insert(one)
        if values.get("payment_intent"):
            values["id"] += f"-{next(numbers)}"
        return values

    patch.setattr(memory_money, "_report_about", report_about)
    patch.setattr(memory_money, "_values", numbered)


def declines_are_told_each_time(patch):
    """Everybody who asks about a session reports its decline again."""
    patch.setattr(memory_money, "_is_told", lambda row: False)
    patch.setattr(sessions.Sessions, "_note_active", _note_active)


async def _note_active(self, known, invoice, session):
    if session.decline:
        await self._fail(invoice, session.decline, sessions.Decline(known))
    return known


def refunds_are_told_twice(patch):
    """A refund is reported by everybody who learns that it has succeeded."""
    patch.setattr(memory_money, "_is_current", lambda tx, refund, before_minor: True)
    patch.setattr(memory_money, "_has_ended", lambda row: False)


def refunds_have_a_new_key_each_time(patch):
    """A refund whose answer was lost is made again with another idempotency key."""
    numbers = count()
    patch.setattr(Refund, "key", property(lambda self: f"{self.reference}-{next(numbers)}"))


def refunds_are_not_looked_for(patch):
    """After a failure that Stripe has stored, a refund is made again without a look."""

    async def find_none(calls, intent, refund):
        return None

    patch.setattr(collector, "_find", find_none)


def payments_on_their_way_are_not_told(patch):
    """An explanation says that the customer has not paid, although the money is on its way."""
    no_event = explanation._no_event

    def without_checkout(facts, evidence):
        return no_event(replace(facts, checkout_status=None), evidence)

    patch.setattr(explanation, "_no_event", without_checkout)


PAYING_PLANTS = [
    unknown_sessions_are_not_asked_about,
    sessions_are_not_asked_about,
    webhooks_make_nothing_due,
    early_webhooks_are_forgotten,
    sessions_are_replaced_while_they_can_be_paid,
    voiding_expires_nothing,
    stored_failures_are_final,
    amounts_are_not_compared,
    payments_are_recorded_twice,
    declines_are_told_each_time,
    refunds_are_told_twice,
    refunds_have_a_new_key_each_time,
    refunds_are_not_looked_for,
    payments_on_their_way_are_not_told,
]
