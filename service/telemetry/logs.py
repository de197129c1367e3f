"""
The log: one event per line on standard error, as JSON for programs or as text for a terminal.

Code logs the name of an event (`attempt.settled`) and its fields in `extra={"fields": {…}}`; these
are read at the end of the turn of the loop, and not changed until then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson


def configure_logs(form: Literal["json", "text"]) -> None:
    """Send everything from `info` up to standard error, one line each."""
    # Where a line was logged, and in which thread, is in none of ours: do not look it up.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = False
    logging.logMultiprocessing = False
    handler = _Turns(sys.stderr)
    handler.setFormatter(_JsonLines() if form == "json" else _TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # What is not HTTP at all arrives all day on the internet; a traceback for each of it would
    # be the loudest thing in the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    # It would tell of every span that a collector which is away does not take.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class _Turns(logging.StreamHandler[TextIO]):
    """
    Formats and writes what one turn of the event loop has told at its end, all at once.

    A write gives up the interpreter, and under load it takes longer to get it back than to write.
    Formatting one line after the other, too, is faster than each amid other work.
    What is graver than `info` is written on the spot, with all before it; so is everything where
    no loop runs. A process that is killed takes the last turn's lines with it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._told: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(record)
        if record.levelno > logging.INFO:
            self.flush()
        elif len(self._told) == 1:
            self._flush_behind_this_turn()

    def _flush_behind_this_turn(self) -> None:
        try:
            asyncio.get_running_loop().call_soon(self.flush)
        except RuntimeError:
            self.flush()

    def flush(self) -> None:
        # Where nobody reads any more, there is nobody to tell that to.
        with self.lock or nullcontext(), suppress(OSError, ValueError):
            told, self._told = self._told, []
            if told:
                self.stream.write("".join([self._line(record) for record in told]))
            super().flush()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + self.terminator
        except Exception:  # noqa: BLE001 -- what cannot be told must not end who tells it
            self.handleError(record)
            return ""


def _event(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC)
    fields = getattr(record, "fields", {})
    head = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
    # These three come first, and no field can take their place.
    return head | fields | head


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = _event(record)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(event, default=str).decode()
        except orjson.JSONEncodeError:
            # Halves of surrogate pairs, which JSON in UTF-8 cannot carry.
            return json.dumps(event, default=str)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = _event(record)
        at, level, name = event.pop("at"), event.pop("level"), event.pop("event")
        told = (f"{key}={_on_one_line(value)}" for key, value in event.items() if value is not None)
        line = f"{at:%H:%M:%S}.{at.microsecond // 1000:03} {level:<7} {name} {' '.join(told)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.rstrip()


def _on_one_line(value: object) -> str:
    """*value* without what would begin a line of its own, or paint the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))
