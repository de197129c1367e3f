import asyncio
import io
import json
import logging
import os
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from service.domain.states import DeadReason
from service.telemetry import log_pipe, logs
from service.telemetry.logs import configure_logs, log_event
from tests.clock import PATIENCE_SECONDS


@pytest.fixture
def logged(monkeypatch, capsys):
    """A function that returns the text on standard error; the test undoes the configuration."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("aiohttp.server", "alembic")}
    handlers, level = root.handlers[:], root.level
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    # The configuration closes the handlers that it finds; the handlers of pytest must stay open.
    root.handlers[:] = []
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, earlier in levels.items():
        logging.getLogger(name).setLevel(earlier)


def log(event, /, **fields):
    """Log an event as the service does."""
    logging.getLogger("invoices.test").info(event, extra={"fields": fields})


def test_a_json_line_contains_the_event_and_its_fields(logged):
    """A line has the instant, the level, the event and every field, without nesting."""
    configure_logs("json")
    before = datetime.now(UTC)

    log("attempt.settled", number=1, detail=None)

    line = json.loads(logged())
    assert before <= datetime.fromisoformat(line.pop("at")) <= datetime.now(UTC)
    assert {
        "level": "info",
        "event": "attempt.settled",
        "number": 1,
        "detail": None,
    } == line


def test_a_text_line_omits_unknown_fields(logged):
    """A text line omits the fields that are None."""
    configure_logs("text")

    log("attempt.settled", number=1, detail=None, outcome="delivered")

    time, level, event, *fields = logged().split()
    assert 12 == len(time)
    assert ("info", "attempt.settled") == (level, event)
    assert ["number=1", "outcome=delivered"] == fields


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_event_without_fields_is_one_line(logged, form):
    """Fields are optional, and libraries log without them."""
    configure_logs(form)

    logging.getLogger("library").warning("it is %s", "late")

    (line,) = logged().splitlines()
    assert "it is late" in line


@pytest.mark.parametrize(
    "value",
    [
        "two\nlines",
        "two\r\nlines",
        "\N{LINE SEPARATOR}",
        'quotes " and \\',
        "\x1b[31m",
        datetime(2026, 1, 31, tzinfo=UTC),
        DeadReason.GONE,
        b"\xff",
        {"nested": [1]},
    ],
    ids=ascii,
)
@pytest.mark.parametrize("form", ["json", "text"])
def test_every_event_is_one_line(logged, form, value):
    """An event with any field values is logged in a single line."""
    configure_logs(form)

    log("attempt.settled", value=value)

    line, end = logged().split("\n")
    assert "attempt.settled" in line
    assert "" == end


def test_text_that_utf_8_cannot_encode_is_logged(logged):
    """A field with half of a surrogate pair does not prevent its line."""
    configure_logs("json")

    log("attempt.settled", detail="half a pair: \udc80")

    line, end = logged().split("\n")
    assert "attempt.settled" == json.loads(line)["event"]
    assert "" == end


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_is_logged_with_its_traceback(logged, form):
    """The traceback of an unexpected error is logged."""
    configure_logs(form)

    try:
        raise LookupError("unexpected")
    except LookupError:
        logging.getLogger("invoices").exception("attempt.failed")

    text = logged()
    assert "Traceback" in text
    assert "LookupError: unexpected" in text


def test_an_exception_in_json_stays_in_its_line(logged):
    """A traceback is part of the JSON line."""
    configure_logs("json")

    try:
        raise LookupError("unexpected")
    except LookupError:
        logging.getLogger("invoices").exception("attempt.failed")

    (line,) = logged().splitlines()
    assert "LookupError" in json.loads(line)["exception"]


def test_fields_do_not_replace_the_event(logged):
    """A field cannot replace the event, the level or the instant."""
    configure_logs("json")

    log("attempt.settled", event="nothing.happened", level="debug", at="never")

    line = json.loads(logged())
    assert ("attempt.settled", "info") == (line["event"], line["level"])
    assert "never" != line["at"]


def test_debug_lines_are_omitted(logged):
    """Lines from `info` up are logged, and no lines below."""
    configure_logs("json")

    logging.getLogger("invoices").debug("something.considered")

    assert "" == logged()


def test_invalid_requests_and_migrations_are_not_logged(logged):
    """A request that is not HTTP, and a migration, cause no line."""
    configure_logs("json")

    logging.getLogger("aiohttp.server").error("Error handling request")
    logging.getLogger("alembic.runtime.migration").info("Running upgrade")

    assert "" == logged()


def test_a_second_configuration_does_not_double_lines(logged):
    """One event is one line, even if logging is configured several times."""
    configure_logs("text")
    configure_logs("json")

    log("service.started")

    assert 1 == len(logged().splitlines())


# Buffering


class Stream(io.StringIO):
    """Standard error that keeps each write, and may be closed by its reader."""

    def __init__(self):
        super().__init__()
        self.writes = []
        self.is_broken = False

    def write(self, text):
        """Keep *text*."""
        if self.is_broken:
            raise BrokenPipeError
        self.writes.append(text)
        return len(text)


@pytest.fixture
def stream(logged, monkeypatch):
    """The stream of the log."""
    stream = Stream()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs("json")
    return stream


def events_in(text):
    """The events of the lines in *text*."""
    return [json.loads(line)["event"] for line in text.splitlines()]


async def test_lines_for_people_are_written_at_the_end_of_the_iteration(stream, monkeypatch):
    """The lines of one iteration of the loop are one write, and none waits for another one."""
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs("text")
    for name in ("one", "two", "three"):
        log(name)
    assert [] == stream.writes

    await asyncio.sleep(0)
    log("four")
    await asyncio.sleep(0)

    assert [["one", "two", "three"], ["four"]] == [
        [line.split()[2] for line in text.splitlines()] for text in stream.writes
    ]


@pytest.fixture
def gathering(stream, monkeypatch):
    """The stream of a log whose lines wait for ever for each other."""
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(logs, "GATHER_SECONDS", 3600)
    configure_logs("json")
    return stream


async def test_lines_for_programs_are_gathered(gathering):
    """Lines of several iterations are one write."""
    for name in ("one", "two", "three"):
        log(name)
        await asyncio.sleep(0)
    assert [] == gathering.writes

    flush()

    assert [["one", "two", "three"]] == [events_in(text) for text in gathering.writes]


async def test_lines_for_programs_are_written_soon(stream):
    """Without a later line each is written all the same, after a moment, and so is the next one."""
    for name in ("one", "two"):
        log(name)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not stream.writes:  # noqa: ASYNC110 -- the stream sets no event
                await asyncio.sleep(0)

        assert [[name]] == [events_in(text) for text in stream.writes]
        stream.writes.clear()


def test_lines_of_a_loop_that_has_ended_are_not_kept(gathering):
    """What its loop has not written is written with the next line, with or without a loop."""

    async def work(name):
        log(name)

    asyncio.run(work("one"))
    log("two")
    asyncio.run(work("three"))
    asyncio.run(work("four"))
    assert [["one", "two"]] == [events_in(text) for text in gathering.writes]

    log("five")

    assert [["one", "two"], ["three", "four", "five"]] == [events_in(x) for x in gathering.writes]


@pytest.mark.parametrize("fields", [{"cause": DeadReason.GONE, "detail": None}, {"a": "\udc80"}])
@pytest.mark.parametrize("form", ["json", "text"])
async def test_a_frequent_event_has_the_line_of_any_other(logged, form, fields):
    """An event that happens to every invoice is told as others are, but for the instant."""
    configure_logs(form)
    name = "attempt.settled"

    log(name, **fields)
    log_event(logging.getLogger("invoices.test"), name, fields)
    flush()

    one, other = logged().splitlines()
    if form == "json":
        assert [*json.loads(one).items()][1:] == [*json.loads(other).items()][1:]
        assert datetime.fromisoformat(json.loads(one)["at"]).tzinfo is not None
        passed = [datetime.fromisoformat(json.loads(line)["at"]) for line in (one, other)]
        assert timedelta(0) <= passed[1] - passed[0] < timedelta(minutes=1)
    else:
        assert one.split()[1:] == other.split()[1:]


def test_a_frequent_event_goes_to_every_handler(stream, caplog):
    """Other handlers, such as those of a library or of a test, get frequent events too."""
    caplog.set_level(logging.INFO)
    logging.getLogger().addHandler(caplog.handler)

    log_event(logging.getLogger("invoices.test"), "attempt.settled", {"number": 1})

    assert ["attempt.settled"] == [one.message for one in caplog.records]
    assert ["attempt.settled"] == events_in("".join(stream.writes))


async def test_a_frequent_event_below_the_level_is_not_told(logged):
    """With the level `warning` there is no line for each invoice."""
    configure_logs("json", "warning")

    log_event(logging.getLogger("invoices.test"), "attempt.settled", {"number": 1})
    flush()

    assert "" == logged()


async def test_a_line_that_cannot_be_made_costs_no_other(logged):
    """A field whose text cannot be made is reported; the lines around it are written."""

    class Unspeakable:
        def __str__(self):
            raise LookupError("no text")

    configure_logs("json")
    for name, field in (("one", 1), ("two", Unspeakable()), ("three", 3)):
        log_event(logging.getLogger("invoices.test"), name, {"field": field})
    flush()

    text = logged()
    assert ["one", "three"] == [
        json.loads(x)["event"] for x in text.splitlines() if x.startswith("{")
    ]
    assert "LookupError" in text


async def test_a_warning_is_written_at_once(stream):
    """A warning and the lines before it are written at once, because the process may end."""
    log("one")
    logging.getLogger("invoices.test").warning("two")

    assert ["one", "two"] == events_in("".join(stream.writes))


def test_without_a_loop_lines_are_written_at_once(stream):
    """Commands and threads write each line at once."""
    log("one")
    log("two")

    assert [["one"], ["two"]] == [events_in(text) for text in stream.writes]


async def test_the_end_of_the_process_writes_buffered_lines(stream):
    """The lines that wait are written when the process ends."""
    log("one")
    flush()

    assert ["one"] == events_in("".join(stream.writes))


async def test_a_closed_standard_error_is_ignored(stream):
    """If the reader of standard error has closed it, the service continues."""
    stream.is_broken = True
    log("one")
    flush()
    stream.is_broken = False
    log("two")
    flush()

    assert ["two"] == events_in("".join(stream.writes))


class Pipe:
    """Standard error as a pipe to a program, which reads when it is told to."""

    def __init__(self):
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.stream = os.fdopen(writing, "w", encoding="utf-8")

    def read(self):
        """The events of the lines that are there."""
        text = b""
        with suppress(BlockingIOError):
            while piece := os.read(self._reading, 2**16):
                text += piece
        return events_in(text.decode())

    def leave(self):
        """Read no more."""
        os.close(self._reading)


@pytest.fixture
def pipe(logged, monkeypatch):
    """The pipe of the log."""
    pipe = Pipe()
    monkeypatch.setattr("sys.stderr", pipe.stream)
    configure_logs("json")
    yield pipe
    with suppress(OSError):
        pipe.stream.close()
        pipe.leave()


def flush():
    """Write the lines that wait."""
    for handler in logging.getLogger().handlers:
        handler.flush()


NUMBERS = [f"event.{number}" for number in range(4000)]
"""Events whose lines are several times what a pipe takes."""


async def test_a_reader_that_stops_delays_nothing(pipe):
    """What does not fit into the pipe waits for the reader, in order, and the service goes on."""
    for name in NUMBERS:
        log(name)
    flush()

    seen = []
    while len(seen) < len(NUMBERS):
        some = pipe.read()
        assert some
        seen += some
        flush()
    assert NUMBERS == seen


async def test_lines_wait_without_further_ones(pipe, monkeypatch):
    """The reader gets them when it reads again, also if nothing else is logged."""
    monkeypatch.setattr(logs, "LOOK_AGAIN_SECONDS", 0)
    for name in NUMBERS:
        log(name)
    flush()

    seen = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(seen) < len(NUMBERS):
            seen += pipe.read()
            await asyncio.sleep(0)
    assert NUMBERS == seen


async def test_what_waits_for_a_reader_is_bounded_and_counted(pipe, monkeypatch):
    """A reader that has missed lines is told how many, as soon as it has the others."""
    monkeypatch.setattr(log_pipe, "HELD_BYTES_MAX", 2**16)
    for name in NUMBERS:
        log(name)
        flush()

    seen = []
    while some := pipe.read():
        seen += some
        flush()
    log("late")
    flush()

    assert [*NUMBERS[: len(seen) - 1], "log.lost", "late"] == [*seen, *pipe.read()]


def test_the_last_lines_wait_for_the_reader(pipe):
    """When the loop has ended, what waits is written as soon as somebody reads, for a second."""
    seen = []

    async def fill():
        for name in NUMBERS:
            log(name)
        flush()

    def read():
        while len(seen) < len(NUMBERS):
            seen.extend(pipe.read())

    asyncio.run(fill())
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    flush()
    reader.join(PATIENCE_SECONDS)

    assert NUMBERS == seen


async def test_a_reader_that_has_ended_is_ignored(pipe):
    """Without a reader the service continues, and keeps nothing for it."""
    kept = log_pipe.LogPipe(pipe.stream.fileno())
    pipe.leave()

    for _ in range(2):
        log("one")
        flush()
        with pytest.raises(BrokenPipeError):
            kept.write("one\n")
        assert not kept.is_behind


async def test_a_line_that_cannot_be_formatted_does_not_lose_others(stream, monkeypatch):
    """An invalid log call of a library does not lose the other lines of its iteration."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log("one")
    logging.getLogger("invoices.test").info("%d of them", "many")
    log("two")
    flush()

    assert ["one", "two"] == events_in("".join(stream.writes))
