"""
The headers of a callback's request.

Every callback is JSON and signed by Standard Webhooks 1.0 (https://www.standardwebhooks.com/):
these headers are the default of a declaration, which may add others.
"""

from dataclasses import dataclass

from service.errors import DeclarationError


@dataclass(frozen=True, slots=True)
class CallbackHeader:
    """
    A header that the request of a callback carries.

    *name* is in lower case; names ignore case. *pattern* is a regular expression of JSON Schema
    that every value matches. An optional header is sent where it has a value.

    Raises:
        DeclarationError: *name* is not in lower case.
    """

    name: str
    description: str
    example: str
    is_required: bool = True
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.name != self.name.lower():
            raise DeclarationError(f"The header {self.name} must be declared in lower case.")


# OpenAPI ignores header parameters of these names: other parts of the document describe them.
IMPLIED_HEADERS = frozenset({"accept", "authorization", "content-type"})

STANDARD_HEADERS = (
    CallbackHeader(
        "webhook-id",
        "Identifies the event; the same in every attempt, so that you recognise a repeated one.",
        "msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        pattern="^msg_[0-9A-Za-z_-]+$",
    ),
    CallbackHeader(
        "webhook-timestamp",
        "When this attempt was made, in seconds since 1970.",
        "1769860800",
        pattern="^[0-9]+$",
    ),
    CallbackHeader(
        "webhook-signature",
        "Standard Webhooks signatures of id, timestamp and body, separated by spaces. One that"
        " verifies is enough.",
        "v1,Wdjedzn6I8Rh4J2w4qUjShchNS581tbOigLwpXY0SAc=",
        # Base64, without naming its =: python-fastapi would write an HTML entity for it.
        pattern="^v1,[^ ]{44}( v1,[^ ]{44})*$",
    ),
    CallbackHeader(
        "webhook-attempt",
        "The number of this attempt to deliver the event, from 1.",
        "1",
        # A process of an older version does not send it.
        is_required=False,
        pattern="^[0-9]+$",
    ),
    CallbackHeader("content-type", "The body is JSON in UTF-8.", "application/json"),
    CallbackHeader("user-agent", "The service and its version.", "invoices/0.1.0"),
)
