"""
The calls to Stripe, as the rest of the package sees them: values, errors, and an interface.

Every call that changes something is made again with the same key if its result is not known. There
are three ways in which a call can fail, and each has a different consequence:

    StripeCallFailed
    ├── NotAnswered    the result is not known: make the same call again, with the same key
    ├── AnswerStored   a failure that Stripe repeats for this key: look what exists, use a new key
    └── CallRefused    nothing was made, and the same call would be refused again
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from service.domain.payment import RefundStatus
from service.errors import CollectorUnavailable
from service.values import value

CONNECTIONS_MAX = 100
"""Connections of a process to Stripe."""


class StripeCallFailed(CollectorUnavailable):
    """A call to Stripe has no result; the text is for the operator, and holds no key."""


class NotAnswered(StripeCallFailed):
    """
    The result of the call is not known, or Stripe did not accept the call now.

    *is_of_key* is true where the API key of the account was refused: somebody has to change it.
    """

    def __init__(self, text: str, *, is_of_key: bool = False) -> None:
        super().__init__(text)
        self.is_of_key = is_of_key


class AnswerStored(StripeCallFailed):
    """Stripe failed (5xx). It gives the same answer to the same idempotency key for 24 hours."""


class CallRefused(StripeCallFailed):
    """Stripe refused the call (4xx); *code* is the code of its error, empty if it has none."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class SessionState(StrEnum):
    """What has become of a Checkout Session."""

    OPEN = "open"
    """It can be paid."""
    PROCESSING = "processing"
    """The customer has finished, and the money is on its way; it cannot be paid again."""
    PAID = "paid"
    FAILED = "failed"
    """The customer has finished, and the payment failed later."""
    EXPIRED = "expired"


@value(kw_only=True)
class Session:
    """
    A Checkout Session as Stripe tells it.

    *amount* is in the units of Stripe and *currency* in capitals. *url* is where the customer pays;
    None unless it is open. *decline* says why the latest attempt to pay was declined.
    """

    id: str
    state: SessionState
    amount: int
    currency: str
    payment_intent: str | None = None
    url: str | None = None
    decline: str | None = None


@value(kw_only=True)
class NewSession:
    """A Checkout Session to be created; *reference* and *invoice_id* come back with it."""

    reference: str
    invoice_id: str
    title: str
    amount: int
    currency: str
    locale: str
    return_url: str
    expires_at: datetime


@value(kw_only=True)
class StripeRefund:
    """A refund as Stripe tells it; *reference* is None where it was made elsewhere."""

    id: str
    reference: str | None
    amount: int
    status: RefundStatus


class StripeCalls(Protocol):
    """
    The calls with the key of one account. Each may raise a StripeCallFailed.

    A *key* is an idempotency key: calls with the same key have one effect and one answer.
    """

    async def create_session(self, wanted: NewSession, key: str) -> Session:
        """Create a Checkout Session."""
        ...

    async def read_session(self, session_id: str) -> Session:
        """One session."""
        ...

    async def expire_session(self, session_id: str) -> Session:
        """Expire an open session; CallRefused if it is not open."""
        ...

    async def find_session(self, reference: str, created_since: datetime) -> Session | None:
        """The session with *reference* that was created at or after *created_since*, if any."""
        ...

    async def create_refund(
        self, payment_intent: str, amount: int, reference: str, key: str
    ) -> StripeRefund:
        """Give back *amount* of a payment."""
        ...

    async def refunds_of(self, payment_intent: str) -> list[StripeRefund]:
        """Every refund of a payment, whoever made it."""
        ...

    async def disputes_of(self, payment_intent: str) -> list[bool | None]:
        """Of every dispute about a payment, whether it was won; None while it is open."""
        ...


CallsOf = Callable[[str], Awaitable[StripeCalls | None]]
"""Finds the calls with the key of an account; None if it has none."""
