"""
The filters of lists, as they stand in a URL: the same ones as those of the API.

A form sends every field, so an empty one is none. An instant may be typed as a date.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from service.domain.states import DeliveryStatus, InvoiceStatus
from service.errors import FieldError, InvalidInput
from service.storage.history import DeliveryFilter

PAGE_SIZE = 50
TEXT_MAX = 2048

STATUSES = tuple(one.value for one in DeliveryStatus)
INVOICE_STATUSES = tuple(one.value for one in InvoiceStatus)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The deliveries that a page shows: its filter, and the *fields* as they stand in the URL."""

    filter: DeliveryFilter
    fields: Mapping[str, str]
    after: str | None


def wanted_deliveries(query: Mapping[str, str], origin_of: Callable[[str], str]) -> Wanted:
    """
    The deliveries that *query* asks for.

    Raises:
        InvalidInput: if a field cannot be used.
    """
    fields = {
        name: _text(query, name) for name in ("status", "invoice_id", "origin", "since", "until")
    }
    wanted = DeliveryFilter(
        status=one_of(fields["status"], "status", STATUSES),
        invoice_id=fields["invoice_id"] or None,
        origin=_origin(fields["origin"], origin_of),
        since=_instant(fields["since"], "since"),
        until=_instant(fields["until"], "until"),
    )
    return Wanted(wanted, fields, _text(query, "after") or None)


def one_of(text: str, name: str, known: tuple[str, ...]) -> str | None:
    """*text* if it is one of *known*, None if it is empty; raises InvalidInput."""
    if text and text not in known:
        raise _invalid(name, f"Must be one of: {', '.join(known)}.")
    return text or None


def _text(query: Mapping[str, str], name: str) -> str:
    text = query.get(name, "").strip()
    if len(text) > TEXT_MAX or not _is_storable(text):
        raise _invalid(name, "This is not a text that anything could have.")
    return text


def _is_storable(text: str) -> bool:
    """Whether a database could have *text*: NUL and halves of characters are refused by some."""
    return "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def _origin(text: str, origin_of: Callable[[str], str]) -> str | None:
    if not text:
        return None
    try:
        return origin_of(text)
    except ValueError as error:
        raise _invalid("origin", f"This is not an origin: {error}.") from None


def _instant(text: str, name: str) -> datetime | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _invalid(name, "Must be an instant such as 2026-01-31 12:00.") from None


def searched(query: Mapping[str, str]) -> str:
    """What was typed into the search; raises InvalidInput."""
    return _text(query, "q")


def text_of(query: Mapping[str, str], name: str) -> str:
    """The text of a parameter; raises InvalidInput if nothing could have it."""
    return _text(query, name)


def _invalid(name: str, message: str) -> InvalidInput:
    return InvalidInput([FieldError("query", f"/{name}", message)])
