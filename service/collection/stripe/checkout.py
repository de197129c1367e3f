"""
Checkouts at Stripe: begun when a customer wants to pay, and asked about until they have ended.

Keeps invariant 9 together with `service.storage.checkouts`. A checkout is committed before Stripe
hears of it, and all calls about it can be made again: whatever is killed in between, the next
process finds the same session. A session is replaced only after Stripe has said that it has ended,
and its URL is given to nobody before it is committed.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from service.clock import Clock
from service.collection.stripe.calls import (
    AnswerStored,
    CallRefused,
    CallsOf,
    NewSession,
    NotAnswered,
    Session,
    SessionState,
    StripeCallFailed,
    StripeCalls,
)
from service.collection.stripe.locales import stripe_locale
from service.collection.stripe.sessions import Sessions, amount_of, log_fields
from service.domain.ids import new_id
from service.domain.invoice import Invoice
from service.domain.payment import (
    Checkout,
    CheckoutStatus,
)
from service.errors import Conflict
from service.storage.store import Store

log = logging.getLogger("invoices.collection")

LIFE = timedelta(hours=23, minutes=30)
"""How long a session can be paid; Stripe allows 30 minutes to 24 hours."""

LIFE_LEFT_MIN = timedelta(minutes=10)
"""A session that ends sooner is replaced: the customer needs time to pay."""

CALL_LEASE = timedelta(minutes=1)
"""For how long a call may take; after a crash, a checkout waits this long to be looked at."""

CLOCK_SKEW = timedelta(hours=1)
"""By how much our clock may be ahead of Stripe's where a session is looked for by its time."""

LOST_KEPT, LOST_WAIT = timedelta(days=30), timedelta(days=1)
"""For how long, and how often, Stripe is asked about a session that it does not know."""

ROUNDS = 4
"""How often a customer's click begins anew because a session has ended meanwhile."""

KEYS_PER_CLICK = 3
"""How many idempotency keys are used in a row, if Stripe stores a failure for each."""

PROCESSED = "A payment of this invoice is being processed."

PageUrlOf = Callable[[str, str], Awaitable[str | None]]
"""The URL of the page of an invoice, by its account and its key."""


