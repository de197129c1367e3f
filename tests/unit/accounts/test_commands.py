"""`invoices accounts …` and `invoices encryption-key`: their output and exit status."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from service.accounts.api_keys import prefix_of
from service.accounts.encryption import SecretCipher, new_encryption_key
from service.database.sqlite_library import LIBRARY
from service.settings import parse_encryption_keys

KEY = new_encryption_key()
NAMES = ["acme", "a", "A.b_c-9", "0", "a" * 63]
NO_NAMES = ["", "-a", "--", ".a", "_a", "a b", "a/b", "é", "a\n", "a" * 64, "a;b", "*"]
ACTIONS = ["rotate-key", "rotate-secret", "disable"]


@pytest.fixture
def run(run_command):
    """Run a command on a database of this test, with an encryption key and nothing else set."""

    def invoke(*arguments, **variables):
        environment = {"INVOICES_ENCRYPTION_KEY": KEY, **variables}
        given = {name: value for name, value in environment.items() if value is not None}
        return run_command(*arguments, **given)

    return invoke


@pytest.fixture
def accounts(run, migrated):
    """Run a command of `accounts` successfully; returns its JSON output."""

    def invoke(*arguments, **variables):
        done = run("accounts", *arguments, "--json", **variables)
        assert 0 == done.exit_code, done.stderr
        assert "" == done.stderr
        return json.loads(done.stdout)

    return invoke


def expiries(folder, table):
    """The expiry of each row of *table*, oldest first."""
    with LIBRARY.connect(folder / "invoices.db") as database:
        rows = database.execute(f"SELECT expires_at FROM {table} ORDER BY created_at").fetchall()
    database.close()
    return [row[0] and datetime.fromtimestamp(row[0] / 1e6, UTC) for row in rows]


# Adding


def test_an_added_account_is_printed(run):
    """The output has name, id, key and secret, and says that they are shown only once."""
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


def test_an_added_account_is_available_as_json(accounts):
    """The JSON output has the same values, and nothing else is printed."""
    shown = accounts("add", "acme")

    assert {"name", "account_id", "key", "secret"} == set(shown)
    assert ("acme", True) == (shown["name"], bool(prefix_of(shown["key"])))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_letters_digits_and_some_signs_are_accepted(accounts, name):
    """A name has at most 63 characters, none of which needs quotes in a shell."""
    assert name == accounts("add", name)["name"]


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("action", ["add", *ACTIONS])
def test_an_invalid_name_is_wrong_usage(run, tmp_path, action, name):
    """An invalid name ends with exit status 2, and no database is created."""
    refusal = run("accounts", action, "--", name)

    assert 2 == refusal.exit_code
    assert "63 letters, digits, dots, hyphens and underscores" in refusal.stderr
    assert [] == list(tmp_path.iterdir())


def test_a_name_in_use_is_reported(run):
    """A second account with the same name ends with exit status 1, and prints no key."""
    run("accounts", "add", "acme")
    refusal = run("accounts", "add", "acme")

    assert (1, "") == (refusal.exit_code, refusal.stdout)
    assert "There is an account 'acme' already." in refusal.stderr


# Listing


def test_an_empty_list_names_the_command(run, accounts):
    """Without accounts the text has the command to add one, and the JSON is an empty list."""
    assert "invoices accounts add NAME" in run("accounts", "list").stdout
    assert [] == accounts("list")


def test_accounts_are_listed(run, accounts):
    """The list has name, id, date, and public prefixes or `disabled`; the JSON has the same."""
    acme, other = accounts("add", "acme"), accounts("add", "other")
    accounts("disable", "other")

    first, second = run("accounts", "list").stdout.splitlines()
    assert f"inv_{prefix_of(acme['key'])}_…" in first
    assert first.startswith(f"acme  {acme['account_id']}  since ")
    assert second.startswith(f"other  {other['account_id']}  since ")
    assert second.endswith("  disabled")

    one, two = accounts("list")
    assert {"id", "name", "created_at", "disabled_at", "email", "key_prefixes"} == set(one)
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
def test_the_overlap_limits_the_old_credential(accounts, tmp_path, new, hours, option, setting):
    """Only the new credential is printed; the overlap is the option, the setting or the default."""
    old = accounts("add", "acme")
    shown = accounts(f"rotate-{new}", "acme", *option, INVOICES_ROTATION_OVERLAP=setting)

    assert {new} == {name for name in ("key", "secret") if shown[name]}
    assert (old["account_id"], True) == (shown["account_id"], old[new] != shown[new])
    until, lasting = expiries(tmp_path, f"account_{new}s")
    assert None is lasting
    assert abs(until - datetime.now(UTC) - timedelta(hours=hours)) < timedelta(minutes=5)


@pytest.mark.parametrize("overlap", ["", "1", "soon", "-1s", "99999d"])
@pytest.mark.parametrize("action", ["rotate-key", "rotate-secret"])
def test_an_invalid_overlap_is_wrong_usage(run, accounts, tmp_path, action, overlap):
    """An invalid duration ends with exit status 2, and nothing is rotated."""
    accounts("add", "acme")
    refusal = run("accounts", action, "acme", f"--overlap={overlap}")

    assert (2, "") == (refusal.exit_code, refusal.stdout)
    assert "Invalid value for '--overlap'" in refusal.stderr
    assert [None] == expiries(tmp_path, "account_keys")


# Disabling


def test_a_disabled_account_is_reported(run, accounts):
    """Disabling prints that the account is disabled, and the same if it is repeated."""
    accounts("add", "acme")

    assert "acme is disabled.\n" == run("accounts", "disable", "acme").stdout
    assert {"name": "acme"} == accounts("disable", "acme")


def test_a_disabled_account_gets_no_key(run, accounts):
    """A new key for a disabled account ends with exit status 1, and prints no key."""
    accounts("add", "acme")
    accounts("disable", "acme")
    refusal = run("accounts", "rotate-key", "acme")

    assert (1, "") == (refusal.exit_code, refusal.stdout)
    assert "is disabled" in refusal.stderr


# Errors


@pytest.mark.parametrize("action", ACTIONS)
def test_an_unknown_name_is_reported(run, action):
    """An unknown name ends with exit status 1 and a message."""
    refusal = run("accounts", action, "none")

    assert (1, "") == (refusal.exit_code, refusal.stdout)
    assert "There is no account 'none'.\n" == refusal.stderr


@pytest.mark.parametrize("arguments", [["add", "acme"], ["list"], ["rotate-key", "acme"]])
def test_without_an_encryption_key_no_command_runs(run, tmp_path, arguments):
    """Without an encryption key a command ends with exit status 2, and creates no database."""
    server = {"INVOICES_DATABASE_URL": "postgresql://none@127.0.0.1:1/none"}
    refusal = run("accounts", *arguments, INVOICES_ENCRYPTION_KEY=None, **server)

    assert (2, "") == (refusal.exit_code, refusal.stdout)
    assert "Make a key with: invoices encryption-key" in refusal.stderr
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["add", "other"], ["rotate-secret", "acme"]])
def test_another_encryption_key_encrypts_nothing(run, accounts, arguments):
    """With another encryption key no secret is issued: the command ends with exit status 2."""
    accounts("add", "acme")
    before = accounts("list")
    other = new_encryption_key()
    refusal = run("accounts", *arguments, INVOICES_ENCRYPTION_KEY=other)

    assert (2, "") == (refusal.exit_code, refusal.stdout)
    assert "was encrypted with another key" in refusal.stderr
    assert [] == [key for key in (KEY, other) if key in refusal.stderr]
    assert before == accounts("list")


def test_a_replaced_encryption_key_is_set_beside_the_new_one(accounts):
    """With both keys set all commands work, and the first key encrypts new secrets."""
    new = new_encryption_key()
    accounts("add", "acme")

    assert accounts("rotate-secret", "acme", INVOICES_ENCRYPTION_KEY=f"{new},{KEY}")["secret"]
    assert accounts("rotate-secret", "acme", "--overlap=0s", INVOICES_ENCRYPTION_KEY=f"{new},{KEY}")
    # The secrets that the old key encrypted have expired now.
    assert accounts("rotate-secret", "acme", INVOICES_ENCRYPTION_KEY=new)["secret"]


def test_all_secrets_are_encrypted_anew(accounts, run, tmp_path):
    """After `re-encrypt`, the new key alone decrypts signing secrets, pay keys and Stripe keys."""
    new = new_encryption_key()
    accounts("add", "acme")
    old, both = SecretCipher([KEY]), {"INVOICES_ENCRYPTION_KEY": f"{new},{KEY}"}
    with LIBRARY.connect(tmp_path / "invoices.db") as database:
        for statement in (
            "INSERT INTO account_pay_keys VALUES ('acct_1', 'p', ?, 0)",
            "INSERT INTO account_stripe_keys VALUES ('acct_1', ?, 0)",
        ):
            database.execute(statement, [old.encrypt("secret")])
    database.close()
    assert 2 == run("accounts", "add", "other", INVOICES_ENCRYPTION_KEY=new).exit_code

    shown = run("accounts", "re-encrypt", **both)
    assert (0, "3 stored secrets are encrypted with the first key now.\n") == (
        shown.exit_code,
        shown.stdout,
    )
    assert {"count": 3} == accounts("re-encrypt", INVOICES_ENCRYPTION_KEY=new)
    assert accounts("add", "other", INVOICES_ENCRYPTION_KEY=new)["secret"]


def test_secrets_of_an_unknown_key_are_left_as_they_are(accounts, run):
    """Without the key that encrypted them, nothing is encrypted anew; the exit status is 2."""
    accounts("add", "acme")

    refusal = run("accounts", "re-encrypt", INVOICES_ENCRYPTION_KEY=new_encryption_key())
    assert (2, True) == (refusal.exit_code, "must name that key too" in refusal.stderr)
    assert accounts("add", "other")["secret"]


def test_the_documented_steps_after_a_lost_encryption_key_work(accounts, tmp_path):
    """After a lost encryption key, new secrets can be issued, and API keys stay valid."""
    before = accounts("add", "acme")
    with LIBRARY.connect(tmp_path / "invoices.db") as database:
        database.execute("DELETE FROM account_secrets")
    database.close()
    new = new_encryption_key()

    assert accounts("rotate-secret", "acme", INVOICES_ENCRYPTION_KEY=new)["secret"]
    (row,) = accounts("list", INVOICES_ENCRYPTION_KEY=new)
    assert [prefix_of(before["key"])] == row["key_prefixes"]


def test_a_wrong_encryption_key_is_reported_without_it(run):
    """An invalid encryption key ends with exit status 2, and is not printed."""
    broken = KEY[:-3] + "="
    refusal = run("accounts", "list", INVOICES_ENCRYPTION_KEY=f"{KEY},{broken}")

    assert 2 == refusal.exit_code
    assert "INVOICES_ENCRYPTION_KEY: key 2 is not 32 bytes" in refusal.stderr
    assert broken[:-1] not in refusal.stderr


@pytest.mark.parametrize("action", ["add", "list", "rotate-key", "rotate-secret", "disable"])
def test_every_action_has_a_help(run, action):
    """Each command has a help, which needs no setting."""
    shown = run("accounts", action, "--help", INVOICES_ENCRYPTION_KEY=None)

    assert (0, True) == (shown.exit_code, "--json" in shown.stdout)


# The encryption key


def test_a_new_encryption_key_is_printed(run, tmp_path):
    """The command prints a new key in one line, and creates no database."""
    first, second = (run("encryption-key", INVOICES_ENCRYPTION_KEY=None) for _ in range(2))

    assert (0, 0) == (first.exit_code, second.exit_code)
    assert 1 == len(parse_encryption_keys(first.stdout))
    assert f"{first.stdout.strip()}\n" == first.stdout != second.stdout
    assert [] == list(tmp_path.iterdir())


# Addresses


def emails(accounts):
    """The address of each account, by its name."""
    return {row["name"]: row["email"] for row in accounts("list")}


def test_an_account_may_have_an_address(accounts, run):
    """It is given with the account, changed later, removed again, and listed."""
    accounts("add", "acme", "--email", "ops@acme.example")
    accounts("add", "other")
    assert {"acme": "ops@acme.example", "other": None} == emails(accounts)
    assert run("accounts", "list").stdout.splitlines()[0].endswith("  ops@acme.example")

    changed = accounts("email", "other", "other@example.com")
    assert {"name": "other", "email": "other@example.com"} == changed
    assert {"name": "acme", "email": None} == accounts("email", "acme")

    assert {"acme": None, "other": "other@example.com"} == emails(accounts)


def test_a_change_of_an_address_is_printed(accounts, run):
    """The output says where notices go."""
    accounts("add", "acme")

    there, nowhere = (run("accounts", "email", "acme", *one) for one in (["a@example.com"], []))

    assert "Notices of acme go to a@example.com.\n" == there.stdout
    assert "acme gets no mails.\n" == nowhere.stdout


@pytest.mark.parametrize("email", ["", "a", "a@", "@b", "a@b\nc", "a b@example.com"])
def test_an_address_is_checked(run, email):
    """What is no address is a wrong usage, and nothing is stored."""
    for arguments in (("add", "acme", "--email", email), ("email", "acme", email)):
        done = run("accounts", *arguments)

        assert 2 == done.exit_code
        assert "this is not an e-mail address" in done.stderr


def test_an_unknown_account_has_no_address(run):
    """The name is checked before anything is stored."""
    done = run("accounts", "email", "nobody", "a@example.com")

    assert 1 == done.exit_code
    assert "There is no account 'nobody'." in done.stderr
