"""
Test vectors for the verification of a signature: requests, and whether they are authentic.

They are the same in every process and at every time, so a test of a receiver can keep them. They
are requests of a real callback, signed by the package of Standard Webhooks.
"""

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from standardwebhooks import Webhook

from service.callbacks.declaration import Callback
from service.callbacks.documentation import EXAMPLE_SECRET, example_body, example_headers
from service.values import value

DESCRIPTION = (
    "Requests to test the verification of a signature with. Give each to your verification: the"
    " secret, the headers and the bytes of body_hex. It has to accept those that are valid and to"
    " refuse the others; reason says why. now is the current time of each vector, in seconds since"
    " 1970: set the clock of your test to it. Where that is not possible, verify without the"
    " timestamp, and leave out the vectors that have is_about_time: their signatures are right, and"
    " their timestamps decide. Names of headers ignore case."
)


@value()
class Request:
    """A signed request: the headers of Standard Webhooks, and the body."""

    webhook_id: str
    at: datetime
    body: bytes

    def signature(self, secret: str) -> str:
        """The signature with *secret*, such as `v1,…`."""
        return Webhook(secret).sign(self.webhook_id, self.at, self.body.decode())

    def headers(self, *signatures: str) -> dict[str, str]:
        """The headers with these *signatures*."""
        return {
            "webhook-id": self.webhook_id,
            "webhook-timestamp": str(int(self.at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


@value(kw_only=True)
class Vector:
    """One vector; *delay* is what has passed between the signing and the verification."""

    name: str
    reason: str
    headers: Mapping[str, str]
    body: bytes
    is_valid: bool
    secret: str = EXAMPLE_SECRET
    delay: timedelta = timedelta()
    is_about_time: bool = False


def vectors_document(callback: Callback) -> dict[str, Any]:
    """The vectors of *callback* as they are served."""
    at = _example(callback).at
    return {
        "description": DESCRIPTION,
        "vectors": [
            {
                "name": one.name,
                "secret": one.secret,
                "headers": dict(one.headers),
                "body_hex": one.body.hex(),
                "valid": one.is_valid,
                "reason": one.reason,
                "now": int((at + one.delay).timestamp()),
                "is_about_time": one.is_about_time,
            }
            for one in vectors_of(callback)
        ],
    }


def vectors_of(callback: Callback) -> tuple[Vector, ...]:
    """Every vector of *callback*: those to accept, then those to refuse."""
    request = _example(callback)
    return (*_valid(request), *_with_wrong_signatures(request), *_with_other_requests(request))


def _example(callback: Callback) -> Request:
    headers = example_headers(callback)
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    return Request(headers["webhook-id"], at, example_body(callback))


def _secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


OTHER_SECRET = _secret(b"another-secret-of-the-vectors-only")
SHORTEST_SECRET = _secret(bytes(range(24)))
LONGEST_SECRET = _secret(bytes(range(192, 256)))


def _valid(request: Request) -> Iterator[Vector]:
    own, other = request.signature(EXAMPLE_SECRET), request.signature(OTHER_SECRET)

    def vector(name: str, reason: str, *signatures: str, **changes: Any) -> Vector:
        headers = request.headers(*signatures or (own,))
        usual = {"headers": headers, "body": request.body, "is_valid": True}
        return Vector(name=name, reason=reason, **{**usual, **changes})

    def event(name: str, reason: str, body: bytes) -> Vector:
        sent = Request(request.webhook_id, request.at, body)
        headers = sent.headers(sent.signature(EXAMPLE_SECRET))
        return vector(name, reason, headers=headers, body=body)

    yield vector("event", "The signature is that of the request.")
    yield vector("new_secret_first", "The first of two signatures is yours.", own, other)
    yield vector("new_secret_last", "The second of two signatures is yours.", other, own)
    yield vector(
        "unknown_version", "A signature of another version is ignored.", f"v2,{other[3:]}", own
    )
    for name, secret in (("shortest_secret", SHORTEST_SECRET), ("longest_secret", LONGEST_SECRET)):
        yield vector(
            name,
            "The key is the base64 behind whsec_, of 24 to 64 bytes.",
            request.signature(secret),
            secret=secret,
        )
    odd = {name.title(): text for name, text in request.headers(own).items()}
    yield vector("names_in_another_case", "Names of headers ignore case.", headers=odd)
    fields = orjson.loads(request.body)
    yield event("unknown_field", "More fields may come.", orjson.dumps({**fields, "new": [1]}))
    yield event(
        "not_ascii",
        "The bytes count, which are UTF-8.",
        orjson.dumps({**fields, "description": "Счёт оплачен, danke schön 🧾"}),
    )
    yield event(
        "blanks_in_the_body",
        "The bytes count: parsed and written again, they differ.",
        orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
    )
    for name, minutes in (("four_minutes_old", 4), ("four_minutes_ahead", -4)):
        yield vector(
            name,
            "The timestamp may differ by 300 seconds.",
            delay=timedelta(minutes=minutes),
            is_about_time=True,
        )


def _with_wrong_signatures(request: Request) -> Iterator[Vector]:
    own = request.signature(EXAMPLE_SECRET)
    version, _, encoded = own.partition(",")
    signed = base64.b64decode(encoded)
    as_text = _secret(EXAMPLE_SECRET.encode())
    for name, reason, signatures in (
        ("another_secret", "Another secret has signed it.", [request.signature(OTHER_SECRET)]),
        ("secret_as_text", "The secret as text is not the key.", [request.signature(as_text)]),
        ("no_signature", "The header is empty.", [""]),
        ("without_version", "A signature begins with v1 and a comma.", [f",{encoded}"]),
        ("another_version", "Only v1 is known.", [f"v2,{encoded}"]),
        (
            "cut_signature",
            "The signature is cut.",
            [f"{version},{base64.b64encode(signed[:16]).decode()}"],
        ),
        ("hexadecimal", "The signature is base64.", [f"{version},{signed.hex()}"]),
        ("no_match", "None of the signatures is yours.", [request.signature(OTHER_SECRET)] * 2),
    ):
        yield Vector(
            name=name,
            reason=reason,
            headers=request.headers(*signatures),
            body=request.body,
            is_valid=False,
        )


def _with_other_requests(request: Request) -> Iterator[Vector]:
    headers = request.headers(request.signature(EXAMPLE_SECRET))

    def vector(name: str, reason: str, **changes: Any) -> Vector:
        usual = {"headers": headers, "body": request.body, "is_valid": False}
        return Vector(name=name, reason=reason, **{**usual, **changes})

    body = request.body
    yield vector("changed_byte", "One byte differs.", body=body[:-2] + b"~" + body[-1:])
    yield vector("longer_body", "A byte was added.", body=body + b"\n")
    yield vector("empty_body", "The body is missing.", body=b"")
    other_id = {**headers, "webhook-id": f"{request.webhook_id}x"}
    yield vector("changed_id", "The id is signed too.", headers=other_id)
    later = str(int(request.at.timestamp()) + 1)
    other_time = {**headers, "webhook-timestamp": later}
    yield vector("changed_timestamp", "The timestamp is signed too.", headers=other_time)
    not_a_number = {**headers, "webhook-timestamp": "soon"}
    yield vector("timestamp_is_no_number", "The timestamp is a number.", headers=not_a_number)
    for name in headers:
        kept = {key: text for key, text in headers.items() if key != name}
        yield vector(f"without_{name}", f"There is no {name}.", headers=kept)
    for name, minutes in (("six_minutes_old", 6), ("six_minutes_ahead", -6)):
        yield vector(
            name,
            "The timestamp differs by more than 300 seconds.",
            delay=timedelta(minutes=minutes),
            is_about_time=True,
        )
