"""`invoices why`: what it prints, and its exit status."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from service.cli.why import DELIVERIES_MAX, PAGES_MAX, lines_of
from service.storage.accounts import Account, Credentials
from service.storage.store import Store
from tests.clock import START
from tests.rows import ONE, SECOND, a_database, add_delivery, delivered, failed, lease_delivery

REFUSED = {
    "verdict": "refused",
    "sentence": "Your receiver refused the event.",
    "evidence": {
        "delivery_id": "msg_1",
        "attempt": {
            "number": 2,
            "started_at": "2026-01-31T12:00:00.000Z",
            "duration_ms": 12,
            "status_code": 500,
            "outcome": "refused",
            "detail": "the receiver answered 500",
            "response_body": "one\n\x1b[2Jtwo",
        },
    },
    "next": {"what": "attempt", "at": "2026-01-31T12:05:00.000Z"},
    "do": "Look at your log.",
}


async def fill(folder, account_ids=()):
    """A database with a delivered delivery of invoice 1, and a pending one of invoice 2."""
    async with a_database(folder) as database:
        store = Store(database)
        for id_ in account_ids:
            account = Account(id=id_, name=f"name of {id_}", created_at=START, disabled_at=None)
            await store.accounts.add(account, Credentials())
        owner = account_ids[0] if account_ids else "dev"
        await add_delivery(store, "1", account_id=owner, path="/a")
        await store.settle(delivered(await lease_delivery(store), at=START))
        await add_delivery(store, "2", account_id=owner, path="/b", at=START + SECOND)
        leased = await lease_delivery(store, now=START + SECOND)
        await store.settle(failed(leased, due_at=START.replace(year=2126)))


@pytest.fixture
def why(run_command, tmp_path):
    """Run the command on the database of this test."""

    def invoke(*arguments, **variables):
        url = f"sqlite:///{tmp_path}/invoices.db"
        return run_command("why", *arguments, **{"INVOICES_DATABASE_URL": url, **variables})

    return invoke


@pytest.fixture
def filled(tmp_path, migrated):
    """The database has the rows of development mode."""
    asyncio.run(fill(tmp_path))


# From the database


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("subject", ["2", "msg_2", ' "msg_2",', "webhook-id: msg_2", "'2'"])
def test_a_delivery_and_an_invoice_are_explained(why, subject):
    """The verdict comes first, then the evidence, what is next, and what to do."""
    done = why(subject)

    assert (0, "") == (done.exit_code, done.stderr)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("refused: Your receiver refused the event: it answered 500.")
    assert "  invoice id     2" in lines
    assert any(line.startswith("  next           An attempt is made, at 2126-") for line in lines)
    assert any(line.startswith("  do             ") for line in lines)


@pytest.mark.usefixtures("filled")
def test_json_is_that_of_the_api(why):
    """--json prints the document that the API answers."""
    told = json.loads(why("msg_2", "--json").stdout)

    assert {"verdict", "sentence", "evidence", "next", "do"} == told.keys()
    assert ("refused", "msg_2") == (told["verdict"], told["evidence"]["delivery_id"])


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("expected", "url"),
    [
        (["msg_1"], f"{ONE}/a"),
        (["msg_1"], f" '{ONE}/a' "),
        (["msg_2"], f"{ONE}/b/"),
        (["msg_2", "msg_1"], ONE),
        (["msg_2", "msg_1"], "https://one.example"),
        (["msg_2"], f"{ONE}/b/invoices/2"),
    ],
)
def test_the_newest_deliveries_to_a_url_are_explained(why, expected, url):
    """A callback URL, or the URL that is called, stands for its deliveries, newest first."""
    done = why(url, "--json")

    assert 0 == done.exit_code, done.stderr
    items = json.loads(done.stdout)["items"]
    assert expected == [one["evidence"]["delivery_id"] for one in items]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("expected", "subject"),
    [
        ("'9' is not the id of an invoice", "9"),
        ("'msg_9' is not the id of a delivery", "msg_9"),
        ("There is no delivery to https://two.example", "https://two.example"),
        ("There is no delivery to https://one.example/c", "https://one.example/c"),
    ],
)
def test_what_is_not_found_is_said(why, expected, subject):
    """An unknown id or URL ends with 1 and one sentence."""
    done = why(subject)

    assert (1, "") == (done.exit_code, done.stdout)
    assert expected in done.stderr


def test_a_missing_database_is_not_made(why, tmp_path):
    """Where there is no database, none is made, and the message says what to set."""
    done = why("1")

    assert 1 == done.exit_code
    assert "INVOICES_DATABASE_URL" in done.stderr
    assert not list(tmp_path.glob("invoices.db*"))


def test_an_account_is_named_where_there_are_several(why, tmp_path, migrated):
    """With one account it need not be named, with several it must be."""
    asyncio.run(fill(tmp_path, ["acct_a", "acct_b"]))

    assert 2 == why("2").exit_code
    assert 0 == why("2", "--account", "name of acct_a").exit_code
    assert 1 == why("2", "--account", "name of acct_b").exit_code
    unknown = why("2", "--account", "c")
    assert (1, "There is no account 'c'.\n") == (unknown.exit_code, unknown.stderr)
    assert 1 == why("2", "--account", "dev").exit_code


def test_the_only_account_is_meant(why, tmp_path, migrated):
    """With one account it need not be named."""
    asyncio.run(fill(tmp_path, ["acct_a"]))

    assert 0 == why("2").exit_code


# Over HTTP


@contextmanager
def serving(answers):
    """A service that answers by path; gives its URL and the requests that it gets."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, self.headers.get("Authorization")))
            status, body = answers(self.path)
            self.send_response(status)
            if status in {301, 307}:
                self.send_header("Location", body)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_):
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_service_is_asked_with_the_key(why):
    """--url and --key, or their variables, ask the service; ids are percent-encoded."""
    with serving(lambda path: (200, REFUSED)) as (url, requests):
        by_option = why("a/b c", "--url", url, "--key", "inv_x", "--json")
        by_variable = why("msg_1", INVOICES_API_URL=f"{url}/", INVOICES_API_KEY="inv_y")

    assert REFUSED == json.loads(by_option.stdout)
    assert by_variable.stdout.startswith("refused: Your receiver refused the event.\n")
    assert [
        ("/invoices/a%2Fb%20c/why", "Bearer inv_x"),
        ("/deliveries/msg_1/why", "Bearer inv_y"),
    ] == requests


