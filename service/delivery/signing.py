"""
Signatures of Standard Webhooks 1.0, made by that project's own package.

During a rotation an account has several secrets. Every request is then signed with all of them,
and a receiver that knows one of them can verify it.
"""

import binascii
from base64 import b64decode
from datetime import UTC, datetime
from functools import lru_cache

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 -- the prefix of every secret, and no secret
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64


class Signer:
    """
    Makes the three `webhook-…` headers of a request.

    Raises:
        ValueError: there is no secret, or one is not `whsec_` and base64 of 24 to 64 bytes. The
            message never contains it.
    """

    __slots__ = ("_webhooks",)

    def __init__(self, secrets: tuple[str, ...]) -> None:
        if not secrets:
            raise ValueError("At least one signing secret is needed.")
        self._webhooks = tuple(_webhook(secret) for secret in secrets)

    def __repr__(self) -> str:
        return f"<Signer with {len(self._webhooks)} secrets>"

    def headers(self, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
        """
        Sign *body*, which is UTF-8, as sent at the aware instant *at*.

        Standard Webhooks, "Signature scheme": one `v1,…` for each secret, blanks between them.
        """
        # The package replaces the time zone of a datetime instead of converting the datetime.
        instant = at.astimezone(UTC)
        text = body.decode()
        signatures = [webhook.sign(webhook_id, instant, text) for webhook in self._webhooks]
        return {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(instant.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


# The secrets of an account are decoded once and not for each of its deliveries.
@lru_cache(maxsize=1024)
def _webhook(secret: str) -> Webhook:
    return Webhook(_key(secret))


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if encoded == secret or not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(
            f"A signing secret is {SECRET_PREFIX!r} followed by base64 of "
            f"{SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes."
        )
    return key
