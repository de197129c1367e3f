"""
Errors that cross packages, split by who can act on them.

    InvoicesError
    ├── ConfigurationError        the operator: the service does not start
    │   ├── SettingsError           a value of INVOICES_*
    │   ├── SchemaError             a database schema that this version does not know
    │   └── DeclarationError        the declaration of a callback
    │       └── ExpressionError       a runtime expression that does not parse
    ├── RequestError              the caller: becomes a problem document
    │   ├── MalformedRequest        not HTTP or not JSON
    │   ├── RequestTimedOut         the body did not arrive in time
    │   ├── RequestTooLarge         the body is larger than the limit
    │   ├── UnsupportedMedia        not application/json
    │   ├── InvalidInput            the field errors of the request, at once
    │   ├── NotFound                no such invoice or delivery
    │   ├── Conflict                the id is used by an invoice with other content
    │   ├── Unauthorized            no key, or no valid key
    │   ├── MisdirectedRequest      for a host that is not served
    │   └── TooManyRequests         above a limit of the account
    ├── AddressError              the operator: an address cannot be listened on
    ├── UnknownCursor             the caller: the API turns it into InvalidInput
    ├── AccountError              the operator: an account cannot be administered like this
    │   ├── UnknownAccount          no account has that name
    │   ├── AccountDisabled         the account is disabled
    │   └── NameTaken               an account has that name already
    ├── EvaluationError           the caller: this request does not make a callback URL
    ├── SendingPrevented          the operator: a request could not be sent; this is no attempt
    │   ├── ProxyFailed             the proxy for callbacks refuses, or cannot be reached
    │   └── DescriptorsExhausted    this process can open no more files and connections
    ├── SendingRefused            the operator: no mail can leave until something is changed
    ├── ListenerAway              nobody: the listener of a delivery has gone; this is no attempt
    └── Unavailable               the operator; the caller may retry
        ├── CollectorUnavailable    the collector gives no answer
        ├── ListenersUnavailable    this process takes no listener now
        └── StorageUnavailable      the database gives no answer
            ├── StorageRefused        the database answers and refuses our credentials
            └── StorageBusy           the database answers, and not in time: a defect of ours

The HTTP status of each is in one table in `service.web.problems`. The answer of a receiver
is never an error: it becomes the outcome of an attempt.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class InvoicesError(Exception):
    """Base of every error that the service raises on purpose."""


class ConfigurationError(InvoicesError):
    """The service cannot start: the operator or the developer has to change something."""


class SettingsError(ConfigurationError):
    """
    One or more INVOICES_* variables cannot be used.

    *reasons* holds one sentence for each of them.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


class SchemaError(ConfigurationError):
    """The database has a schema that this version does not know: a newer version made it."""


class DeclarationError(ConfigurationError):
    """The declaration of a callback is not valid, or uses what its operation does not declare."""


class ExpressionError(DeclarationError):
    """
    A runtime expression does not parse.

    *position* is the zero-based index of the offending character in *text*; the message
    shows it with a caret. *hint* names the valid form, for errors that are common.
    """

    def __init__(self, text: str, position: int, reason: str, hint: str | None = None) -> None:
        lines = [f"{reason}, at character {position + 1}:", f"  {text}", f"  {' ' * position}^"]
        if hint:
            lines.append(hint)
        super().__init__("\n".join(lines))
        self.text = text
        self.position = position
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class FieldError:
    """
    One error in a request.

    *location* is `body`, `query`, `path` or `header`; *pointer* is a JSON Pointer into it.
    """

    location: str
    pointer: str
    message: str


class RequestError(InvoicesError):
    """The caller has to change something; its text is the `detail` of the problem document."""


class MalformedRequest(RequestError):
    """The request is not valid HTTP, or its body is not valid JSON."""


class RequestTimedOut(RequestError):
    """The body did not arrive in time."""


class RequestTooLarge(RequestError):
    """The body is larger than the limit."""


class UnsupportedMedia(RequestError):
    """The body is not declared as JSON in UTF-8."""


FIELD_ERRORS_MAX = 20
"""The limit of field errors in one response: a body of 64 KiB can have thousands."""


class InvalidInput(RequestError):
    """
    The request has one or more field errors; *field_errors* are the first 20 of them.

    If more are given, the text says that there are more.
    """

    def __init__(self, field_errors: Sequence[FieldError]) -> None:
        has_more = len(field_errors) > FIELD_ERRORS_MAX
        more = f" It has more than the {FIELD_ERRORS_MAX} that are listed." if has_more else ""
        super().__init__(f"The request has fields that are not valid.{more}")
        self.field_errors = tuple(field_errors[:FIELD_ERRORS_MAX])


class NotFound(RequestError):
    """The account has nothing with this id. What another account owns is not found either."""


class Conflict(RequestError):
    """The id is already used by an invoice with other content."""


class Unauthorized(RequestError):
    """The request has no key, or its key is not valid."""


class MisdirectedRequest(RequestError):
    """The request is for a host for which the service does not answer."""


ABOVE_RATE_LIMIT = "Your account is above its rate limit. Send the request again later."


class TooManyRequests(RequestError):
    """The account is above a limit; the next request may be sent after *after_seconds*."""

    def __init__(self, after_seconds: float, detail: str = ABOVE_RATE_LIMIT) -> None:
        super().__init__(detail)
        self.after_seconds = after_seconds


class AddressError(InvoicesError):
    """An address cannot be listened on; the text names the setting to change."""


class UnknownCursor(InvoicesError):
    """The cursor names no page."""


class AccountError(InvoicesError):
    """The operator asked for a change that this account does not allow."""


class UnknownAccount(AccountError):
    """No account has that name."""


class AccountDisabled(AccountError):
    """The account is disabled."""


class NameTaken(AccountError):
    """An account has that name already."""


class EvaluationError(InvoicesError):
    """
    An expression has no usable value in this exchange.

    *expression* is the text of the expression, without braces. *is_absent* is true where the
    value was not sent at all, and false where it was sent and cannot be used.
    """

    def __init__(self, expression: str, reason: str, *, is_absent: bool = False) -> None:
        super().__init__(f"{expression} {reason}")
        self.expression = expression
        self.reason = reason
        self.is_absent = is_absent


class SendingPrevented(InvoicesError):
    """A request could not be sent for a reason on our side, of which *cause* is the short name."""

    cause: str


class ProxyFailed(SendingPrevented):
    """The proxy could not be reached, or refused to work; the text is for the operator."""

    cause = "proxy"


class DescriptorsExhausted(SendingPrevented):
    """The process, or the machine, has no file descriptor left for a connection."""

    cause = "descriptors"


PREVENTED_BY = ("proxy", "descriptors")
"""The causes of `SendingPrevented`."""


class ListenerAway(InvoicesError):
    """The listener of a delivery was not connected, or has gone before the request reached it."""


class Unavailable(InvoicesError):
    """
    Something that the service depends on gives no answer; the same request may be sent again.

    The text is for the operator.
    """


class CollectorUnavailable(Unavailable):
    """The collector gives no answer, or none that can be used."""


class ListenersUnavailable(Unavailable):
    """This process takes no listener now; the text is for the caller."""


class SendingRefused(InvoicesError):
    """No mail can leave until the operator changes something; the text is for the log."""


class StorageUnavailable(Unavailable):
    """The database does not answer. Nothing was stored; the same request may be sent again."""


class StorageBusy(StorageUnavailable):
    """A statement took longer than it may, or no connection was free: no outage, but a defect."""


class StorageRefused(StorageUnavailable):
    """The database refuses the address, user or password of INVOICES_DATABASE_URL."""
