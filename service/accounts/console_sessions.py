"""
Signing in to the console: by the key of an account, or by a one-time link.

A token is 256 random bits. Only its SHA-256 is stored: a slow hash protects passwords that can be
guessed, and these cannot be.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256

from service.clock import Clock
from service.storage.console import ConsoleStore
from service.storage.sessions import Link, Session

LINK_LASTS = timedelta(minutes=10)
SESSION_LASTS = timedelta(hours=12)

TOKEN_BYTES = 32
TOKEN_CHARACTERS_MAX = 100
"""Longer texts are no token of ours, and are not hashed."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session: the token for the cookie, which is shown once, and whose it is."""

    token: str = field(repr=False)
    account_id: str | None


class ConsoleSessions:
    """
    Makes and finds sessions of the console.

    *authenticate* returns the account of an `Authorization` header, or raises Unauthorized.
    """

    def __init__(
        self,
        store: ConsoleStore,
        authenticate: Callable[[str | None], Awaitable[str]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._authenticate = authenticate
        self._clock = clock

    async def sign_in(self, key: str) -> SignedIn:
        """
        Begin a session of the account that *key* belongs to.

        Raises:
            Unauthorized: if it is not a valid key.
        """
        signed_in, session = self._new(await self._authenticate(f"Bearer {key}"))
        await self._store.add_session(session)
        return signed_in

    async def can_take(self, token: str) -> bool:
        """Whether *token* is that of a link which can be taken."""
        return await self._find_link(token) is not None

    async def take(self, token: str) -> SignedIn | None:
        """Exchange a link for a session; None if it was used, has expired, or never existed."""
        link = await self._find_link(token)
        if link is None:
            return None
        signed_in, session = self._new(link.account_id)
        return signed_in if await self._store.take_link(link, session) else None

    async def find(self, token: str) -> Session | None:
        """The session of a cookie, if it has not ended."""
        hash_ = _hash_of(token)
        return await self._store.find_session(hash_, self._clock.now()) if hash_ else None

    async def end(self, token: str) -> None:
        """End a session."""
        if hash_ := _hash_of(token):
            await self._store.end_session(hash_)

    async def _find_link(self, token: str) -> Link | None:
        hash_ = _hash_of(token)
        return await self._store.find_link(hash_, self._clock.now()) if hash_ else None

    def _new(self, account_id: str | None) -> tuple[SignedIn, Session]:
        token, now = secrets.token_urlsafe(TOKEN_BYTES), self._clock.now()
        session = Session(sha256(token.encode()).digest(), account_id, now, now + SESSION_LASTS)
        return SignedIn(token, account_id), session


async def new_link(store: ConsoleStore, account_id: str | None, clock: Clock) -> tuple[str, Link]:
    """
    A new one-time link: its token, which is shown once, and what is stored.

    It opens the console of an account; without *account_id*, of all of them.
    """
    token, now = secrets.token_urlsafe(TOKEN_BYTES), clock.now()
    link = Link(sha256(token.encode()).digest(), account_id, now + LINK_LASTS)
    await store.add_link(link, now)
    return token, link


def _hash_of(token: str) -> bytes | None:
    """The hash by which *token* is found; None for a text that is no token."""
    if not token or len(token) > TOKEN_CHARACTERS_MAX:
        return None
    # Bytes that are not UTF-8 arrive as lone surrogates.
    return sha256(token.encode(errors="surrogatepass")).digest()
