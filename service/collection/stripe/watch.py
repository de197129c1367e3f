"""
The loop that asks Stripe about every checkout that has not ended.

A webhook makes a checkout due at once; all others are asked about at intervals, so that neither a
lost webhook nor a missing secret loses a payment.
"""

import logging
from datetime import datetime, timedelta

from service.clock import Clock
from service.collection.stripe.calls import StripeCallFailed
from service.collection.stripe.checkout import CALL_LEASE, Checkouts
from service.domain.payment import Checkout
from service.errors import StorageUnavailable
from service.loops import AT_ONCE, POLL, Loop, Round
from service.storage.checkouts import DueCheckout
from service.storage.store import Store

log = logging.getLogger("invoices.collection")

CONCURRENCY = 32
"""Checkouts that are asked about at a time; Stripe allows each account 25 to 100 calls a second."""

WEBHOOKS_KEPT, CLEANING_INTERVAL = timedelta(days=30), timedelta(hours=1)
"""Stripe sends a webhook for three days; one sent again by hand is rarely older than a month."""

FAILING_WAIT_MAX = timedelta(minutes=30)
"""While Stripe gives no answer, the waits grow up to this."""


class CheckoutWatch(Loop):
    """Asks about each checkout when it is due, and again after *interval*."""

    def __init__(
        self, store: Store, checkouts: Checkouts, interval: timedelta, clock: Clock
    ) -> None:
        super().__init__(clock, store.money.checkouts_due)
        self._money = store.money
        self._checkouts = checkouts
        self._interval = interval
        self._held_count = 0
        self._cleaned_at: datetime | None = None

    @property
    def held_count(self) -> int:
        """Checkouts that are being asked about."""
        return self._held_count

    async def run_round(self) -> Round:
        """Lease what is due and start a task for each."""
        now, capacity = self.clock.now(), CONCURRENCY - self._held_count
        if self._cleaned_at is None or now - self._cleaned_at > CLEANING_INTERVAL:
            await self.forget_webhooks(now)
        if capacity <= 0:
            return Round(0, POLL)
        due = await self._money.lease_checkouts(now, now + CALL_LEASE, capacity)
        self._held_count += len(due)
        for one in due:
            self.tasks.create_task(self._look(one))
        # An account with more than its share of a round is due again at once.
        return Round(len(due), AT_ONCE if due else min(POLL, self._interval))

    async def forget_webhooks(self, now: datetime) -> None:
        """Remove the webhooks that were taken so long ago that Stripe does not send them again."""
        while await self._money.remove_webhooks(now - WEBHOOKS_KEPT):
            pass
        self._cleaned_at = now

    async def _look(self, due: DueCheckout) -> None:
        """Ask about one checkout; after a failure of ours, its lease runs out."""
        fields = {"checkout_id": due.checkout.id, "account_id": due.checkout.account_id}
        try:
            await self.look(due)
        except StorageUnavailable as error:
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        except Exception:  # one bad checkout must not stop the others
            log.exception("checkout.failed", extra={"fields": fields})
        finally:
            self._held_count -= 1
            self.signal.set()

    async def look(self, due: DueCheckout) -> None:
        """Ask about one checkout that is leased, and say when to ask again."""
        known, now = due.checkout, self.clock.now()
        try:
            current: Checkout | None = await self._checkouts.look(known, due.invoice)
        except StripeCallFailed as error:
            since = known.failing_since or now
            if known.failing_since is None:
                fields = {"checkout_id": known.id, "account_id": known.account_id}
                log.warning(
                    "checkout.unanswered", extra={"fields": {**fields, "detail": str(error)}}
                )
            due_at = now + next_wait(self._interval, now - since)
            await self._money.checkout_looked_at(known, due_at, since)
            return
        if current is not None:
            await self._money.checkout_looked_at(known, now + self._interval, None)


def next_wait(interval: timedelta, failing_for: timedelta) -> timedelta:
    """The wait after a failure: as long as it has lasted, within bounds."""
    return max(interval, min(failing_for, FAILING_WAIT_MAX))
