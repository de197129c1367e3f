"""
Listeners: programs on a developer's machine that take callbacks over a connection of their own.

The callback URL of a listener is never called. Its deliveries have an origin that no URL has, by
which they are recognised wherever the service is reached today.
"""

import re
from datetime import timedelta
from enum import StrEnum

from service.values import value

LISTENER_ORIGINS = "listen://"
"""What the origins of all listeners begin with."""

LISTENER_NAME = r"[a-z0-9][a-z0-9-]{0,63}"
"""The names of listeners, as a regular expression."""

LISTENER_SILENCE = timedelta(seconds=22)
"""How long a link is silent before it is dead: it is noticed within 25 seconds on both sides."""

LISTENER_PING = timedelta(seconds=10)
"""How often the service says that the link works."""

WAITING_MAX = 1_000
"""Up to so many deliveries are counted for a listener that connects."""

is_listener_name = re.compile(LISTENER_NAME, re.ASCII).fullmatch


def listener_origin(name: str) -> str:
    """The origin of the deliveries for the listener *name*."""
    return LISTENER_ORIGINS + name


def is_for_listener(origin: str) -> bool:
    """Whether deliveries to *origin* are for a listener."""
    return origin.startswith(LISTENER_ORIGINS)


class ListenerFailure(StrEnum):
    """Why a listener has no answer of its local server."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    TOO_LONG = "too_long"


class StreamEnd(StrEnum):
    """Why the connection of a listener has ended."""

    DISPLACED = "displaced"
    """A newer connection has taken the name."""
    GONE = "gone"
    """The listener has closed it."""
    SILENT = "silent"
    """The listener has acknowledged nothing for `LISTENER_SILENCE`."""
    REFUSED = "refused"
    """The key has expired, or its account was disabled."""
    STOPPING = "stopping"
    """The process stops."""


@value(kw_only=True)
class AttemptKey:
    """An attempt that was given to a listener of an account."""

    account_id: str
    origin: str
    delivery_id: str
    number: int
