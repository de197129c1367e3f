"""
Who looks at a page: the account whose rows it shows, and how its links are written.

The operator may look at every account; which one is part of every URL, so that two of them can be
open beside each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlencode

from aiohttp import web

from service.errors import NotFound
from service.pages.console.wiring import Console, StoredSession

COOKIE = "invoices_console"
HOME = "/console"

ACCOUNT = "account"
"""The query parameter with the account that the operator looks at."""


class Elsewhere(Exception):
    """Another page comes first, or instead."""


class NotSignedIn(Elsewhere):
    """The page needs somebody who is signed in."""


class NoAccountChosen(Elsewhere):
    """The operator has to choose an account first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """
    A request for a page, on behalf of an account.

    *expires_at* is when the session ends; None where nobody has to sign in.
    """

    account_id: str
    is_operator: bool
    expires_at: datetime | None
    home: str
    """The path of the console, below that of the public URL."""
    query: Mapping[str, str]
    now: datetime

    def url(self, *path: str, **query: str | None) -> str:
        """The URL of a page of the console; parameters that are None or empty are left out."""
        if self.is_operator:
            query[ACCOUNT] = self.account_id
        return url_below(self.home, *path, **query)


def url_below(home: str, *path: str, **query: str | None) -> str:
    """The URL of the page at *path*, whose parts may have any characters, with *query*."""
    parts = "/".join([home, *(quote(one, safe="") for one in path)])
    given = {name: one for name, one in query.items() if one}
    if not path:
        parts += "/"
    return f"{parts}?{urlencode(given, errors='replace')}" if given else parts


async def visit_of(request: web.Request, console: Console) -> Visit:
    """
    The visit that *request* is.

    Raises:
        NotSignedIn: if there is no session, or it has ended.
        NoAccountChosen: if the operator has named no account.
        NotFound: if the operator has named one that does not exist.
    """
    session = await session_of(request, console)
    account_id = session.account_id if session else console.default_account_id
    if session and session.account_id is None:
        account_id = await _chosen(request, console)
    if account_id is None:
        raise NotSignedIn
    return Visit(
        account_id=account_id,
        is_operator=bool(session and session.account_id is None),
        expires_at=session.expires_at if session else None,
        home=console.public_path + HOME,
        query=request.query,
        now=console.clock.now(),
    )


async def session_of(request: web.Request, console: Console) -> StoredSession | None:
    """The session of *request*, if it has one that has not ended."""
    token = request.cookies.get(COOKIE)
    return await console.sessions.find(token) if token else None


async def _chosen(request: web.Request, console: Console) -> str:
    account_id = request.query.get(ACCOUNT)
    if not account_id:
        raise NoAccountChosen
    is_default = account_id == console.default_account_id
    if not is_default and not await console.store.console.is_account(account_id):
        raise NotFound(f"There is no account {account_id!r}.")
    return account_id
