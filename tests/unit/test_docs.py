"""The documentation is complete and current: it names all that exists, and only that."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click import Option
from click.testing import CliRunner
from standardwebhooks import Webhook

from schemas.delivery import OUTCOMES, REASONS
from service.__main__ import main
from service.accounts.cache import CACHE_SECONDS
from service.api.application import make_application
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.delivery.attempt import log_fields
from service.delivery.connection import (
    ANSWER_LIMIT,
    HEAD_COUNT_LIMIT,
    HEAD_LIMIT,
    HEAD_LINE_LIMIT,
)
from service.development import DEV_SECRET
from service.receiver.checks import CHECKS
from service.receiver.conformance import RUN_SECONDS
from service.receiver.projects.languages import LANGUAGES
from service.settings import PREFIX, Settings, read_settings
from service.web.problems import PROBLEMS
from service.web.server import Server
from tests.clock import ManualClock
from tests.fakes import WatchedMemory, WatchedStore, assembled
from tests.printed import PrintedReceiver, printed_code

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
VARIABLES = [PREFIX + field.name.upper() for field in fields(Settings)]
MODULES = sorted((ROOT / "service").rglob("*.py"))


def text_of(name):
    """The text of a page."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(page, heading):
    """The text between *heading* and the next heading."""
    found = re.search(rf"^### `{heading}`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"{heading} is not documented"
    return found[1]


@pytest.fixture
def nothing_set(monkeypatch):
    """An environment without settings."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_setting_is_documented_with_its_default(variable, nothing_set, monkeypatch):
    """docs/settings.md has a section for each setting, and its default is the real one."""
    words = " ".join(section(text_of("docs/settings.md"), variable).split())

    default = re.search(r"Default: (?:`([^`]+)`|none\b)", words)
    assert default, f"{variable} has no documented default"
    without = read_settings()
    monkeypatch.setenv(variable, default[1] or "")

    assert without == read_settings()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_setting_that_does_not_exist(page):
    """Every variable that a page names is a setting."""
    mentioned = set(
        re.findall(rf"{PREFIX}[A-Z][A-Z0-9_]*[A-Z0-9]", page.read_text(encoding="utf-8"))
    )
    misspelled_on_purpose, of_tests = "INVOICES_PROT", "INVOICES_TEST_DATABASE_URL"
    others = {misspelled_on_purpose, of_tests, "INVOICES_SERVICE_HOST"}

    assert set() == mentioned - {*VARIABLES, *others}


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_documented_with_its_options(name):
    """docs/operations.md has a row for each command, and each of its options stands there."""
    options = [
        option
        for option in main.commands[name].params
        if option.name != "help" and not getattr(option, "hidden", False)
    ]
    rows = [line for line in text_of("docs/operations.md").splitlines() if line.startswith("|")]
    (row,) = [line for line in rows if re.match(rf"\| `invoices {name}\b", line)]

    shown = [one.opts[0] if isinstance(one, Option) else one.name.upper() for one in options]
    assert [] == [text for text in shown if text not in row]


@pytest.mark.parametrize("name", sorted(main.commands["accounts"].commands))
def test_every_command_about_accounts_is_documented_with_its_options(name):
    """The row of `invoices accounts` has each of its commands with its argument and options."""
    (row,) = re.findall(r"^\| `invoices accounts`.*$", text_of("docs/operations.md"), re.MULTILINE)
    options = main.commands["accounts"].commands[name].params
    form = " ".join([name, *(one.name.upper() for one in options if one.name == "name")])

    assert f"`{form}`" in row
    assert [] == [one.opts[0] for one in options if one.name != "name" and one.opts[0] not in row]


def test_the_command_that_writes_a_project_is_documented():
    """The row of `invoices receiver` has the command, and the receiver's page every language."""
    (row,) = re.findall(r"^\| `invoices receiver`.*$", text_of("docs/operations.md"), re.MULTILINE)
    page = text_of("docs/receiver.md")

    assert "`new --lang L DIR`" in row
    assert [] == [language for language in LANGUAGES if f"| `{language}` |" not in page]


def test_the_cache_time_is_documented():
    """docs/operations.md has the time after which a rotation has an effect in every process."""
    assert 5 == CACHE_SECONDS
    page = " ".join(text_of("docs/operations.md").split())
    assert "caches keys and secrets for five seconds" in page


def test_every_route_is_documented():
    """The guide or the operations page names each method and path that is served."""
    service = assembled(WatchedStore(WatchedMemory()), clock=ManualClock())
    app = make_application(service.dependencies)
    pages = (text_of("docs/guide.md") + text_of("docs/operations.md")).replace("/`", "`")

    served = {
        f"{route.method} {route.resource.canonical.rstrip('/')}"
        for route in app.router.routes()
        if route.method in {"GET", "POST"} and "/static" not in route.resource.canonical
    }

    assert len(served) > 8
    assert [] == sorted(route for route in served if f"`{route}`" not in pages)


def test_every_problem_is_documented():
    """The guide says of each kind of problem which status it has."""
    guide = text_of("docs/guide.md")

    missing = [
        name
        for status, name, _ in PROBLEMS.values()
        if f"| `{name}` | {int(status)} |" not in guide
    ]

    assert [] == missing


def test_every_outcome_and_reason_is_explained():
    """The receiver's page explains each outcome of an attempt, the guide each reason to be dead."""
    receiver, guide = text_of("docs/receiver.md"), text_of("docs/guide.md")

    assert [] == [outcome for outcome in OUTCOMES if f"| `{outcome}` |" not in receiver]
    assert [] == [reason for reason in REASONS if f"`{reason}` (" not in guide]


def test_every_check_of_a_receiver_is_explained():
    """The receiver's page explains each check by its name."""
    page = text_of("docs/receiver.md")

    assert [] == [one.name for one in CHECKS if f"`{one.name}`" not in page]


def test_every_header_and_answer_of_the_callback_is_explained():
    """The receiver's page has a row for each header that is sent and each answer that counts."""
    page = text_of("docs/receiver.md")
    rows = [one.name for one in INVOICE_NOTIFICATION.headers]
    rows += [one.statuses for one in INVOICE_NOTIFICATION.answers]
    rows += list(INVOICE_NOTIFICATION.request().fields)

    assert [] == [name for name in rows if f"\n| `{name}` |" not in page]


def test_every_log_event_is_explained():
    """The operations page explains each event that can stand in the log."""
    operations = text_of("docs/operations.md")
    logged = {
        name
        for path in MODULES
        for name in re.findall(r'"([a-z]+\.[a-z_]+)"', path.read_text(encoding="utf-8"))
        if re.search(rf'(?:log\.\w+\(\s*|name = |else )"{name}"', path.read_text(encoding="utf-8"))
    }
    # Not shown at any level that can be chosen.
    silent = {"request.unreadable"}

    assert "attempt.settled" in logged
    assert [] == sorted(name for name in logged - silent if f"`{name}`" not in operations)


def test_every_field_of_an_attempts_log_line_is_explained():
    """The operations page explains the one wide line, field by field."""
    (table,) = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(log_fields)))
        if isinstance(node, ast.Dict)
    ]
    operations = text_of("docs/operations.md")

    assert [] == [key.value for key in table.keys if f"`{key.value}`" not in operations]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_a_target(page):
    """A link to a file of the project has an existing target, and an existing heading."""
    for target in re.findall(r"\]\((?!https?:)([^)]*)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page

        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]
            assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_named_exist(page):
    """Every `invoices …` in the code of a page is a command, with options that it has."""
    wrong = []
    for line in re.findall(
        r"(?:`|^    (?:\$ )?(?:\S+/|\S+=\S+ )*)invoices ([a-z][^`\n#|]*)",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    ):
        # An image of this name runs the program of this name.
        command, words = main, line.removeprefix("invoices ").split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {name for one in command.params for name in one.opts}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if command is main or options - known - {"--help"}:
            wrong.append(line)

    assert [] == wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page):
    """`make NAME` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ |^ {4})make ([a-z-]+)", page.read_text(), re.MULTILINE))

    assert set() == named - targets


def test_readme_shows_the_declaration_as_it_is():
    """The expression in the README is the one that is called."""
    assert f'expression="{INVOICE_NOTIFICATION.expression}"' in text_of("README.md")


def test_picture_stays_small():
    """The picture in the README is smaller than 150 kB."""
    assert (ROOT / "docs/callbacks.png").stat().st_size < 150_000


def test_decisions_fit_on_a_screen():
    """A decision has at most 40 lines, with the refused options and a reason to reconsider it."""
    for path in (ROOT / "docs/decisions").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        parts = ("**Context.**", "**Decision.**", "**Refused.**", "**What would reopen it.**")

        assert len(text.splitlines()) <= 40, path.name
        assert [] == [part for part in parts if part not in text], path.name


def test_decisions_are_numbered():
    """Each decision has a number of its own, in its name and its title, and none is left out."""
    paths = sorted((ROOT / "docs/decisions").glob("*.md"))

    assert [*range(1, len(paths) + 1)] == [int(path.name[:4]) for path in paths]
    for path in paths:
        assert path.read_text(encoding="utf-8").startswith(f"# {int(path.name[:4])}. "), path.name


def test_printed_request_is_a_real_one():
    """The printed request has the headers that are sent, and its signature verifies."""
    (lines,) = re.findall(
        r"^    POST /invoices/2expen51ve HTTP/1.1\n(.*?)\n\n    (\{[^\n]*\})$",
        text_of("docs/receiver.md"),
        re.MULTILINE | re.DOTALL,
    )
    headers = dict(line.strip().split(": ", 1) for line in lines[0].splitlines())
    body = lines[1].encode()
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    names = {name.lower() for name in headers}

    assert str(len(body)) == headers["Content-Length"]
    signature = Webhook(DEV_SECRET).sign(headers["webhook-id"], at, body.decode())
    assert signature == headers["webhook-signature"]
    assert INVOICE_NOTIFICATION.render(INVOICE_NOTIFICATION.request_example) == body
    assert {one.name for one in INVOICE_NOTIFICATION.headers if one.is_required} <= names


def test_delays_and_limits_of_the_receivers_page_are_the_real_ones():
    """The page names the default schedule, the deadline, and the limits of an answer."""
    page = " ".join(text_of("docs/receiver.md").split())
    units = {"s": 1, "min": 60, "h": 3600}
    (listed,) = re.findall(r"The delays between attempts are (.*?), each", page)
    delays = [
        timedelta(seconds=int(number) * units[unit])
        for number, unit in re.findall(r"(\d+) (s|min|h)", listed)
    ]

    assert tuple(delays) == Settings().retry_schedule
    assert f"within {Settings().callback_timeout.total_seconds():g} seconds" in page
    assert f"longer than {ANSWER_LIMIT // 1024} KiB, compressed" in page
    limits = (HEAD_LIMIT // 1024, HEAD_LINE_LIMIT // 1024, HEAD_COUNT_LIMIT)
    sentence = "Its headers may take {} KiB, one of them {} KiB, and there may be {} of them."
    assert sentence.format(*limits) in page


def test_duration_of_a_run_is_documented():
    """The page says how long a run of checks lasts at most."""
    page = " ".join(text_of("docs/receiver.md").split())

    assert f"{RUN_SECONDS} seconds and one deadline" in page


@pytest.fixture
async def receiver(aiohttp_client):
    """The Python receiver of docs/receiver.md, as it is printed there."""
    with closing(PrintedReceiver()) as printed:
        yield await aiohttp_client(printed.app)


async def test_printed_receiver_processes_an_event_once(receiver, capsys):
    """The receiver of the page verifies, answers as declared, and recognises a repeated event."""
    body = INVOICE_NOTIFICATION.render(INVOICE_NOTIFICATION.request_example)
    headers = signed(body)

    for _ in range(2):
        answer = await receiver.post("/invoices/2expen51ve", data=body, headers=headers)

        assert 200 == answer.status
        assert INVOICE_NOTIFICATION.response_example == INVOICE_NOTIFICATION.read_answer(
            await answer.read()
        )
    assert "2expen51ve Invoice paid True\n" == capsys.readouterr().out


async def test_printed_receiver_conforms():
    """The receiver of the page passes every check of `invoices check-receiver`."""
    with closing(PrintedReceiver()) as printed:
        server = Server(printed.app)
        port = await server.start("127.0.0.1", 0)
        command = ["check-receiver", f"http://127.0.0.1:{port}"]
        ended = await asyncio.to_thread(CliRunner().invoke, main, command)
        await server.stop()

    assert 0 == ended.exit_code, ended.output


def test_first_receiver_is_short():
    """The receiver of the page has less than 40 lines."""
    assert len(printed_code().splitlines()) < 40


async def test_printed_receiver_refuses_a_forged_event(receiver, capsys):
    """A body that was not signed is neither acknowledged nor processed."""
    headers = signed(b'{"description":"Invoice paid","paid":false}')

    answer = await receiver.post("/invoices/2expen51ve", data=b"{}", headers=headers)

    assert 401 == answer.status
    assert "" == capsys.readouterr().out


async def test_printed_receiver_refuses_an_event_of_another_invoice(receiver, capsys):
    """A signed event that arrives at the path of another invoice is refused."""
    body = INVOICE_NOTIFICATION.render(INVOICE_NOTIFICATION.request_example)

    answer = await receiver.post("/invoices/2", data=body, headers=signed(body))

    assert (400, {"error": "the path has another invoice"}) == (answer.status, await answer.json())
    assert "" == capsys.readouterr().out


def signed(body):
    """The headers that the service sends with *body*, signed now."""
    now = datetime.now(UTC)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(DEV_SECRET).sign("msg_1", now, body.decode()),
    }
