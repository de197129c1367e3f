"""The text format of the log: values, line breaks on a terminal, colors, levels."""

import fcntl
import logging
import os
import struct
import sys
import termios
from datetime import UTC, datetime, timedelta, timezone

import pytest

from service.domain.outcomes import AttemptOutcome
from service.telemetry.logs import configure_logs

NAMES = ("aiohttp.server", "alembic", "opentelemetry", "invoices")
WIDTH = 80


@pytest.fixture(autouse=True)
def logging_restored(monkeypatch):
    """Restores the configuration of logs after the test."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in NAMES}
    handlers, level = root.handlers[:], root.level
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, earlier in levels.items():
        logging.getLogger(name).setLevel(earlier)


@pytest.fixture
def terminal(monkeypatch):
    """Logs an event to a terminal of 80 columns, and returns the written text."""
    ours, theirs = os.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # Line breaks arrive as they are written.
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:

        def show(event, /, **fields):
            with monkeypatch.context() as patched:
                patched.setattr(sys, "stderr", stream)
                configure_logs("text")
            log(event, **fields)
            return os.read(ours, 65536).decode()

        yield show
    os.close(ours)


def log(event, /, **fields):
    """Log an event as the service does."""
    logging.getLogger("invoices.test").info(event, extra={"fields": fields})


SETTLED = {
    "request_id": "req_01a20623f06475d0aa96f47b44a16e0c",
    "delivery_id": "msg_01a20623f06475d0aa96f47b44a16e0c",
    "invoice_id": "2expen51ve",
    "origin": "https://api.example.com:8443",
    "number": 1,
    "outcome": AttemptOutcome.REFUSED,
    "detail": "the receiver answered 500 and said so in many words",
    "due_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "paid": False,
}


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        ("paid", "paid"),
        ("https://a.example/b?c", "https://a.example/b?c"),
        ('"Invoice paid"', "Invoice paid"),
        ('""', ""),
        (r'"say \"no\""', 'say "no"'),
        ('"a=b"', "a=b"),
        (r'"a\\b"', "a\\b"),
        (r'"two\nlines"', "two\nlines"),
        (r'"\u001b[31m"', "\x1b[31m"),
        (r'"\u2028"', "\N{LINE SEPARATOR}"),
        ("münchen", "münchen"),
        ("false", False),
        ("12", 12),
        ("2026-01-31T12:00:00+00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (
            "2026-01-31T12:00:00+01:00",
            datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=1))),
        ),
        ("refused", AttemptOutcome.REFUSED),
        ('["a b",true]', ["a b", True]),
        (r'"\udc80"', "\udc80"),
    ],
)
def test_values_are_written_as_in_json(capsys, expected, value):
    """Instants, booleans and numbers are written as in JSON; text has quotes only if needed."""
    configure_logs("text")

    log("something.happened", value=value)

    assert f"something.happened value={expected}\n" == capsys.readouterr().err[21:]


def test_lines_fit_a_terminal(terminal):
    """An event that is wider than the terminal continues on the next line."""
    text = terminal("attempt.settled", **SETTLED | {"outcome": AttemptOutcome.DELIVERED})

    lines = text.removesuffix("\n").split("\n")
    assert len(lines) > 1
    assert [] == [line for line in lines if len(line) > WIDTH]
    assert [True] * (len(lines) - 1) == [line.startswith(" " * 13) for line in lines[1:]]
    text = " ".join(line.strip() for line in lines)
    assert 'detail="the receiver answered 500 and said so in many words"' in text
    assert text.endswith("due_at=2026-01-31T12:00:00+00:00 paid=false")


def test_a_value_without_blanks_is_not_split(terminal):
    """A URL that is wider than the terminal is not split."""
    url = f"https://api.example/{'a' * WIDTH}"

    assert f"url={url}" in terminal("something.happened", url=url).split()


def test_without_a_terminal_an_event_is_one_line(capsys):
    """In a file or a pipe each event stays one line, without colors."""
    configure_logs("text")

    log("attempt.settled", **SETTLED)

    text = capsys.readouterr().err
    assert 1 == text.count("\n")
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("outcome", "is_marked"),
    [(one, one is not AttemptOutcome.DELIVERED) for one in AttemptOutcome],
)
def test_a_failed_attempt_is_marked(terminal, outcome, is_marked):
    """An attempt that was not delivered is marked, and red on a terminal."""
    text = terminal("attempt.settled", outcome=outcome)

    assert is_marked == (" ! attempt.settled " in text)
    assert is_marked == text.startswith("\x1b[31m")
    assert is_marked == text.endswith("\x1b[0m\n")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colors_can_be_switched_off(terminal, monkeypatch, name, value):
    """Without colors a failed attempt still has its mark."""
    monkeypatch.setenv(name, value)

    text = terminal("attempt.settled", outcome=AttemptOutcome.TIMEOUT)

    assert "\x1b" not in text
    assert " ! attempt.settled " in text


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error", "library"]),
        ("info", ["info", "warning", "error", "library"]),
        ("warning", ["warning", "error", "library"]),
        ("error", ["error"]),
    ],
)
def test_the_level_decides_what_is_logged(capsys, level, expected):
    """Events of the level and above are logged; of libraries none below `info`."""
    configure_logs("text", level)
    ours = logging.getLogger("invoices.delivery")

    for name in ("debug", "info", "warning", "error"):
        getattr(ours, name)(name)
    logging.getLogger("asyncio").debug("selector")
    logging.getLogger("alembic").warning("library")

    assert expected == [line.split()[-1] for line in capsys.readouterr().err.splitlines()]


def test_a_sentence_of_another_library_is_one_value(capsys):
    """A message that is no name of an event is quoted: it may repeat what somebody has sent."""
    configure_logs("text")

    logging.getLogger("asyncio").warning("lost %s", "a\n12:00:00.000 info paid outcome=delivered")

    text = capsys.readouterr().err
    assert 1 == text.count("\n")
    assert r'"lost a\n12:00:00.000 info paid outcome=delivered"' in text


def test_the_text_of_an_error_forges_no_event(capsys):
    """The lines of a traceback are indented, and what a terminal would obey is escaped."""
    configure_logs("text")
    try:
        raise LookupError("a\n12:00:00.000 info    attempt.settled outcome=delivered\x1b[2J\r")
    except LookupError:
        logging.getLogger("invoices.test").exception("attempt.failed")

    first, *traceback = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert "attempt.failed" in first
    assert any("attempt.settled" in line for line in traceback)
    assert [] == [line for line in traceback if not line.startswith(" " * 13)]
    assert all(line.isprintable() for line in traceback)
