"""
An exchange between a caller and the API, as far as runtime expressions can see it.

Expressions are evaluated against these plain values, so that neither the callbacks nor their tests
need a web server.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import Final

from service.values import value


class Absent(Enum):
    """The type of ABSENT, which is not None: JSON has a null of its own."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
"""Stands for a body that was not sent."""


@value()
class Message:
    """
    One half of an exchange: what expressions can see of a request or a response.

    *body* is parsed JSON, or ABSENT. A response has neither *query* nor *path*.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)
    body: object = ABSENT


@value()
class Exchange:
    """A request and, once there is one, its response."""

    url: str
    method: str
    request: Message
    status_code: int | None = None
    response: Message | None = None
