"""Stripe as a collector: customers pay on the page of Stripe, and money goes back the same way."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from service.clock import Clock
from service.collection.collector import Progress
from service.collection.stripe.amounts import check_chargeable, minor_amount, stripe_amount
from service.collection.stripe.calls import (
    AnswerStored,
    CallRefused,
    CallsOf,
    NotAnswered,
    StripeCalls,
    StripeRefund,
)
from service.collection.stripe.checkout import Checkouts
from service.domain.invoice import Invoice
from service.domain.payment import Payment, Refund, RefundStatus
from service.domain.states import InvoiceStatus
from service.localization import decimals_of
from service.storage.payments import DuePayment
from service.storage.store import Store

log = logging.getLogger("invoices.collection")

NAME = "stripe"

KEY_LIFE = timedelta(hours=20)
"""Stripe remembers an idempotency key for 24 hours; ours are not older than this."""


class StripeCollector:
    """Implements `Collector` with the key that each account has of Stripe."""

    name = NAME
    moves_money = True

    def __init__(self, store: Store, checkouts: Checkouts, calls_of: CallsOf, clock: Clock) -> None:
        self._money = store.money
        self._checkouts = checkouts
        self._calls_of = calls_of
        self._clock = clock

    def begun(self, invoice: Invoice) -> Progress:
        """Wait for the customer: a session is created when it is wanted."""
        return Progress(InvoiceStatus.SENT)

    async def begin(self, invoice: Invoice) -> Progress:
        """Wait for the customer."""
        return self.begun(invoice)

    async def collect(self, invoice: Invoice) -> Progress:
        """Wait for the customer."""
        return self.begun(invoice)

    async def check(self, invoice: Invoice) -> str | None:
        """Why Stripe cannot collect *invoice*, for the API user; None if it can."""
        if await self._calls_of(invoice.account_id) is None:
            return "Your account has no key of Stripe yet: ask the operator of this service."
        try:
            check_chargeable(invoice.total_minor, invoice.currency, _decimals_of(invoice))
        except ValueError as error:
            return str(error)
        return None

    def check_refund(self, invoice: Invoice, amount_minor: int) -> str | None:
        """Why Stripe cannot give back *amount_minor* of *invoice*; None if it can."""
        try:
            stripe_amount(amount_minor, invoice.currency, _decimals_of(invoice))
        except ValueError as error:
            return str(error)
        return None

    async def checkout(self, invoice: Invoice, page_url: str) -> str:
        """The session of Stripe, from which the customer returns to the page of the invoice."""
        return await self._checkouts.url_of(invoice)

    async def withdraw(self, invoice: Invoice) -> None:
        """Expire the session of *invoice*."""
        await self._checkouts.withdraw(invoice)

    async def give_back(self, due: DuePayment) -> Sequence[Refund]:
        """Give back what is pending of a payment; returns the refunds that have ended."""
        ended = []
        for refund in due.refunds:
            if due.payment.payment_intent is None or refund.status is not RefundStatus.PENDING:
                continue
            calls = await self._calls(due.payment)
            intent = due.payment.payment_intent
            told = await self._give_back(calls, intent, refund, due.invoice)
            if told and told.status is not RefundStatus.PENDING:
                ended.append(replace(refund, status=told.status, refund_id=told.id or None))
        return ended

    async def given_back_elsewhere(self, due: DuePayment) -> Sequence[Refund]:
        """What was given back at the dashboard of Stripe, and is not known yet."""
        if due.payment.payment_intent is None:
            return []
        calls = await self._calls(due.payment)
        return await _made_elsewhere(calls, due.payment.payment_intent, due)

    async def _give_back(
        self, calls: StripeCalls, intent: str, refund: Refund, invoice: Invoice
    ) -> StripeRefund | None:
        """Make a refund, or find it; None if it has to be made again with another key."""
        amount = stripe_amount(refund.amount_minor, invoice.currency, _decimals_of(invoice))
        # The key is remembered for a day: after that, the same call would give back twice.
        if self._clock.now() - refund.created_at > KEY_LIFE or refund.failure_count:
            told = await _find(calls, intent, refund)
            if told is not None:
                return told
        try:
            told = await calls.create_refund(intent, amount, refund.reference, refund.key)
            if told.status is RefundStatus.PENDING:
                # To the same key Stripe repeats its first answer, whatever has become of it.
                told = await _find(calls, intent, refund)
            return told
        except AnswerStored:
            told = await _find(calls, intent, refund)
            if told is None:
                await self._money.refund_failed(refund)
            return told
        except CallRefused as error:
            fields = {
                "refund_id": refund.id,
                "invoice_id": invoice.id,
                "account_id": refund.account_id,
            }
            log.error("refund.refused", extra={"fields": {**fields, "detail": str(error)}})
            return StripeRefund(
                id="", reference=refund.reference, amount=amount, status=RefundStatus.FAILED
            )

    async def is_won(self, payment: Payment) -> bool | None:
        """Whether all disputes about *payment* were won; None while one is open."""
        calls = await self._calls(payment)
        disputes = await calls.disputes_of(payment.payment_intent or "")
        return None if None in disputes or not disputes else all(disputes)

    async def _calls(self, payment: Payment) -> StripeCalls:
        calls = await self._calls_of(payment.account_id)
        if calls is None:
            raise NotAnswered("The account has no key of Stripe.", is_of_key=True)
        return calls


def _decimals_of(invoice: Invoice) -> int:
    return decimals_of(invoice.currency, invoice.decimals)


async def _find(calls: StripeCalls, intent: str, refund: Refund) -> StripeRefund | None:
    """What Stripe has of *refund*, if it has it."""
    told = await calls.refunds_of(intent)
    return next((one for one in told if one.reference == refund.reference), None)


async def _made_elsewhere(calls: StripeCalls, intent: str, due: DuePayment) -> list[Refund]:
    """The refunds of a payment that were made at the dashboard, and are not known yet."""
    payment, invoice = due.payment, due.invoice
    ours = {name for one in due.refunds for name in (one.reference, one.refund_id) if name}
    return [
        Refund(
            account_id=payment.account_id,
            # The same for whoever finds it, so that it is recorded once.
            id=told.id,
            payment_id=payment.id,
            invoice_key=payment.invoice_key,
            idempotency_key=None,
            asked_minor=None,
            amount_minor=minor_amount(told.amount, invoice.currency, _decimals_of(invoice)),
            status=told.status,
            refund_id=told.id,
            created_at=payment.received_at,
        )
        for told in await calls.refunds_of(intent)
        if told.status is RefundStatus.SUCCEEDED and not {told.id, told.reference} & ours
    ]
