"""
Pay links: the URLs of the pages on which customers see and pay invoices.

A token is the public prefix of its account, the key of the invoice, and an HMAC of both under the
pay key of the account. The pay key is stored encrypted, like the signing secrets, so that a person
who has the database alone can make no token. Nothing has to be stored for an invoice.
"""

import binascii
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

from service.accounts.cache import cached
from service.accounts.encryption import SecretCipher
from service.clock import Clock
from service.storage.accounts import PayKey
from service.storage.store import Store

PREFIX_BYTES = 7
INVOICE_KEY_BYTES = 16
MAC_BYTES = 16
TOKEN_BYTES = PREFIX_BYTES + INVOICE_KEY_BYTES + MAC_BYTES
"""A multiple of three, so that a token has one form in base64 only."""

KEY_BYTES = 32

DEV_KEY = b"invoices-development-pay-key-only"
"""The pay key of the account of development mode. It is public, as everything of that account."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A decrypted pay key."""

    account_id: str
    prefix: bytes
    key: bytes = field(repr=False)


class PayLinks:
    """
    Makes the pay links of invoices, and finds the invoice of a token.

    *dev_account_id* is the account of development mode, whose pay key is public. Without *cipher*,
    no other account has pay links.
    """

    def __init__(
        self,
        store: Store,
        cipher: SecretCipher | None,
        clock: Clock,
        public_url: str,
        *,
        dev_account_id: str | None,
    ) -> None:
        self._store = store
        self._cipher = cipher
        self._clock = clock
        self._public_url = public_url
        self._dev_key = (
            _Key(dev_account_id, bytes(PREFIX_BYTES), DEV_KEY) if dev_account_id else None
        )
        self._key_of = cached(self._read_or_make)
        self._key_with = cached(self._read)

    async def url_of(self, account_id: str, invoice_key: str) -> str | None:
        """The URL of the page of an invoice; None if its account can have no pay key."""
        key = await self._key_of(account_id)
        return f"{self._public_url}/pay/{_token(key, invoice_key)}" if key else None

    async def find(self, token: str) -> tuple[str, str] | None:
        """The account and the key of the invoice for which *token* was made; None if none was."""
        try:
            raw = urlsafe_b64decode(token)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != TOKEN_BYTES:
            return None
        key = await self._key_with(raw[:PREFIX_BYTES])
        invoice_key = raw[PREFIX_BYTES:-MAC_BYTES].hex()
        if key is None or not hmac.compare_digest(_token(key, invoice_key), token):
            return None
        return key.account_id, invoice_key

    async def _read_or_make(self, account_id: str) -> _Key | None:
        if self._dev_key and self._dev_key.account_id == account_id:
            return self._dev_key
        if self._cipher is None:
            return None
        stored = await self._store.accounts.find_pay_key(account_id)
        if stored is None:
            prefix, key = secrets.token_hex(PREFIX_BYTES), secrets.token_hex(KEY_BYTES)
            new = PayKey(account_id, prefix, self._cipher.encrypt(key))
            stored = await self._store.accounts.add_pay_key(new, self._clock.now())
        return self._decrypted(stored)

    async def _read(self, prefix: bytes) -> _Key | None:
        if self._dev_key and self._dev_key.prefix == prefix:
            return self._dev_key
        stored = await self._store.accounts.find_pay_key_by_prefix(prefix.hex())
        return self._decrypted(stored) if stored else None

    def _decrypted(self, stored: PayKey) -> _Key | None:
        if self._cipher is None:
            return None
        key = bytes.fromhex(self._cipher.decrypt(stored.ciphertext))
        return _Key(stored.account_id, bytes.fromhex(stored.prefix), key)


def _token(key: _Key, invoice_key: str) -> str:
    content = key.prefix + bytes.fromhex(invoice_key)
    mac = hmac.digest(key.key, b"pay" + content, "sha256")[:MAC_BYTES]
    return urlsafe_b64encode(content + mac).decode()
