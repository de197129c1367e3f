"""
The calls to Stripe over HTTP, with Stripe's own library.

The library is an extra, `invoices[stripe]`, and takes a twentieth of a second and 30 MB to import:
`service.app.edges` imports this module only where Stripe collects.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Any

import stripe
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from stripe import AIOHTTPClient, HTTPClient, StripeClient

from service.collection.stripe.calls import (
    CONNECTIONS_MAX,
    AnswerStored,
    CallRefused,
    NewSession,
    NotAnswered,
    Session,
    SessionState,
    StripeRefund,
)
from service.domain.payment import RefundStatus

CALL_TIMEOUT = ClientTimeout(total=20, connect=5)
"""For one HTTP request; creating a session takes Stripe about one second."""

RETRIES = 1
"""Requests that the library repeats by itself, with the same key, if a connection was lost."""

PAGE = 100
"""Objects in one page of a list, the most that Stripe gives."""

TITLE_MAX = 250
"""Characters of the name of a product on the page of Stripe."""

_REFUND_STATUSES = {
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.FAILED,
}
_DISPUTES_CLOSED = {"won": True, "warning_closed": True, "prevented": True, "lost": False}


class StripeConnections(AIOHTTPClient):
    """
    The library's client for aiohttp, over the connections of *session*.

    The original neither translates an error while it reads the body of an answer, nor gives up the
    connection then.
    """

    def __init__(self, session: ClientSession) -> None:
        super().__init__(session=session)
        self._connections = session

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """The body, status and headers of the answer to one request."""
        try:
            async with self._connections.request(
                method, url, headers=headers, data=post_data, timeout=CALL_TIMEOUT
            ) as response:
                return await response.read(), response.status, response.headers
        except (TimeoutError, ClientError, OSError) as error:
            text = f"The connection was lost: {type(error).__name__}"
            raise stripe.APIConnectionError(text, should_retry=True) from error  # type: ignore[no-untyped-call]


@asynccontextmanager
async def stripe_connections() -> AsyncIterator[HTTPClient]:
    """The connections to Stripe, closed at the end of the block."""
    connector = TCPConnector(limit=CONNECTIONS_MAX)
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session:
        yield StripeConnections(session)


class StripeHttpCalls:
    """Implements `StripeCalls` with *api_key*, at *api_url*."""

    def __init__(self, api_key: str, api_url: str, http: HTTPClient) -> None:
        # What calls took is nobody else's business; the library can only be told globally.
        stripe.enable_telemetry = False
        client = StripeClient(
            api_key,
            base_addresses={"api": api_url},
            http_client=http,
            max_network_retries=RETRIES,
        )
        self._sessions = client.v1.checkout.sessions
        self._refunds = client.v1.refunds
        self._disputes = client.v1.disputes

    async def create_session(self, wanted: NewSession, key: str) -> Session:
        """Create a Checkout Session."""
        metadata = {"invoice_id": wanted.invoice_id, "reference": wanted.reference}
        price = {
            "currency": wanted.currency.lower(),
            "unit_amount": wanted.amount,
            "product_data": {"name": wanted.title[:TITLE_MAX]},
        }
        parameters: dict[str, Any] = {
            "mode": "payment",
            "client_reference_id": wanted.reference,
            "line_items": [{"quantity": 1, "price_data": price}],
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "locale": wanted.locale,
            "success_url": wanted.return_url,
            "cancel_url": wanted.return_url,
            "expires_at": int(wanted.expires_at.timestamp()),
        }
        create = self._sessions.create_async(parameters, {"idempotency_key": key})  # type: ignore[arg-type]
        return _session(await _answer(create))

    async def read_session(self, session_id: str) -> Session:
        """One session."""
        read = self._sessions.retrieve_async(session_id, {"expand": ["payment_intent"]})
        return _session(await _answer(read))

    async def expire_session(self, session_id: str) -> Session:
        """Expire an open session; CallRefused if it is not open."""
        return _session(await _answer(self._sessions.expire_async(session_id)))

    async def find_session(self, reference: str, created_since: datetime) -> Session | None:
        """The session with *reference* that was created at or after *created_since*, if any."""
        # Stripe has no filter for a reference.
        created = {"gte": int(created_since.timestamp())}
        async for one in _pages(self._sessions.list_async, {"created": created}):
            if one.get("client_reference_id") == reference:
                return await self.read_session(one["id"])
        return None

    async def create_refund(
        self, payment_intent: str, amount: int, reference: str, key: str
    ) -> StripeRefund:
        """Give back *amount* of a payment."""
        parameters: dict[str, Any] = {
            "payment_intent": payment_intent,
            "amount": amount,
            "metadata": {"reference": reference},
        }
        create = self._refunds.create_async(parameters, {"idempotency_key": key})  # type: ignore[arg-type]
        return _refund(await _answer(create))

    async def refunds_of(self, payment_intent: str) -> list[StripeRefund]:
        """Every refund of a payment, whoever made it."""
        pages = _pages(self._refunds.list_async, {"payment_intent": payment_intent})
        return [_refund(one) async for one in pages if one.get("payment_intent") == payment_intent]

    async def disputes_of(self, payment_intent: str) -> list[bool | None]:
        """Of every dispute about a payment, whether it was won; None while it is open."""
        pages = _pages(self._disputes.list_async, {"payment_intent": payment_intent})
        return [
            _DISPUTES_CLOSED.get(one["status"])
            async for one in pages
            if one.get("payment_intent") == payment_intent
        ]


def is_signed(body: bytes, signature: str, secrets: Iterable[str]) -> bool:
    """Whether the header *signature* signs *body* with one of *secrets*, at whatever time."""
    return any(_is_signed(body, signature, secret) for secret in secrets)


def _is_signed(body: bytes, signature: str, secret: str) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret)
    except (stripe.SignatureVerificationError, LookupError, TypeError, ValueError):
        return False
    return True


async def _pages(
    read: Callable[[Any], Awaitable[stripe.StripeObject]], parameters: Mapping[str, Any]
) -> AsyncIterator[Mapping[str, Any]]:
    """Every object of a list, the newest first."""
    after: dict[str, str] = {}
    while True:
        page = await _answer(read({**parameters, **after, "limit": PAGE}))
        for one in page["data"]:
            yield one
        if not page["has_more"] or not page["data"]:
            return
        after = {"starting_after": page["data"][-1]["id"]}


async def _answer(call: Awaitable[stripe.StripeObject]) -> dict[str, Any]:
    """The answer to *call*; every error of the library becomes a StripeCallFailed."""
    try:
        return (await call).to_dict()
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise NotAnswered(_text(error), is_of_key=True) from None
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise NotAnswered(_text(error)) from None
    except stripe.IdempotencyError as error:
        # Another version of the service, or another public URL, has used the key.
        raise AnswerStored(_text(error)) from None
    except stripe.StripeError as error:
        status = error.http_status or 0
        is_of_stripe = isinstance(error.json_body, dict) and "error" in error.json_body
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and is_of_stripe:
            raise AnswerStored(_text(error)) from None
        # A conflict: the same call is being answered now. Without JSON, a gateway has answered,
        # and Stripe may still be at work.
        if not is_of_stripe or status == HTTPStatus.CONFLICT:
            raise NotAnswered(_text(error)) from None
        raise CallRefused(_text(error), error.code or "") from None


def _text(error: stripe.StripeError) -> str:
    """The first line of what Stripe says; where it quotes a key, it masks it."""
    return f"{type(error).__name__}: {(error.user_message or '').partition(chr(10))[0][:500]}"


def _session(found: Mapping[str, Any]) -> Session:
    intent = found.get("payment_intent")
    details = intent if isinstance(intent, dict) else {}
    error = details.get("last_payment_error")
    return Session(
        id=found["id"],
        state=_state(found, details),
        amount=found.get("amount_total") or 0,
        currency=(found.get("currency") or "").upper(),
        payment_intent=details.get("id") if details else intent,
        url=found.get("url"),
        decline=error.get("message") if error else None,
    )


def _state(found: Mapping[str, Any], intent: Mapping[str, Any]) -> SessionState:
    if found["payment_status"] in {"paid", "no_payment_required"}:
        return SessionState.PAID
    if found["status"] != "complete":
        return SessionState(found["status"])
    has_failed = intent.get("status") in {"canceled", "requires_payment_method"}
    return SessionState.FAILED if has_failed else SessionState.PROCESSING


def _refund(found: Mapping[str, Any]) -> StripeRefund:
    return StripeRefund(
        id=found["id"],
        reference=(found.get("metadata") or {}).get("reference"),
        amount=found["amount"],
        status=_REFUND_STATUSES.get(found.get("status") or "", RefundStatus.PENDING),
    )
