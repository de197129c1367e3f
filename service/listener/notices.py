"""What a listener tells the person or the program at its terminal."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from service.values import value


@value(kw_only=True)
class Connected:
    """The service sends callbacks over this connection."""

    event: ClassVar = "connected"
    callback_url: str
    forward_to: str
    waiting_count: int
    has_displaced: bool


@value(kw_only=True)
class Disconnected:
    """There is no connection; callbacks wait. The next try follows, if there is one."""

    event: ClassVar = "disconnected"
    reason: str
    again_in_seconds: float | None


@value(kw_only=True)
class Displaced:
    """Another listener has taken the name."""

    event: ClassVar = "displaced"
    name: str


@value(kw_only=True)
class Forwarded:
    """
    A delivery was forwarded; *status_code* is what the local server answered.

    *outcome* and *status* are what the service made of it; None where it has not said so. *detail*
    says what was wrong.
    """

    event: ClassVar = "delivery"
    delivery_id: str
    attempt: int
    method: str
    path: str
    status_code: int | None
    failure: str | None
    duration_ms: int
    outcome: str | None
    status: str | None
    reason: str | None
    due_at: str | None
    detail: str | None


@value(kw_only=True)
class Told:
    """An answer to a key that was pressed."""

    event: ClassVar = "told"
    text: str


Notice = Connected | Disconnected | Displaced | Forwarded | Told
Report = Callable[[Notice], None]


def as_object(notice: Notice) -> Mapping[str, Any]:
    """*notice* as one object."""
    return {"event": notice.event, **asdict(notice)}
