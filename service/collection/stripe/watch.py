"""
The loop that asks Stripe about every checkout that has not ended.

A webhook makes a checkout due at once; all others are asked about at intervals, so that neither a
lost webhook nor a missing secret loses a payment.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from service.clock import Clock
from service.collection.looking import LookingLoop, next_wait
from service.collection.stripe.calls import StripeCallFailed
from service.collection.stripe.checkout import CALL_LEASE, Checkouts
from service.domain.payment import Checkout
from service.loops import POLL, Round
from service.storage.checkouts import DueCheckout
from service.storage.store import Store

WEBHOOKS_KEPT, CLEANING_INTERVAL = timedelta(days=30), timedelta(hours=1)
"""Stripe sends a webhook for three days; one sent again by hand is rarely older than a month."""


class CheckoutWatch(LookingLoop[DueCheckout]):
    """Asks about each checkout when it is due, and again after *interval*."""

    def __init__(
        self, store: Store, checkouts: Checkouts, interval: timedelta, clock: Clock
    ) -> None:
        super().__init__("checkout", clock, store.money.checkouts_due)
        self._money = store.money
        self._checkouts = checkouts
        self._interval = interval
        self._cleaned_at: datetime | None = None

    @property
    def idle_wait(self) -> timedelta:
        """The longest wait between two rounds."""
        return min(POLL, self._interval)

    async def lease(self, now: datetime, limit: int) -> Sequence[DueCheckout]:
        """Lease checkouts that are due."""
        return await self._money.lease_checkouts(now, now + CALL_LEASE, limit)

    def log_fields(self, due: DueCheckout) -> dict[str, Any]:
        """The ids of a checkout and its account."""
        return {"checkout_id": due.checkout.id, "account_id": due.checkout.account_id}

    async def run_round(self) -> Round:
        """Lease what is due and start a task for each; now and then, forget old webhooks."""
        now = self.clock.now()
        if self._cleaned_at is None or now - self._cleaned_at > CLEANING_INTERVAL:
            await self.forget_webhooks(now)
        return await super().run_round()

    async def forget_webhooks(self, now: datetime) -> None:
        """Remove the webhooks that were taken so long ago that Stripe does not send them again."""
        while await self._money.remove_webhooks(now - WEBHOOKS_KEPT):
            pass
        self._cleaned_at = now

    async def look(self, due: DueCheckout) -> None:
        """Ask about one checkout that is leased, and say when to ask again."""
        known, now = due.checkout, self.clock.now()
        try:
            current: Checkout | None = await self._checkouts.look(known, due.invoice)
        except StripeCallFailed as error:
            self.unanswered(due, known.failing_since, error)
            since = known.failing_since or now
            due_at = now + next_wait(self._interval, now - since)
            await self._money.checkout_looked_at(known, due_at, since)
            return
        if current is not None:
            await self._money.checkout_looked_at(known, now + self._interval, None)
