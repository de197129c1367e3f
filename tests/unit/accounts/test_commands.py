"""`invoices accounts …` and `invoices encryption-key`: what they print, and how they end."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from service.__main__ import main
from service.accounts.api_keys import prefix_of
from service.accounts.encryption import new_encryption_key
from service.settings import parse_encryption_keys

KEY = new_encryption_key()
NAMES = ["acme", "a", "A.b_c-9", "0", "a" * 63]
NO_NAMES = ["", "-a", "--", ".a", "_a", "a b", "a/b", "é", "a\n", "a" * 64, "a;b", "*"]
ACTIONS = ["rotate-key", "rotate-secret", "disable"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a command on a database of this test, with an encryption key and nothing else set."""
    for name in [name for name in os.environ if name.startswith("INVOICES_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, **variables):
        environment = {"INVOICES_ENCRYPTION_KEY": KEY, **variables}
        given = {name: value for name, value in environment.items() if value is not None}
        return CliRunner().invoke(main, arguments, env=given)

    return invoke


@pytest.fixture
def accounts(run):
    """Run a command about accounts to a good end; what it printed as JSON."""

    def invoke(*arguments, **variables):
        done = run("accounts", *arguments, "--json", **variables)
        assert 0 == done.exit_code, done.stderr
        assert "" == done.stderr
        return json.loads(done.stdout)

    return invoke


def expiries(folder, table):
    """When each row of *table* expires, oldest first."""
    with sqlite3.connect(folder / "invoices.db") as database:
        rows = database.execute(f"SELECT expires_at FROM {table} ORDER BY created_at").fetchall()
    database.close()
    return [row[0] and datetime.fromtimestamp(row[0] / 1e6, UTC) for row in rows]


# Adding


def test_an_added_account_is_printed_once(run):
    """A person reads name, id, key and secret, and that this is the only time."""
    shown = run("accounts", "add", "acme")

    assert 0 == shown.exit_code
    assert re.match(r"acme  acct_[0-9a-f]{32}\n", shown.stdout)
    (key,) = re.findall(r"  key     (\S+)\n", shown.stdout)
    (secret,) = re.findall(r"  secret  (whsec_\S+)\n", shown.stdout)
    assert "not shown again" in shown.stdout
    assert prefix_of(key)

    listed = run("accounts", "list").stdout + run("accounts", "list", "--json").stdout
    assert prefix_of(key) in listed
    assert [] == [one for one in (key, key[13:], secret) if one in listed]


def test_an_added_account_can_be_had_as_json(accounts):
    """Programs read the same, and nothing else is printed."""
    shown = accounts("add", "acme")

    assert {"name", "account_id", "key", "secret"} == set(shown)
    assert ("acme", True) == (shown["name"], bool(prefix_of(shown["key"])))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_letters_digits_and_a_few_signs_are_taken(accounts, name):
    """A name may be what a shell needs no quotes for, 63 characters at most."""
    assert name == accounts("add", name)["name"]


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("action", ["add", *ACTIONS])
def test_what_cannot_be_a_name_is_wrong_usage(run, tmp_path, action, name):
    """Any other name ends with 2, and no database is made."""
    refusal = run("accounts", action, "--", name)

    assert 2 == refusal.exit_code
    assert "63 letters, digits, dots, hyphens and underscores" in refusal.stderr
    assert [] == list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_reported(run):
    """A second account of the name ends with 1, and shows no key."""
    run("accounts", "add", "acme")
    refusal = run("accounts", "add", "acme")

    assert (1, "") == (refusal.exit_code, refusal.stdout)
    assert "There is an account 'acme' already." in refusal.stderr


# Listing


def test_an_empty_list_says_how_to_begin(run, accounts):
    """Where there is no account, a person reads the command, and a program an empty list."""
    assert "invoices accounts add NAME" in run("accounts", "list").stdout
    assert [] == accounts("list")


def test_accounts_are_listed(run, accounts):
    """Name, id, date and public prefixes, or that it is disabled; the same as JSON."""
    acme, other = accounts("add", "acme"), accounts("add", "other")
    accounts("disable", "other")

    first, second = run("accounts", "list").stdout.splitlines()
    assert f"inv_{prefix_of(acme['key'])}_…" in first
    assert first.startswith(f"acme  {acme['account_id']}  since ")
    assert second.startswith(f"other  {other['account_id']}  since ")
    assert second.endswith("  disabled")

    one, two = accounts("list")
    assert {"id", "name", "created_at", "disabled_at", "key_prefixes"} == set(one)
    assert (None, [prefix_of(acme["key"])]) == (one["disabled_at"], one["key_prefixes"])
    assert datetime.fromisoformat(two["disabled_at"]) <= datetime.now(UTC)


# Rotating


@pytest.mark.parametrize("new", ["key", "secret"])
@pytest.mark.parametrize(
    ("hours", "option", "setting"),
    [
        (24, [], None),
        (2, [], "2h"),
        (1, ["--overlap", "1h"], "2h"),
        (0, ["--overlap", "0s"], None),
    ],
)
def test_the_old_one_lives_for_the_overlap(accounts, tmp_path, new, hours, option, setting):
    """Only what is new is printed; option, setting or default say how long the old one is valid."""
    old = accounts("add", "acme")
    shown = accounts(f"rotate-{new}", "acme", *option, INVOICES_ROTATION_OVERLAP=setting)

    assert {new} == {name for name in ("key", "secret") if shown[name]}
    assert (old["account_id"], True) == (shown["account_id"], old[new] != shown[new])
    until, lasting = expiries(tmp_path, f"account_{new}s")
    assert None is lasting
    assert abs(until - datetime.now(UTC) - timedelta(hours=hours)) < timedelta(minutes=5)


@pytest.mark.parametrize("overlap", ["", "1", "soon", "-1s", "99999d"])
@pytest.mark.parametrize("action", ["rotate-key", "rotate-secret"])
def test_what_is_no_overlap_is_wrong_usage(run, accounts, tmp_path, action, overlap):
    """A duration without its unit ends with 2, and nothing is rotated."""
    accounts("add", "acme")
    refusal = run("accounts", action, "acme", f"--overlap={overlap}")

    assert (2, "") == (refusal.exit_code, refusal.stdout)
    assert "Invalid value for '--overlap'" in refusal.stderr
    assert [None] == expiries(tmp_path, "account_keys")


# Disabling


def test_a_disabled_account_is_reported(run, accounts):
    """Disabling says so, again if it is repeated, and shows nothing else."""
    accounts("add", "acme")

    assert "acme is disabled.\n" == run("accounts", "disable", "acme").stdout
    assert {"name": "acme"} == accounts("disable", "acme")


def test_a_disabled_account_gets_no_key(run, accounts):
    """A new key for a disabled account is refused: it ends with 1 and prints none."""
    accounts("add", "acme")
    accounts("disable", "acme")
    refusal = run("accounts", "rotate-key", "acme")

    assert (1, "") == (refusal.exit_code, refusal.stdout)
    assert "is disabled" in refusal.stderr


# What is wrong


@pytest.mark.parametrize("action", ACTIONS)
def test_an_unknown_name_is_reported(run, action):
    """A name that no account has ends with 1 and a sentence."""
    refusal = run("accounts", action, "none")

    assert (1, "") == (refusal.exit_code, refusal.stdout)
    assert "There is no account 'none'.\n" == refusal.stderr


@pytest.mark.parametrize("arguments", [["add", "acme"], ["list"], ["rotate-key", "acme"]])
def test_without_an_encryption_key_nothing_is_administered(run, tmp_path, arguments):
    """It ends with 2, says how to make a key, and makes no database."""
    server = {"INVOICES_DATABASE_URL": "postgresql://none@127.0.0.1:1/none"}
    refusal = run("accounts", *arguments, INVOICES_ENCRYPTION_KEY=None, **server)

    assert (2, "") == (refusal.exit_code, refusal.stdout)
    assert "Make a key with: invoices encryption-key" in refusal.stderr
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["add", "other"], ["rotate-secret", "acme"]])
def test_another_encryption_key_encrypts_nothing(run, accounts, arguments):
    """A secret that the service could not read is not made: it ends with 2 and clear words."""
    accounts("add", "acme")
    before = accounts("list")
    other = new_encryption_key()
    refusal = run("accounts", *arguments, INVOICES_ENCRYPTION_KEY=other)

    assert (2, "") == (refusal.exit_code, refusal.stdout)
    assert "was encrypted with another key" in refusal.stderr
    assert [] == [key for key in (KEY, other) if key in refusal.stderr]
    assert before == accounts("list")


