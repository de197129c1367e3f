"""What the console needs: one value, made by the composition root."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from service.clock import Clock
from service.domain.receivers import KnownReceiver
from service.storage.store import Store
from service.telemetry.metrics import Metrics


class SignedIn(Protocol):
    """A new session: the token for the cookie, and whose it is."""

    @property
    def token(self) -> str:
        """The token, which is not stored."""
        ...


class StoredSession(Protocol):
    """A session that has not ended."""

    @property
    def account_id(self) -> str | None:
        """Its account; None for the operator, who may choose any."""
        ...

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        ...


class Sessions(Protocol):
    """Signs people in and out; see `service.accounts.console_sessions`."""

    async def sign_in(self, key: str) -> SignedIn:
        """Begin a session with the key of an account; Unauthorized if it is not valid."""
        ...

    async def can_take(self, token: str) -> bool:
        """Whether a one-time link can be taken."""
        ...

    async def take(self, token: str) -> SignedIn | None:
        """Exchange a one-time link for a session; None if it cannot be taken."""
        ...

    async def find(self, token: str) -> StoredSession | None:
        """The session of a cookie, if it has not ended."""
        ...

    async def end(self, token: str) -> None:
        """End a session."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """
    What the pages of the console need.

    *default_account_id* is the account of development mode, in which nobody signs in. *public_url*
    is where browsers find the service, and *public_path* its path, which a proxy may remove.
    """

    store: Store
    sessions: Sessions
    limit: Callable[[str], None]
    """Counts one request of an account, or raises TooManyRequests."""
    turn: Callable[[str], AbstractAsyncContextManager[None]]
    """Waits for the turn of a read of an account; see `service.api.reads`."""
    pay_url_of: Callable[[str, str], Awaitable[str | None]]
    """The URL of the page on which an invoice is paid, by account and key."""
    origin_of: Callable[[str], str]
    """The origin of a callback URL as it is stored; ValueError with a reason."""
    loops: Callable[[], Mapping[str, bool]]
    """The loops of this process by name, and whether each runs."""
    is_mail_paused: Callable[[], bool]
    """Whether this process sends no mail until the operator changes something."""
    check_receiver: Callable[[str, str], Awaitable[dict[str, Any]]]
    """Runs the checks of a receiver, by account and URL; ValueError with a reason."""
    send_test: Callable[[str, KnownReceiver, str], Awaitable[str]]
    """Sends a receiver of an account a test event, for the request of an id; its delivery."""
    metrics: Metrics
    clock: Clock
    public_url: str
    public_path: str
    default_account_id: str | None
    streams_max: int = field(default=200)
    """How many pages may be live at once in this process."""

    @property
    def is_over_tls(self) -> bool:
        """Whether browsers speak TLS to the service."""
        return self.public_url.startswith("https:")
