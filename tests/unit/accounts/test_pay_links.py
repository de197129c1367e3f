import asyncio
import re

import pytest

from service.accounts.encryption import SecretCipher, new_encryption_key
from service.accounts.pay_links import PayLinks
from service.domain.ids import new_id
from service.errors import ConfigurationError
from service.storage.tables import account_pay_keys
from tests.clock import idle
from tests.rows import rows_of

URL = "https://invoices.example.com/billing"


@pytest.fixture
def memory(store):
    """The rows of the store."""
    return store._database


@pytest.fixture
def links(store, cipher, clock):
    """The pay links of production."""
    return PayLinks(store, cipher, clock, URL, dev_account_id=None)


def token_of(url):
    """The token at the end of a pay link."""
    return url.removeprefix(f"{URL}/pay/")


async def test_a_token_finds_its_invoice(links):
    """The token of a pay link finds the account and the key of the invoice, and of no other."""
    keys = [("one", new_id()), ("one", new_id()), ("two", new_id())]
    tokens = [token_of(await links.url_of(*key)) for key in keys]

    assert keys == [await links.find(token) for token in tokens]
    assert 3 == len(set(tokens))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{52}", token) for token in tokens)


async def test_the_token_of_an_invoice_never_changes(links, store, cipher, clock):
    """Every process makes the same token, so that a link in a mail stays valid."""
    key = new_id()
    another = PayLinks(store, cipher, clock, URL, dev_account_id=None)

    assert await links.url_of("one", key) == await another.url_of("one", key)


async def test_every_change_of_a_token_is_refused(links):
    """A token with one other character finds nothing, and so does one that is shorter or longer."""
    token = token_of(await links.url_of("one", new_id()))

    for position, character in enumerate(token):
        other = "A" if character != "A" else "B"
        assert None is await links.find(token[:position] + other + token[position + 1 :])
    for changed in ("", token[:-1], token + "A", token + "=", f" {token}", token + "é", "é" * 52):
        assert None is await links.find(changed)


async def test_a_token_of_another_account_is_not_valid(links):
    """Knowing the prefix of another account does not help: the key of that account is needed."""
    key = new_id()
    one, two = [token_of(await links.url_of(name, key)) for name in ("one", "two")]

    assert None is await links.find(two[:9] + one[9:])


async def test_a_stolen_database_makes_no_token(links, store, memory, clock):
    """The stored key cannot be read with another encryption key, and is not in the row."""
    url = await links.url_of("one", new_id())
    thief = PayLinks(store, SecretCipher([new_encryption_key()]), clock, URL, dev_account_id=None)

    with pytest.raises(ConfigurationError):
        await thief.url_of("one", new_id())
    (row,) = await rows_of(memory, account_pay_keys)
    assert token_of(url).encode() not in row["ciphertext"]


async def test_two_processes_agree_on_the_key(links, store, memory, cipher, clock):
    """Two processes that make the first link of an account at the same time store one key."""
    another = PayLinks(store, cipher, clock, URL, dev_account_id=None)
    key = new_id()
    memory.shut()
    making = [asyncio.create_task(one.url_of("one", key)) for one in (links, another)]
    await memory.reached()
    await idle()
    memory.open()

    assert 1 == len(set(await asyncio.gather(*making)))
    assert 1 == len(await rows_of(memory, account_pay_keys))


async def test_the_development_account_needs_no_key(store, clock):
    """In development the links of the account need no encryption; other accounts have none."""
    links = PayLinks(store, None, clock, URL, dev_account_id="dev")
    key = new_id()

    assert ("dev", key) == await links.find(token_of(await links.url_of("dev", key)))
    assert None is await links.url_of("other", key)


async def test_development_tokens_are_refused_in_production(links, store, clock):
    """The key of development is public: in production its tokens open nothing."""
    in_development = PayLinks(store, None, clock, URL, dev_account_id="dev")
    token = token_of(await in_development.url_of("dev", new_id()))

    assert None is await links.find(token)