def test_a_key_that_replaces_another_is_named_beside_it(accounts):
    """With both keys everything works; the first is the one that encrypts from now on."""
    new = new_encryption_key()
    accounts("add", "acme")

    assert accounts("rotate-secret", "acme", INVOICES_ENCRYPTION_KEY=f"{new},{KEY}")["secret"]
    assert accounts("rotate-secret", "acme", "--overlap=0s", INVOICES_ENCRYPTION_KEY=f"{new},{KEY}")
    # What was encrypted with the old one alone has expired by now.
    assert accounts("rotate-secret", "acme", INVOICES_ENCRYPTION_KEY=new)["secret"]


def test_a_lost_encryption_key_is_survived_as_the_docs_say(accounts, tmp_path):
    """Without the old secrets, new ones are made with a new key, and keys go on working."""
    before = accounts("add", "acme")
    with sqlite3.connect(tmp_path / "invoices.db") as database:
        database.execute("DELETE FROM account_secrets")
    database.close()
    new = new_encryption_key()

    assert accounts("rotate-secret", "acme", INVOICES_ENCRYPTION_KEY=new)["secret"]
    (row,) = accounts("list", INVOICES_ENCRYPTION_KEY=new)
    assert [prefix_of(before["key"])] == row["key_prefixes"]


def test_a_wrong_encryption_key_is_reported_without_it(run):
    """A mistyped key ends with 2, and is not repeated on the screen."""
    broken = KEY[:-3] + "="
    refusal = run("accounts", "list", INVOICES_ENCRYPTION_KEY=f"{KEY},{broken}")

    assert 2 == refusal.exit_code
    assert "INVOICES_ENCRYPTION_KEY: key 2 is not 32 bytes" in refusal.stderr
    assert broken[:-1] not in refusal.stderr


@pytest.mark.parametrize("action", ["add", "list", "rotate-key", "rotate-secret", "disable"])
def test_every_action_explains_itself(run, action):
    """Each has a help, without anything being set."""
    shown = run("accounts", action, "--help", INVOICES_ENCRYPTION_KEY=None)

    assert (0, True) == (shown.exit_code, "--json" in shown.stdout)


# The encryption key


def test_a_new_encryption_key_is_printed(run, tmp_path):
    """One line that can be set as it is, another one each time, and no database is touched."""
    first, second = (run("encryption-key", INVOICES_ENCRYPTION_KEY=None) for _ in range(2))

    assert (0, 0) == (first.exit_code, second.exit_code)
    assert 1 == len(parse_encryption_keys(first.stdout))
    assert f"{first.stdout.strip()}\n" == first.stdout != second.stdout
    assert [] == list(tmp_path.iterdir())
