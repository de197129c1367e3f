"""
Every error that the service raises on purpose, split by who can act on it.

    InvoicesError
    ├── ConfigurationError        the operator: the service does not start
    │   ├── SettingsError           what stands in INVOICES_*
    │   ├── SchemaError             a database that this version does not know
    │   └── DeclarationError        what a callback declares
    │       └── ExpressionError       a runtime expression that does not parse
    ├── RequestError              the caller: becomes a problem document
    │   ├── MalformedRequest        not JSON
    │   ├── RequestTimedOut         the body did not come in time
    │   ├── RequestTooLarge         the body is larger than we read
    │   ├── UnsupportedMedia        not application/json
    │   ├── InvalidInput            all that is wrong with it, at once
    │   ├── NotFound                no such invoice or delivery
    │   ├── Conflict                the id is taken by other content
    │   ├── Unauthorized            no key, or not a valid one
    │   └── TooManyRequests         more than the account may make
    ├── AccountError              the operator: an account cannot be administered like this
    │   ├── UnknownAccount          there is none of that name
    │   ├── AccountDisabled         the one of that name is let in no more
    │   └── NameTaken               there is one of that name
    ├── EvaluationError           the caller: a callback URL cannot be made of this request
    └── StorageUnavailable        the operator; the caller may come again
        └── StorageRefused          the database is there and does not let us in

The HTTP numbers stand in one table in `service.web.problems`. What a receiver answers is
never an error: it becomes the outcome of an attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class InvoicesError(Exception):
    """Whatever the service raises on purpose."""


class ConfigurationError(InvoicesError):
    """The service cannot start like this; the operator or the developer has to act."""


class SettingsError(ConfigurationError):
    """
    One or more INVOICES_* variables cannot be used.

    *mistakes* holds one sentence for each of them, never only the first.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


class SchemaError(ConfigurationError):
    """The database is on a schema that this version does not know: a newer one made it."""


class DeclarationError(ConfigurationError):
    """A callback promises what the operation that declares it cannot keep."""


class ExpressionError(DeclarationError):
    """
    A runtime expression does not parse.

    *position* is the zero-based index of the offending character in *text*; the message
    shows it with a caret. *hint* names the valid form where the mistake is a known one.
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
class Mistake:
    """
    One thing that is wrong with a request.

    *location* is `body`, `query`, `path` or `header`; *pointer* is a JSON Pointer into it.
    """

    location: str
    pointer: str
    message: str


class RequestError(InvoicesError):
    """The caller has to change something; str() of it is the problem's `detail`."""


class MalformedRequest(RequestError):
    """The body is not JSON that the service reads."""


class RequestTimedOut(RequestError):
    """The body did not arrive within the time given."""


class RequestTooLarge(RequestError):
    """The body is larger than the service reads."""


class UnsupportedMedia(RequestError):
    """The body is declared as something other than JSON in UTF-8."""


class InvalidInput(RequestError):
    """The request was understood and cannot be accepted, for every one of *mistakes*."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("The request was understood, but what it says cannot be accepted.")
        self.mistakes = tuple(mistakes)


class NotFound(RequestError):
    """There is no such thing, or it belongs to somebody else: both look the same."""


class Conflict(RequestError):
    """The id is taken, by an invoice of other content."""


class Unauthorized(RequestError):
    """The request shows no key, or none that is valid; it does not say which."""


class TooManyRequests(RequestError):
    """The account has used up its rate; the next request may come after *after_seconds*."""

    def __init__(self, after_seconds: float) -> None:
        super().__init__("Your account makes more requests than it may; come again a bit later.")
        self.after_seconds = after_seconds


class AccountError(InvoicesError):
    """The operator asked for something that cannot be done with accounts as they are."""


class UnknownAccount(AccountError):
    """There is no account of that name."""


class AccountDisabled(AccountError):
    """The account is let in no more."""


class NameTaken(AccountError):
    """There is an account of that name."""


class EvaluationError(InvoicesError):
    """
    An expression has no usable value in this exchange.

    *expression* is the expression's own text, without braces. *is_absent* tells a value that
    was not sent at all from one that was sent and cannot be used.
    """

    def __init__(self, expression: str, reason: str, *, is_absent: bool = False) -> None:
        super().__init__(f"{expression} {reason}")
        self.expression = expression
        self.reason = reason
        self.is_absent = is_absent


class StorageUnavailable(InvoicesError):
    """The database does not answer. Nothing was stored; the same request may come again."""


class StorageRefused(StorageUnavailable):
    """The database does not let us in with the address, user or password that we have."""
