"""`invoices console-link`: its output and exit status."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from service.accounts.encryption import new_encryption_key
from service.database.sqlite_library import LIBRARY

KEY = new_encryption_key()
PUBLIC_URL = "https://example.com/billing"


@pytest.fixture
def account(run_command, migrated):
    """An account of the name `acme`."""
    done = run_command("accounts", "add", "acme", "--json", INVOICES_ENCRYPTION_KEY=KEY)
    return json.loads(done.stdout)["account_id"]


@pytest.fixture
def links(tmp_path):
    """Reads the stored links: hash and account."""

    def read():
        with LIBRARY.connect(tmp_path / "invoices.db") as database:
            rows = database.execute("SELECT hash, account_id FROM console_links").fetchall()
        database.close()
        return rows

    return read


def test_the_link_is_printed_alone(run_command, account, links):
    """A program can use the output as it is; it needs no encryption key."""
    done = run_command("console-link", "acme", INVOICES_PUBLIC_URL=PUBLIC_URL)

    assert (0, "") == (done.exit_code, done.stderr)
    found = re.fullmatch(rf"{PUBLIC_URL}/console/link/([A-Za-z0-9_-]{{43}})\n", done.stdout)
    assert found
    assert [(sha256(found[1].encode()).digest(), account)] == links()


def test_the_link_of_the_operator_names_no_account(run_command, account, links):
    """`--operator` makes a link to every account; every link is another one."""
    first, second = (run_command("console-link", "--operator") for _ in range(2))

    assert (0, 0) == (first.exit_code, second.exit_code)
    assert first.stdout != second.stdout
    assert [None, None] == [account_id for _, account_id in links()]


def test_the_result_can_be_had_as_json(run_command, account):
    """The JSON has the URL, the name, and when the link expires."""
    printed = json.loads(run_command("console-link", "acme", "--json").stdout)

    assert {"url", "name", "expires_at"} == printed.keys()
    left = datetime.fromisoformat(printed["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "Give the NAME of an account, or --operator."),
        (("acme", "--operator"), 2, "Give the NAME of an account, or --operator."),
        (("other",), 1, "There is no account 'other'."),
    ],
)
def test_a_mistake_is_said(run_command, account, links, arguments, status, words):
    """Without an account that exists nothing is stored."""
    done = run_command("console-link", *arguments)

    assert (status, "") == (done.exit_code, done.stdout)
    assert words in done.stderr
    assert [] == links()


def test_a_disabled_account_has_no_link(run_command, account):
    """Nobody can sign in to it."""
    run_command("accounts", "disable", "acme", INVOICES_ENCRYPTION_KEY=KEY)
    done = run_command("console-link", "acme")

    assert 1 == done.exit_code
    assert "is disabled" in done.stderr
