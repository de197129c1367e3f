"""
Where a POST comes from: only a page of this service may send one.

A browser says so in two headers that no page can change, `Sec-Fetch-Site` and `Origin`. The cookie
of the session is not sent across sites either; this does not depend on it, so that it protects
development mode too, where there is no cookie.
"""

from urllib.parse import urlsplit

from aiohttp import hdrs, web


def is_of_this_site(request: web.Request, public_url: str) -> bool:
    """
    Whether *request* was sent by a page of this service.

    A header that names another place refuses it; without `Sec-Fetch-Site` and `Origin`, as old
    browsers send it, the `Referer` must name this place; without any of them it is refused.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site != "same-origin":
        return False
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        return _is_own(origin, request, public_url)
    if site is not None:
        return True
    referer = request.headers.get(hdrs.REFERER, "")
    return _is_own(_origin_of(referer), request, public_url)


def _is_own(origin: str, request: web.Request, public_url: str) -> bool:
    """Whether *origin* is that of the public URL, or of the host that the request was sent to."""
    if not origin or origin == "null":
        return False
    if origin.lower() == _origin_of(public_url):
        return True
    host = request.headers.get(hdrs.HOST, "").lower()
    schemes = {urlsplit(public_url).scheme}
    if host.rpartition(":")[0] in _LOOPBACK or host in _LOOPBACK:
        # Past the proxy that speaks TLS, on the machine itself.
        schemes.add("http")
    return bool(host) and origin.lower() in {f"{one}://{host}" for one in schemes}


_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def _origin_of(url: str) -> str:
    try:
        parts = urlsplit(url.lower())
        port = parts.port
    except ValueError:
        return ""
    if not parts.scheme or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    is_default = port is None or (parts.scheme, port) in {("http", 80), ("https", 443)}
    return f"{parts.scheme}://{host}" if is_default else f"{parts.scheme}://{host}:{port}"
