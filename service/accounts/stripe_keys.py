"""The keys with which an account uses Stripe: parsed, decrypted and cached."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from service.accounts.cache import cached
from service.accounts.encryption import SecretCipher
from service.errors import ConfigurationError
from service.storage.store import Store

SECRETS_MAX = 16
"""Webhook secrets of one account; two are needed while one replaces the other."""

_API_KEY = re.compile(r"[rs]k_(live|test)_[A-Za-z0-9_]{1,480}", re.ASCII)
_WEBHOOK_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{1,480}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StripeKeys:
    """The API key of an account of Stripe, and the secrets that sign what Stripe sends."""

    api_key: str = field(repr=False)
    webhook_secrets: tuple[str, ...] = field(repr=False)


def parse_stripe_keys(text: str | bytes) -> StripeKeys:
    """
    The keys in a JSON object `{"api_key": "rk_…", "webhook_secrets": ["whsec_…"]}`.

    Raises:
        ValueError: with a sentence that quotes none of them, if they have another form.
    """
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict) or given.keys() != {"api_key", "webhook_secrets"}:
        raise ValueError('Expected JSON: {"api_key": "rk_…", "webhook_secrets": ["whsec_…"]}')
    return StripeKeys(_api_key(given), _webhook_secrets(given))


def _api_key(given: Mapping[str, Any]) -> str:
    api_key = given["api_key"]
    if not isinstance(api_key, str) or not _API_KEY.fullmatch(api_key):
        raise ValueError("api_key: expected a restricted key, rk_live_… or rk_test_….")
    return api_key


def _webhook_secrets(given: Mapping[str, Any]) -> tuple[str, ...]:
    secrets = given["webhook_secrets"]
    if not isinstance(secrets, list) or len(secrets) > SECRETS_MAX:
        raise ValueError(f"webhook_secrets: expected a list of up to {SECRETS_MAX}.")
    for number, secret in enumerate(secrets, start=1):
        if not isinstance(secret, str) or not _WEBHOOK_SECRET.fullmatch(secret):
            raise ValueError(f"webhook_secrets: number {number} is not of the form whsec_….")
    return tuple(secrets)


def encrypt_stripe_keys(keys: StripeKeys, cipher: SecretCipher) -> bytes:
    """*keys* as ciphertext, which may be stored."""
    content = {"api_key": keys.api_key, "webhook_secrets": keys.webhook_secrets}
    return cipher.encrypt(orjson.dumps(content).decode())


class StripeKeyring:
    """Finds the keys of an account; a replacement is noticed within seconds."""

    def __init__(self, store: Store, cipher: SecretCipher | None) -> None:
        self._store = store
        self._cipher = cipher
        self.keys_of = cached(self._read)
        """The keys of an account, or None; ConfigurationError if they cannot be decrypted."""

    async def _read(self, account_id: str) -> StripeKeys | None:
        ciphertext = await self._store.accounts.stripe_keys_of(account_id)
        if ciphertext is None:
            return None
        if self._cipher is None:
            raise ConfigurationError(
                "The database holds keys of Stripe, and INVOICES_ENCRYPTION_KEY is not set."
            )
        return parse_stripe_keys(self._cipher.decrypt(ciphertext))
