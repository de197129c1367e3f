"""
Asks a running service over HTTP, as an API user.

The key is sent to the given URL and nowhere else: redirects are not followed.
"""

import http.client
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import orjson

from service.errors import InvoicesError, NotFound

TIMEOUT_SECONDS = 30

ANSWER_BYTES = 4 * 2**20
"""Twice as much as the longest answer has."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ApiFailed(InvoicesError):
    """The service could not be asked, or did not answer as it should."""


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        """Follow none."""


class ApiClient:
    """Asks the service at *base*, http(s)://, with *key*; without one, as in development mode."""

    def __init__(self, base: str, key: str = "") -> None:
        self._base = base.rstrip("/")
        self._headers = {"Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        handlers = [_NoRedirects()]
        if urlsplit(base).hostname in LOOPBACK:
            # Without the proxy of the environment: the service is on this machine.
            handlers.append(ProxyHandler({}))  # type: ignore[arg-type]
        self._opener = build_opener(*handlers)

    def get(self, *path: str, **query: str) -> dict[str, Any]:
        """
        The JSON at *path*, whose parts are percent-encoded.

        Raises:
            NotFound: if the account has nothing there.
            ApiFailed: if it is not answered, or refused.
        """
        url = "/".join([self._base, *(quote(part, safe="") for part in path)])
        if query:
            url = f"{url}?{urlencode(query)}"
        request = Request(url, headers=self._headers)  # noqa: S310 -- the scheme was checked
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return self._read(answer.read(ANSWER_BYTES))
        except HTTPError as error:
            raise self._refusal(error) from None
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ApiFailed(f"{self._base} cannot be asked: {reason}") from None

    def _read(self, body: bytes) -> dict[str, Any]:
        try:
            read: dict[str, Any] = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ApiFailed(f"{self._base} did not answer JSON: is it this service?") from None
        return read

    def _refusal(self, error: HTTPError) -> InvoicesError:
        try:
            detail = orjson.loads(error.read(ANSWER_BYTES))["detail"]
        except (OSError, ValueError, TypeError, KeyError):
            detail = error.reason
        if error.code == HTTPStatus.NOT_FOUND:
            return NotFound(str(detail))
        if error.code == HTTPStatus.UNAUTHORIZED:
            detail = f"{detail} Give a key with --key or INVOICES_API_KEY."
        return ApiFailed(f"{self._base} answered {error.code}: {detail}")