class Checkouts:
    """Begins, expires and looks at checkouts; *sessions* records what Stripe tells."""

    def __init__(
        self,
        store: Store,
        calls_of: CallsOf,
        page_url_of: PageUrlOf,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._money = store.money
        self._calls_of = calls_of
        self._page_url_of = page_url_of
        self._sessions = sessions
        self._clock = clock

    async def url_of(self, invoice: Invoice) -> str:
        """
        Where the customer pays *invoice*: the session that it has, or a new one.

        Raises:
            Conflict: if the invoice cannot be paid, or is being paid.
            CollectorUnavailable: if Stripe gives no answer.
        """
        for _ in range(ROUNDS):
            now = self._clock.now()
            known = await self._money.begin_checkout(_new_checkout(invoice, now))
            if known is None:
                raise Conflict("This invoice cannot be paid.")
            current = await self._current(known, invoice)
            if current is None:
                continue
            if current.status is CheckoutStatus.PROCESSING:
                raise Conflict(PROCESSED)
            if current.url and current.expires_at - now > LIFE_LEFT_MIN:
                return current.url
            await self._expire(current, invoice)
        raise NotAnswered("The session has ended again and again.")

    async def withdraw(self, invoice: Invoice) -> None:
        """
        Make sure that *invoice* has no session that can be paid.

        Raises:
            Conflict: if it is being paid.
            CollectorUnavailable: if Stripe gives no answer.
        """
        known = await self._money.active_checkout(invoice.account_id, invoice.key)
        if known and known.status is CheckoutStatus.CREATING:
            known = await self._create(known, invoice)
        if known:
            await self._expire(known, invoice)

    async def look(self, known: Checkout, invoice: Invoice) -> Checkout | None:
        """
        Ask Stripe about a checkout, and record the answer.

        Returns:
            The checkout as it is then; None if it has ended.

        Raises:
            StripeCallFailed: if Stripe gives no answer.
        """
        if known.status is CheckoutStatus.CREATING:
            return await self._create(known, invoice)
        calls = await self._calls(invoice)
        try:
            session = await self._read(calls, known)
        except CallRefused:
            if self._clock.now() < known.expires_at:
                raise
            await self._lose(known, invoice)
            return None
        if session is None:
            await self._money.close_checkout(known)
            return None
        return await self._note(calls, known, invoice, session)

    async def _lose(self, known: Checkout, invoice: Invoice) -> None:
        """
        Give up a session that Stripe does not know, and whose time is over.

        Another key belongs to another account of Stripe; the first one may be stored again.
        """
        now = self._clock.now()
        if known.status is not CheckoutStatus.CLOSED:
            log.error("checkout.lost", extra={"fields": log_fields(invoice, known)})
        is_asked_again = now - known.expires_at < LOST_KEPT
        await self._money.close_checkout(known, now + LOST_WAIT if is_asked_again else None)

    @staticmethod
    async def _read(calls: StripeCalls, known: Checkout) -> Session | None:
        if known.session_id is None:
            return await calls.find_session(known.id, known.created_at - CLOCK_SKEW)
        return await calls.read_session(known.session_id)

    async def _note(
        self, calls: StripeCalls, known: Checkout, invoice: Invoice, session: Session
    ) -> Checkout | None:
        """Record what Stripe tells about a session; None if it has ended."""
        current = await self._sessions.note(known, invoice, session)
        if current is None and session.state is SessionState.OPEN:
            # The checkout was given up: nobody may pay its session.
            with suppress(CallRefused):
                await calls.expire_session(session.id)
        return current

    async def _current(self, known: Checkout, invoice: Invoice) -> Checkout | None:
        try:
            return await self.look(known, invoice)
        except StripeCallFailed:
            # It is the same session whether Stripe can tell us so now or not.
            if known.status is CheckoutStatus.OPEN:
                return known
            raise

    async def _create(self, known: Checkout, invoice: Invoice) -> Checkout | None:
        """Create the session of *known*, or find out that it was created."""
        calls = await self._calls(invoice)
        wanted = await self._wanted(known, invoice)
        for _ in range(KEYS_PER_CLICK):
            try:
                session = await calls.create_session(wanted, known.key)
            except (AnswerStored, CallRefused) as error:
                found = await calls.find_session(known.id, known.created_at - CLOCK_SKEW)
                if found is None and isinstance(error, AnswerStored):
                    await self._money.checkout_failed(known)
                    known = replace(known, failure_count=known.failure_count + 1)
                    continue
                if found is None:
                    await self._money.close_checkout(known)
                    log.error("checkout.refused", extra={"fields": log_fields(invoice, known)})
                    raise
                session = found
            return await self._note(calls, known, invoice, session)
        raise NotAnswered("Stripe fails to create the session.")

    async def _expire(self, known: Checkout, invoice: Invoice) -> None:
        """End the session of *known*; if that is refused, it has ended in another way."""
        if known.status is CheckoutStatus.PROCESSING:
            raise Conflict(PROCESSED)
        calls = await self._calls(invoice)
        try:
            session = await calls.expire_session(known.session_id or "")
        except CallRefused:
            session = await calls.read_session(known.session_id or "")
        current = await self._note(calls, known, invoice, session)
        if current and current.status is CheckoutStatus.PROCESSING:
            raise Conflict(PROCESSED)

    async def _calls(self, invoice: Invoice) -> StripeCalls:
        calls = await self._calls_of(invoice.account_id)
        if calls is None:
            raise NotAnswered("The account has no key of Stripe.", is_of_key=True)
        return calls

    async def _wanted(self, known: Checkout, invoice: Invoice) -> NewSession:
        # The same for every call with one key: Stripe refuses a key with other parameters.
        return NewSession(
            reference=known.id,
            invoice_id=invoice.id,
            title=invoice.title or f"Invoice {invoice.id}",
            amount=amount_of(invoice),
            currency=invoice.currency,
            locale=stripe_locale(invoice.locale),
            return_url=await self._page_url_of(invoice.account_id, invoice.key) or "",
            expires_at=known.expires_at,
        )


def _new_checkout(invoice: Invoice, now: datetime) -> Checkout:
    return Checkout(
        account_id=invoice.account_id,
        id=new_id(),
        invoice_key=invoice.key,
        created_at=now,
        expires_at=now + LIFE,
        due_at=now + CALL_LEASE,
    )
