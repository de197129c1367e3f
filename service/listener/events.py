"""Server-sent events, as a listener reads them from the service."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from service.values import value

EVENT_BYTES_MAX = 1024 * 1024
"""Far more than any event has."""


class NotEvents(Exception):
    """What came is no stream of events of the service."""


@value()
class ServerEvent:
    """An event of the service; *number* counts those of the connection from 1."""

    number: int
    name: str
    data: Mapping[str, Any]


class EventReader:
    """Puts events together from the pieces in which they arrive."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, piece: bytes) -> Iterator[ServerEvent]:
        """
        The events that are complete with *piece*.

        Raises:
            NotEvents: if what came is no event, or is far too long.
        """
        *texts, self._rest = (self._rest + piece).split(b"\n\n")
        for text in texts:
            yield _event(text)
        if len(self._rest) > EVENT_BYTES_MAX:
            raise NotEvents


def _event(text: bytes) -> ServerEvent:
    lines = dict(line.split(b": ", 1) for line in text.split(b"\n") if b": " in line)
    try:
        number, name = int(lines[b"id"]), lines[b"event"].decode("ascii")
        data = orjson.loads(lines[b"data"])
    except (KeyError, ValueError):
        raise NotEvents from None
    if not isinstance(data, dict):
        raise NotEvents
    return ServerEvent(number, name, data)
