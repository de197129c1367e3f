"""
A Stripe that keeps what it was told: sessions, payments, refunds, idempotency keys, webhooks.

It answers from its own state, by the rules that Stripe documents, and by a clock that the test
moves. Customers act through `pay`, `decline` and others; `ledger` is the money that it holds.
Faults are planned by the test, one for each request.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count
from urllib.parse import parse_qsl

SECRET = "whsec_of_stripe"
API_KEY = "rk_test_of_the_account"

LIFE_MIN, LIFE_MAX = timedelta(minutes=30), timedelta(hours=24)
KEY_LIFE = timedelta(hours=24)
AMOUNT_MIN = 50


class Fault(StrEnum):
    """What goes wrong with one request."""

    NONE = "none"
    CUT_BEFORE = "cut_before"
    """The connection is lost before Stripe has the request."""
    CUT_AFTER = "cut_after"
    """Stripe does what it was asked, and the answer is lost."""
    FAILS_BEFORE = "fails_before"
    """A 500, stored for the key; nothing was done."""
    FAILS_AFTER = "fails_after"
    """A 500, stored for the key, although all was done."""
    BUSY = "busy"
    """A 429: nothing was done, and nothing is stored."""


class Cut(Exception):
    """The connection is lost."""


class Refused(Exception):
    """A request that Stripe answers with an error."""

    def __init__(self, status, message, code=None, kind="invalid_request_error"):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": kind, "message": message, "code": code}}


class FakeStripe:
    """The state of one account of Stripe; *now* tells the time."""

    def __init__(self, now=lambda: datetime.now(UTC), *, api_key=API_KEY, life_min=LIFE_MIN):
        self.now = now
        self.sessions = {}
        self.intents = {}
        self.refunds = {}
        self.disputes = {}
        self.events = []
        """Every event so far; the test decides which are sent, when, and how often."""
        self.faults = deque()
        """The faults of the next requests."""
        self.requests = []
        self.api_keys = {api_key}
        self.hidden = set()
        """Sessions of which it says that there are none, as another account would."""
        self._life_min = life_min
        self._answers = {}
        self._numbers = defaultdict(lambda: count(1))

    # --- What the service asks.

    def answer(self, method, path, text, headers):
        """The status and the JSON for a request; raises Cut where the connection is lost."""
        fault = self.faults.popleft() if self.faults else Fault.NONE
        self.requests.append((method, path, dict(headers)))
        if fault is Fault.CUT_BEFORE:
            raise Cut
        if fault is Fault.BUSY:
            return 429, {"error": {"type": "rate_limit_error", "message": "Too many requests"}}
        if self._key_of(headers) not in self.api_keys:
            message = "Invalid API Key provided: rk_****"
            return 401, {"error": {"type": "invalid_request_error", "message": message}}
        key = headers.get("Idempotency-Key") if method == "POST" else None
        status, body = self._once(key, (method, path, text), fault)
        if fault is Fault.CUT_AFTER:
            raise Cut
        return status, body

    @staticmethod
    def _key_of(headers):
        return headers.get("Authorization", "").removeprefix("Bearer ")

    def _once(self, key, request, fault):
        """The stored answer of *key*, if there is one; otherwise a new one, which is stored."""
        known, asked, at = self._answers.get(key, (None, None, self.now()))
        if known and self.now() - at < KEY_LIFE:
            if asked != request:
                message = "Keys for idempotent requests can only be used with the same parameters"
                return 400, {"error": {"type": "idempotency_error", "message": message}}
            return known
        failure = 500, {"error": {"type": "api_error", "message": "An unknown error occurred"}}
        if fault is Fault.FAILS_BEFORE:
            answer = failure
        else:
            answer = self._do(*request)
            if fault is Fault.FAILS_AFTER:
                answer = failure
        if key:
            self._answers[key] = (json.loads(json.dumps(answer)), request, self.now())
        return answer

    def _do(self, method, path, text):
        self._expire_old()
        given = nested(text)
        for pattern, name in ROUTES.items():
            match = re.fullmatch(pattern, f"{method} {path}")
            if match:
                try:
                    return 200, json.loads(json.dumps(getattr(self, name)(*match.groups(), given)))
                except Refused as error:
                    return error.status, error.body
        return 404, {"error": {"type": "invalid_request_error", "message": f"No such path {path}"}}

    def create_session(self, given):
        """A session, by the rules of Checkout."""
        (item,) = given["line_items"].values()
        price = item["price_data"]
        amount = int(price["unit_amount"]) * int(item["quantity"])
        life = timedelta(seconds=int(given["expires_at"]) - self.now().timestamp())
        # Whole seconds are given, and requests take time.
        if not self._life_min - timedelta(seconds=60) <= life <= LIFE_MAX + timedelta(seconds=1):
            raise Refused(400, "The `expires_at` timestamp must be 30 minutes to 24 hours away")
        if amount < AMOUNT_MIN:
            raise Refused(400, "The amount is too small", "amount_too_small")
        id_ = self._new_id("cs_test")
        self.sessions[id_] = {
            "id": id_,
            "object": "checkout.session",
            "amount_total": amount,
            "client_reference_id": given.get("client_reference_id"),
            "created": int(self.now().timestamp()),
            "currency": price["currency"],
            "expires_at": int(given["expires_at"]),
            "metadata": given.get("metadata", {}),
            "payment_intent": None,
            "payment_status": "unpaid",
            "status": "open",
            "url": f"https://checkout.stripe.example/{id_}",
        }
        return self.sessions[id_]

    def read_session(self, id_, given):
        """A session, with its payment where that is expanded."""
        session = self._found(self.sessions, id_)
        if "payment_intent" in given.get("expand", {}).values():
            session = {**session, "payment_intent": self.intents.get(session["payment_intent"])}
        return session

    def expire_session(self, id_, _given):
        """An open session is expired; any other cannot be."""
        session = self._found(self.sessions, id_)
        if session["status"] != "open":
            raise Refused(400, f"Only open sessions can be expired; it is {session['status']}")
        self._end(session, "expired")
        return session

    def list_sessions(self, given):
        """The sessions that match, newest first."""
        since = int(given.get("created", {}).get("gte", 0))
        found = [
            one
            for one in reversed(self.sessions.values())
            if one["created"] >= since and one["id"] not in self.hidden
        ]
        return paged(found, given)

    def create_refund(self, given):
        """A refund, of no more than is left of the payment."""
        intent = self._found(self.intents, given["payment_intent"])
        amount = int(given.get("amount") or intent["amount"] - self.refunded(intent["id"]))
        if intent["status"] != "succeeded" or intent.get("is_disputed"):
            raise Refused(400, "This payment cannot be refunded", "charge_disputed")
        if amount > intent["amount"] - self.refunded(intent["id"]):
            raise Refused(400, "More than is left of the charge", "charge_already_refunded")
        refund = {
            "id": self._new_id("re"),
            "object": "refund",
            "amount": amount,
            "created": int(self.now().timestamp()),
            "currency": intent["currency"],
            "metadata": given.get("metadata", {}),
            "payment_intent": intent["id"],
            "status": "succeeded",
        }
        self.refunds[refund["id"]] = refund
        self._emit("refund.created", refund)
        return refund

    def list_refunds(self, given):
        """The refunds of a payment."""
        found = list(reversed(self.refunds.values()))
        wanted = given.get("payment_intent")
        return paged([one for one in found if one["payment_intent"] == wanted], given)

    def list_disputes(self, given):
        """The disputes about a payment."""
        wanted = given.get("payment_intent")
        found = [one for one in self.disputes.values() if one["payment_intent"] == wanted]
        return paged(found, given)

    # --- What customers, banks and people at the dashboard do.

    def pay(self, session_id, *, is_late=False, amount=None):
        """
        The customer pays; False if the session cannot be paid.

        With *is_late* the money arrives or not with `settle`. With *amount*, that is taken instead
        of what was asked.
        """
        self._expire_old()
        session = self.sessions[session_id]
        if session["status"] != "open":
            return False
        intent = self._intent_of(session)
        if amount is not None:
            intent["amount"] = session["amount_total"] = amount
        intent["status"], intent["last_payment_error"] = "processing", None
        self._end(session, "complete", event=None)
        if not is_late:
            intent["status"], session["payment_status"] = "succeeded", "paid"
        self._emit("checkout.session.completed", session)
        return True

    def settle(self, session_id, *, is_paid):
        """The money of a late payment arrives, or does not."""
        session = self.sessions[session_id]
        intent = self.intents[session["payment_intent"]]
        intent["status"] = "succeeded" if is_paid else "requires_payment_method"
        if is_paid:
            session["payment_status"] = "paid"
        else:
            intent["last_payment_error"] = {"message": "The debit was returned."}
        name = "succeeded" if is_paid else "failed"
        self._emit(f"checkout.session.async_payment_{name}", session)

    def decline(self, session_id):
        """The bank declines the card; the session stays open."""
        self._expire_old()
        session = self.sessions[session_id]
        if session["status"] == "open":
            intent = self._intent_of(session)
            intent["status"] = "requires_payment_method"
            intent["last_payment_error"] = {"message": "Your card was declined."}
            self._emit("payment_intent.payment_failed", intent)

    def dispute(self, intent_id):
        """The customer disputes the payment at the bank."""
        intent = self.intents[intent_id]
        if intent["status"] != "succeeded" or intent.get("is_disputed"):
            return None
        intent["is_disputed"] = True
        id_ = self._new_id("du")
        self.disputes[id_] = {
            "id": id_,
            "object": "dispute",
            "payment_intent": intent_id,
            "status": "needs_response",
        }
        self._emit("charge.dispute.created", self.disputes[id_])
        return id_

    def close_dispute(self, dispute_id, *, is_won):
        """The bank decides."""
        dispute = self.disputes[dispute_id]
        dispute["status"] = "won" if is_won else "lost"
        if is_won:
            self.intents[dispute["payment_intent"]]["is_disputed"] = False
        self._emit("charge.dispute.closed", dispute)

    def refund_by_hand(self, intent_id, amount):
        """Somebody gives money back at the dashboard."""
        return self.create_refund({"payment_intent": intent_id, "amount": amount})

    # --- What it knows.

    def payable(self, reference_prefix=""):
        """The sessions that a customer could pay now."""
        self._expire_old()
        return [
            one
            for one in self.sessions.values()
            if one["status"] == "open" and one["client_reference_id"].startswith(reference_prefix)
        ]

    def paid(self, invoice_id):
        """The payments of an invoice that have succeeded."""
        return [
            self.intents[one["payment_intent"]]
            for one in self.sessions.values()
            if one["metadata"].get("invoice_id") == invoice_id and one["payment_status"] == "paid"
        ]

    def refunded(self, intent_id):
        """How much of a payment was given back."""
        return sum(
            one["amount"]
            for one in self.refunds.values()
            if one["payment_intent"] == intent_id and one["status"] == "succeeded"
        )

    def signed(self, event, secret=SECRET):
        """The bytes of *event* and the header that signs them now."""
        body = json.dumps(event).encode()
        at = int(self.now().timestamp())
        signature = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        return body, f"t={at},v1={signature}"

    def _intent_of(self, session):
        if session["payment_intent"] is None:
            id_ = session["payment_intent"] = self._new_id("pi")
            self.intents[id_] = {
                "id": id_,
                "object": "payment_intent",
                "amount": session["amount_total"],
                "currency": session["currency"],
                "metadata": session["metadata"],
                "last_payment_error": None,
                "status": "requires_payment_method",
            }
        return self.intents[session["payment_intent"]]

    def _expire_old(self):
        for session in self.sessions.values():
            if session["status"] == "open" and session["expires_at"] <= self.now().timestamp():
                self._end(session, "expired")

    def _end(self, session, status, event="checkout.session.expired"):
        session["status"], session["url"] = status, None
        if event:
            self._emit(event, session)

    def _emit(self, kind, object_):
        event = {
            "id": self._new_id("evt"),
            "object": "event",
            "created": int(self.now().timestamp()),
            "type": kind,
            "data": {"object": object_},
        }
        self.events.append(json.loads(json.dumps(event)))

    def _new_id(self, prefix):
        return f"{prefix}_{next(self._numbers[prefix])}"

    def _found(self, objects, id_):
        if id_ not in objects or id_ in self.hidden:
            raise Refused(404, f"No such object: '{id_}'", "resource_missing")
        return objects[id_]


ROUTES = {
    "POST /v1/checkout/sessions": "create_session",
    "GET /v1/checkout/sessions": "list_sessions",
    "GET /v1/checkout/sessions/([^/]+)": "read_session",
    "POST /v1/checkout/sessions/([^/]+)/expire": "expire_session",
    "POST /v1/refunds": "create_refund",
    "GET /v1/refunds": "list_refunds",
    "GET /v1/disputes": "list_disputes",
}


def paged(found, given):
    """A page of a list that begins after the object that was asked for."""
    limit = int(given.get("limit", 10))
    after = given.get("starting_after")
    start = next((n for n, one in enumerate(found, 1) if one["id"] == after), 0)
    data = found[start : start + limit]
    return {"object": "list", "data": data, "has_more": len(found) > start + limit, "url": "/"}


def nested(text):
    """The parameters of a form with brackets in its names, as nested dictionaries."""
    given = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        first, *rest = re.findall(r"[^\[\]]+", name)
        place = given
        for part, following in zip([first, *rest], [*rest, None], strict=True):
            if following is None:
                place[part] = value
            else:
                place = place.setdefault(part, {})
    return given
