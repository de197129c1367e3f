"""The parts that collect with Stripe, wired: the collector, the loop, and what takes webhooks."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Protocol

from service.clock import Clock
from service.collection.stripe import webhooks
from service.collection.stripe.calls import StripeCalls
from service.collection.stripe.checkout import Checkouts, PageUrlOf
from service.collection.stripe.collector import StripeCollector
from service.collection.stripe.sessions import Sessions
from service.collection.stripe.watch import CheckoutWatch
from service.domain.invoice import Invoice
from service.storage.store import Store


class Keys(Protocol):
    """The keys of an account of Stripe."""

    @property
    def api_key(self) -> str:
        """The restricted key."""
        ...

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The secrets of which any may have signed a webhook."""
        ...


@dataclass(frozen=True, slots=True)
class Stripe:
    """The connection to Stripe: calls with an API key, and the check of a signature."""

    calls_with: Callable[[str], StripeCalls]
    is_signed: Callable[[bytes, str, Iterable[str]], bool]


class StripeService:
    """Collects with *stripe*; *keys_of* finds keys, and *sessions* records what Stripe tells."""

    def __init__(
        self,
        stripe: Stripe,
        sessions: Sessions,
        store: Store,
        keys_of: Callable[[str], Awaitable[Keys | None]],
        page_url_of: PageUrlOf,
        clock: Clock,
    ) -> None:
        self._stripe = stripe
        self._store = store
        self._keys_of = keys_of
        self._clock = clock
        # Making a client takes longer than a call with it.
        self._calls_with = lru_cache(maxsize=1024)(stripe.calls_with)
        self._checkouts = Checkouts(store, self._calls_of, page_url_of, sessions, clock)
        self.collector = StripeCollector(store, self._checkouts, self._calls_of, clock)

    def watch(self, interval: timedelta) -> CheckoutWatch:
        """The loop that asks about each session after *interval*."""
        return CheckoutWatch(self._store, self._checkouts, interval, self._clock)

    async def check(self, invoice: Invoice) -> str | None:
        """Why Stripe cannot collect *invoice*, for the API user; None if it can."""
        return await self.collector.check(invoice)

    async def take(self, account_id: str, body: bytes, signature: str) -> bool:
        """Take a webhook; False if none of the account's secrets has signed it about now."""
        keys = await self._keys_of(account_id)
        if keys is None or not webhooks.is_recent(signature, self._clock.now()):
            return False
        if not self._stripe.is_signed(body, signature, keys.webhook_secrets):
            return False
        await webhooks.take(self._store, account_id, body, self._clock.now())
        return True

    async def _calls_of(self, account_id: str) -> StripeCalls | None:
        keys = await self._keys_of(account_id)
        return self._calls_with(keys.api_key) if keys else None
