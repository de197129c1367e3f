"""JSON responses, and the headers that every response has."""

from collections.abc import Mapping

import orjson
from aiohttp import hdrs, web
from multidict import istr


class PlainResponse(web.Response):
    """
    A response with a body in bytes, and with no other headers than its caller gives it.

    Its status is one that has a body. Nothing changes how it is sent, but for `force_close`.
    """


def json_response(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> PlainResponse:
    """*document* as JSON in UTF-8."""
    return raw_json_response(orjson.dumps(document), status=status, headers=headers)


def raw_json_response(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> PlainResponse:
    """*body*, which is JSON in UTF-8 already."""
    return PlainResponse(body=body, status=status, headers={**_JSON, **(headers or {})})


def json_head_response() -> web.StreamResponse:
    """The answer to HEAD where GET answers JSON: without `Content-Length`, which is not known."""
    return web.StreamResponse(headers=_JSON)


_JSON: Mapping[str, str] = {hdrs.CONTENT_TYPE: "application/json; charset=utf-8"}


# The lower case of an `istr`, by which headers are found, is made once.
_COMMON_HEADERS = {
    hdrs.SERVER: "invoices",
    istr("X-Content-Type-Options"): "nosniff",
    istr("X-Frame-Options"): "DENY",
    istr("Referrer-Policy"): "no-referrer",
    istr("Cross-Origin-Opener-Policy"): "same-origin",
    istr("Cross-Origin-Resource-Policy"): "same-origin",
}

_CONTENT_POLICY = istr("Content-Security-Policy")

_NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of responses that are not pages, if a browser renders one."""


def add_common_headers(response: web.StreamResponse) -> None:
    """Add the headers that every response has."""
    headers = response.headers
    headers.update(_COMMON_HEADERS)
    # The pages of the documentation have a policy of their own.
    headers.setdefault(_CONTENT_POLICY, _NO_CONTENT_POLICY)
    # Only the files of the documentation page have set another value.
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
