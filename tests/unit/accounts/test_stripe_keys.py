"""The keys with which an account uses Stripe: how they are read, stored and replaced."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest
from click.testing import CliRunner

from service.__main__ import main
from service.accounts.encryption import SecretCipher, new_encryption_key
from service.accounts.stripe_keys import StripeKeyring, StripeKeys, parse_stripe_keys
from service.errors import ConfigurationError

KEY = new_encryption_key()
GIVEN = {"api_key": "rk_test_51Abc", "webhook_secrets": ["whsec_one", "whsec_two"]}
KEYS = StripeKeys("rk_test_51Abc", ("whsec_one", "whsec_two"))


@pytest.fixture
def run(monkeypatch, tmp_path, migrated):
    """Run `invoices accounts …` with something on standard input."""
    for name in [name for name in os.environ if name.startswith("INVOICES_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, given=None, key=KEY):
        text = given if isinstance(given, str) else json.dumps(given)
        environment = {"INVOICES_ENCRYPTION_KEY": key}
        return CliRunner().invoke(main, ["accounts", *arguments], input=text, env=environment)

    return invoke


def test_keys_are_read_from_standard_input(run, tmp_path):
    """`accounts stripe` prints where Stripe sends webhooks, and no key; the database has none."""
    account_id = json.loads(run("add", "acme", "--json").stdout)["account_id"]

    stored = run("stripe", "acme", "--json", given=GIVEN)

    url = f"http://127.0.0.1:8080/collectors/stripe/{account_id}"
    expected = {"name": "acme", "account_id": account_id, "webhook_url": url}
    assert expected == json.loads(stored.stdout)
    content = b"".join(path.read_bytes() for path in tmp_path.glob("invoices.db*"))
    secrets = ("rk_test_51Abc", "whsec_one", "whsec_two")
    assert [] == [one for one in secrets if one.encode() in content or one in stored.output]


def test_keys_replace_earlier_ones(run, tmp_path):
    """The keys of an account are those that were given last."""
    run("add", "acme")
    for given in (GIVEN, {"api_key": "rk_live_2", "webhook_secrets": []}):
        assert 0 == run("stripe", "acme", given=given).exit_code

    with sqlite3.connect(tmp_path / "invoices.db") as database:
        ((ciphertext,),) = database.execute("SELECT ciphertext FROM account_stripe_keys").fetchall()
    database.close()

    assert StripeKeys("rk_live_2", ()) == parse_stripe_keys(SecretCipher([KEY]).decrypt(ciphertext))


def test_a_missing_webhook_secret_is_reported(run):
    """Without a webhook secret, the output says how payments are found."""
    run("add", "acme")

    shown = run("stripe", "acme", given={**GIVEN, "webhook_secrets": []})

    assert "found by the poll alone" in shown.stdout


@pytest.mark.parametrize(
    "given",
    [
        "",
        "rk_test_51Abc",
        "null",
        "[]",
        {"api_key": "rk_test_51Abc"},
        {**GIVEN, "more": 1},
        {**GIVEN, "api_key": "pk_test_51Abc"},
        {**GIVEN, "api_key": None},
        {**GIVEN, "api_key": "rk_test_51Abc\n"},
        {**GIVEN, "webhook_secrets": "whsec_one"},
        {**GIVEN, "webhook_secrets": ["sec_one"]},
        {**GIVEN, "webhook_secrets": [1]},
        {**GIVEN, "webhook_secrets": ["whsec_a"] * 17},
        "x" * 100_000,
    ],
)
def test_other_input_is_wrong_usage(run, given):
    """What is no set of keys ends with 2 and one sentence, which quotes no key."""
    run("add", "acme")

    refused = run("stripe", "acme", given=given)

    assert 2 == refused.exit_code
    assert "51Abc" not in refused.output
    assert "whsec_one" not in refused.output


def test_an_unknown_account_is_reported(run):
    """Keys of an account that does not exist are not stored."""
    assert 1 == run("stripe", "nobody", given=GIVEN).exit_code


def test_another_encryption_key_stores_nothing(run):
    """Keys are not encrypted with a key that does not decrypt what is stored."""
    run("add", "acme")

    refused = run("stripe", "acme", given=GIVEN, key=new_encryption_key())

    assert 2 == refused.exit_code
    assert "was encrypted with another key" in refused.output


def test_a_repr_shows_no_key():
    """Keys do not appear where a value is logged."""
    assert "StripeKeys()" == repr(KEYS)


async def test_a_keyring_finds_the_keys_of_an_account(store, administration, cipher):
    """The keys of an account are decrypted; of one that has none, there are none."""
    added = await administration.add("acme")
    account_id = await administration.set_stripe_keys("acme", KEYS)
    keyring = StripeKeyring(store, cipher)

    assert added.account_id == account_id
    assert KEYS == await keyring.keys_of(account_id)
    assert await keyring.keys_of("acct_other") is None


async def test_keys_need_the_encryption_key(store, administration):
    """Without the encryption key, stored keys are an error and not missing."""
    await administration.add("acme")
    account_id = await administration.set_stripe_keys("acme", KEYS)

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY is not set"):
        await StripeKeyring(store, None).keys_of(account_id)
