"""
The log: one event per line on standard error, as JSON for programs or as text for a terminal.

Code logs the name of an event (`attempt.settled`) and its fields in `extra={"fields": {…}}`. The
fields are read at the end of the iteration of the event loop: they must not change until then.
"""

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
    # No line has its place in the code, thread or process: do not look them up.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = False
    logging.logMultiprocessing = False
    handler = _BatchHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Requests that are not HTTP arrive all day on the internet, each with a traceback here.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    # It warns of every span that an unreachable collector does not take.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class _BatchHandler(logging.StreamHandler[TextIO]):
    """
    Formats and writes the lines of one iteration of the event loop at its end, in one write.

    A write releases the interpreter lock, and under load it takes longer to get it back than to
    write. Formatting many lines in a row is also faster than each one between other work. A line
    above `info` is written at once, after those that wait; so is every line where no loop runs.
    A process that is killed loses the lines of its last iteration.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if record.levelno > logging.INFO:
            self.flush()
        elif len(self._waiting) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:  # no loop runs
                self.flush()

    def flush(self) -> None:
        # Standard error may be closed at the other end: the service goes on without a log.
        with self.lock or nullcontext(), suppress(OSError, ValueError):
            records, self._waiting = self._waiting, []
            if records:
                self.stream.write("".join([self._line(record) for record in records]))
            super().flush()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + self.terminator
        except Exception:  # noqa: BLE001 -- a line that cannot be formatted must not fail its caller
            self.handleError(record)
            return ""


def _event(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC)
    fields = getattr(record, "fields", {})
    head = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
    # These three come first, and no field can replace them.
    return head | fields | head


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = _event(record)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(event, default=str).decode()
        except orjson.JSONEncodeError:
            # A lone surrogate, which JSON in UTF-8 cannot represent.
            return json.dumps(event, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = _event(record)
        at, level, name = event.pop("at"), event.pop("level"), event.pop("event")
        fields = " ".join(
            f"{key}={_escaped(value)}" for key, value in event.items() if value is not None
        )
        line = f"{at:%H:%M:%S}.{at.microsecond // 1000:03} {level:<7} {name} {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.rstrip()


def _escaped(value: object) -> str:
    """*value* with line breaks, and other characters that a terminal interprets, escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))