def test_an_invoice_may_have_the_id_of_a_delivery(why):
    """An id like that of a delivery is looked for among the invoices too."""

    def answers(path):
        is_invoice = path.startswith("/invoices")
        return (200, REFUSED) if is_invoice else (404, {"detail": "There is no such delivery."})

    with serving(answers) as (url, requests):
        done = why("msg_1", "--url", url)

    assert 0 == done.exit_code
    assert [None, None] == [key for _, key in requests]


def test_pages_are_followed_to_the_newest_deliveries(why):
    """Deliveries to a URL are looked for page by page, up to a bound, and the newest explained."""

    def answers(path):
        if path.endswith("/why"):
            return 200, REFUSED
        page = int(parse_qs(urlsplit(path).query).get("after", ["0"])[0])
        items = [{"id": f"msg_{page}", "url": f"https://one.example/{page % 2}/invoices/1"}]
        return 200, {"items": items, "next": str(page + 1)}

    with serving(answers) as (url, requests):
        found = why("https://one.example/1", "--url", url, "--json")
        asked = [path for path, _ in requests if "/why" not in path]
        requests.clear()
        missing = why("https://one.example/2", "--url", url)

    assert DELIVERIES_MAX == len(json.loads(found.stdout)["items"])
    assert 2 * DELIVERIES_MAX == len(asked)
    assert "origin=https%3A%2F%2Fone.example%3A443" in asked[0]
    assert (1, PAGES_MAX) == (missing.exit_code, len(requests))


@pytest.mark.parametrize(
    ("expected", "status", "body"),
    [
        ("answered 401: No key. Give a key with --key", 401, {"detail": "No key."}),
        ("answered 500", 500, b"oops"),
        ("answered 429: Slowly.", 429, {"detail": "Slowly."}),
        ("did not answer JSON", 200, b"<html>"),
        ("answered 307", 307, "https://elsewhere.example"),
    ],
)
def test_a_failure_of_the_service_is_said(why, expected, status, body):
    """A refusal, an error or another server ends with 1 and one sentence; no redirect is taken."""
    with serving(lambda path: (status, body)) as (url, requests):
        done = why("1", "--url", url, "--key", "inv_x")

    assert (1, "") == (done.exit_code, done.stdout)
    assert expected in done.stderr
    assert 1 == len(requests)


def test_a_service_that_is_away_is_said(why):
    """Without a service at the URL, the command ends with 1 and says so."""
    with serving(lambda path: (200, REFUSED)) as (url, _):
        pass

    done = why("1", "--url", url)

    assert 1 == done.exit_code
    assert f"{url} cannot be asked" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("1", "--url", "ftp://a.example"),
        ("1", "--url", "https://a.example", "--account", "a"),
        ("1", "--key", "inv_x"),
        ("https://user@a.example", "--url", "https://a.example"),
    ],
)
def test_wrong_usage_is_said(why, arguments):
    """Options that do not go together, and URLs that are none, end with 2."""
    assert 2 == why(*arguments).exit_code


# What is printed


def test_what_others_have_written_is_printed_on_one_line():
    """The answer of a receiver stays on its line."""
    lines = list(lines_of(REFUSED))

    assert "refused: Your receiver refused the event." == lines[0]
    assert any("2 at 2026-01-31T12:00:00.000Z, 12 ms: refused 500" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_nothing_controls_the_terminal(why):
    """Control characters that a receiver has answered are replaced."""
    with serving(lambda path: (200, REFUSED)) as (url, _):
        printed = why("1", "--url", url).stdout

    assert "\x1b" not in printed
    assert "one \N{REPLACEMENT CHARACTER}[2Jtwo" in printed
