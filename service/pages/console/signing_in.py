"""
Signing in and out: with the key of an account, or with a one-time link; and the operator's choice.

A link is a page with a button: programs that look at mails, and browsers that load pages before
they are asked for, follow links and must not use it up.
"""

import re

from aiohttp import hdrs, web

from service.errors import Unauthorized
from service.pages.console.rendering import Pages
from service.pages.console.screens import Screens, form_of, redirect
from service.pages.console.visits import COOKIE, HOME, session_of, url_below
from service.pages.console.wiring import Console, SignedIn
from service.web.problems import CHALLENGE

SESSION_SECONDS = 12 * 3600
"""How long a browser keeps the cookie; what is stored ends by itself."""

KEY_CHARACTERS_MAX = 200

_BEHIND = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:@/?-]{1,1000}")
"""What may stand behind the path of the console, as a browser writes it."""

NO_SUCH_KEY = "This is not, or no longer, the key of an account."
NO_SUCH_LINK = (
    "This link was used already, or is older than ten minutes. The operator can make another one: "
    "invoices console-link."
)


class SigningIn:
    """The pages around a session."""

    def __init__(self, console: Console, pages: Pages, screens: Screens) -> None:
        self._console = console
        self._pages = pages
        self._screens = screens
        self._home = console.public_path + HOME

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The form for the key of an account."""
        if self._console.default_account_id is not None or await session_of(request, self._console):
            return redirect(self._behind(request.query.get("to", "")))
        return self._form(request.query.get("to", ""))

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Begin a session with a key."""
        self._screens.check_origin(request)
        form = await form_of(request)
        key, to = form.get("key", "").strip(), form.get("to", "")
        try:
            if len(key) > KEY_CHARACTERS_MAX:
                raise Unauthorized(NO_SUCH_KEY)
            signed_in = await self._console.sessions.sign_in(key)
        except Unauthorized:
            return self._form(to, error=NO_SUCH_KEY, status=401)
        return self._signed_in(signed_in, self._behind(to))

    async def show_link(self, request: web.Request) -> web.StreamResponse:
        """The button of a one-time link, which is not used up by looking at it."""
        if not await self._console.sessions.can_take(request.match_info["token"]):
            return self._screens.message("This link does not work any more", NO_SUCH_LINK, 404)
        return self._pages.page("link.html", {"title": "Sign in to the console"})

    async def take_link(self, request: web.Request) -> web.StreamResponse:
        """Exchange a one-time link for a session."""
        self._screens.check_origin(request)
        signed_in = await self._console.sessions.take(request.match_info["token"])
        if signed_in is None:
            return self._screens.message("This link does not work any more", NO_SUCH_LINK, 404)
        return self._signed_in(signed_in, url_below(self._home))

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """End the session."""
        self._screens.check_origin(request)
        if token := request.cookies.get(COOKIE):
            await self._console.sessions.end(token)
        response = redirect(url_below(self._home, "sign-in"))
        response.del_cookie(COOKIE, path=self._cookie_path)
        return response

    async def choose(self, request: web.Request) -> web.StreamResponse:
        """The accounts, for the operator to choose one of."""
        session = await session_of(request, self._console)
        if session is None or session.account_id is not None:
            return redirect(url_below(self._home))
        accounts = await self._console.store.accounts.list_all(self._console.clock.now())
        if self._console.default_account_id is not None:
            accounts.insert(0, _default(self._console.default_account_id))
        shown = [
            {**one, "url": url_below(self._home, account=one["id"])}
            for one in accounts[:ACCOUNTS_MAX]
        ]
        values = {"title": "Accounts", "accounts": shown, "count": len(accounts)}
        return self._pages.page("accounts.html", values)

    def _form(self, to: str, *, error: str = "", status: int = 200) -> web.Response:
        values = {"title": "Sign in to the console", "to": to, "error": error}
        headers: dict[str, str] = {}
        if status == 401:
            headers[hdrs.WWW_AUTHENTICATE] = CHALLENGE
        return self._pages.page("sign_in.html", values, status=status, headers=headers)

    def _behind(self, to: str) -> str:
        """The URL of the page *to*, which always is below the path of the console."""
        return f"{self._home}/{to}" if _BEHIND.fullmatch(to) else url_below(self._home)

    def _signed_in(self, signed_in: SignedIn, url: str) -> web.Response:
        response = redirect(url)
        response.set_cookie(
            COOKIE,
            signed_in.token,
            max_age=SESSION_SECONDS,
            path=self._cookie_path,
            secure=self._console.is_over_tls,
            httponly=True,
            samesite="Strict",
        )
        return response

    @property
    def _cookie_path(self) -> str:
        return self._console.public_path or "/"


ACCOUNTS_MAX = 1_000
"""Accounts that are listed; the address of another one can be typed."""


def _default(account_id: str) -> dict[str, object]:
    return {"id": account_id, "name": "development mode", "created_at": None, "disabled_at": None}
