"""
The documentation of the running service, at /api/docs; it loads nothing from other servers.

A Content-Security-Policy enforces that in the browser: it allows files of this service, and inline
scripts and styles by their hash.

The page is our own; the program and the basic style of Swagger UI come from the package
swagger-ui-py.
"""

import asyncio
import gzip
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache, partial
from hashlib import sha256
from html import escape
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import orjson
from aiohttp import ETag, hdrs, web

from service.api.operations import PROBLEM_DESCRIPTIONS, other_form
from service.errors import ConfigurationError, Conflict, FieldError, InvalidInput
from service.web.problems import DOCS_PATH as PREFIX
from service.web.problems import PROBLEMS, UNAVAILABLE

CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The default of every page: it may not load anything, send forms, or be framed."""

CONFLICT = (
    "The request contradicts what is stored: its id or its key was used with other content, or the "
    "state of the invoice does not permit it."
)
"""What a conflict means on the page of problems; an operation says what its own are."""

PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


def _folder_of(package: str) -> Path:
    """Where *package* is, without importing it: Swagger UI's brings a web application, and YAML."""
    spec = find_spec(package)
    if not spec or not spec.origin:
        raise ConfigurationError(f"The package {package} is not installed.")
    return Path(spec.origin).parent


SWAGGER_UI = _folder_of("swagger_ui") / "static"
PAGE = Path(__file__).with_name("page")

FILES = {
    "swagger-ui.css": (SWAGGER_UI, "text/css"),
    "swagger-ui-bundle.js": (SWAGGER_UI, "text/javascript"),
    "favicon-32x32.png": (SWAGGER_UI, "image/png"),
    "page.css": (PAGE, "text/css"),
}
"""The files that the page loads: their folder and their type."""


FORMATS: dict[str, tuple[str, Callable[[Mapping[str, Any]], bytes]]] = {
    "json": ("application/json", orjson.dumps),
    "yaml": ("application/yaml", lambda document: as_yaml(document).encode()),
}
"""The formats of a document, by the ending of its path: content type and writer."""

# Viewers and editors on other sites may read the documents: they are public.
PUBLIC = {"Access-Control-Allow-Origin": "*"}


def add_docs(
    app: web.Application,
    document: Mapping[str, Any],
    receiver_documents: Mapping[str, Mapping[str, Any]],
    vectors: Mapping[str, Any],
) -> None:
    """
    Serve *document* as JSON and YAML, and Swagger UI on top of it; *vectors* as JSON.

    *receiver_documents* are those of the receiver, by version of OpenAPI; the first is the default.
    """
    served = _Served(partial(orjson.dumps, vectors), "application/json", PUBLIC)
    _add(app, _both_forms("/vectors.json"), served)
    for ending, (content_type, write) in FORMATS.items():
        served = _Served(partial(write, document), content_type, PUBLIC)
        _add(app, _both_forms(f"/openapi.{ending}"), served)
        versions = {
            openapi: _Served(partial(write, one), content_type, PUBLIC)
            for openapi, one in receiver_documents.items()
        }
        _add_versions(app, _both_forms(f"/receiver.{ending}"), versions)
    _add_page(app, _both_forms("/problems"), _problems_page(), "style-src {styles}")
    page = Template((PAGE / "page.html").read_text(encoding="utf-8"))
    # What the page loads is relative to the page, so that it works below any prefix of a proxy.
    for path, prefix in ((PREFIX, "docs"), (f"{PREFIX}/", ".")):
        _add_page(
            app,
            (path,),
            page.substitute(prefix=prefix),
            "script-src 'self' {scripts}",
            # Swagger UI draws its arrows as data: URLs.
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
        )
    for name, (_, content_type) in FILES.items():
        # The browser caches it, and asks each time whether the ETag is still the same.
        kept: dict[str, str] = {hdrs.CACHE_CONTROL: "no-cache"}
        _add(
            app, (f"{PREFIX}/static/{name}",), _Served(partial(_content, name), content_type, kept)
        )


@lru_cache(maxsize=len(FILES))
def _content(name: str) -> bytes:
    folder, _ = FILES[name]
    return (folder / name).read_bytes()


def as_yaml(document: Mapping[str, Any]) -> str:
    """*document* in YAML, in its own order; the writer, 1 MiB, is imported at first use."""
    text: str = import_module("service.api.yaml_documents").as_yaml(document)
    return text


def _both_forms(path: str) -> tuple[str, str]:
    """*path* below the documentation, with and without the trailing slash."""
    return PREFIX + path, other_form(PREFIX + path)


def _add_page(app: web.Application, paths: Iterable[str], page: str, *allowed: str) -> None:
    """Serve *page* under a policy with the rules *allowed* besides the closed default."""
    hashes = {"scripts": _hashes("script", page), "styles": _hashes("style", page)}
    policy = "; ".join([CLOSED, *(rule.format(**hashes) for rule in allowed)])
    headers = {"Content-Security-Policy": policy, "Permissions-Policy": PERMISSIONS_POLICY}
    _add(app, paths, _Served(page.encode, "text/html", headers))


def _hashes(element: str, page: str) -> str:
    """The hash of each inline *element* of *page*, in the form of a policy."""
    texts = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = [b64encode(sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


class _Served:
    """
    One body that is served as it is, compressed if the client accepts gzip.

    *write* makes it for the first request: hardly anybody reads YAML, which takes long to write.
    """

    def __init__(
        self, write: Callable[[], bytes], content_type: str, headers: Mapping[str, str]
    ) -> None:
        self._made = cache(lambda: _with_etag(write()))
        self._content_type = content_type
        self._charset = None if content_type.startswith("image/") else "utf-8"
        self._headers = {hdrs.VARY: hdrs.ACCEPT_ENCODING, **headers}

    async def answer(self, request: web.Request) -> web.Response:
        """The response to *request*; 304 if the client has the body."""
        response = web.Response(
            content_type=self._content_type, charset=self._charset, headers=self._headers
        )
        body, response.etag = await asyncio.to_thread(self._made)
        if response.etag in (request.if_none_match or ()):
            response.set_status(304)
        elif self._charset and _takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
            response.headers[hdrs.CONTENT_ENCODING] = "gzip"
            response.body = await asyncio.to_thread(_compressed, body)
        else:
            response.body = body
        return response


def _with_etag(body: bytes) -> tuple[bytes, ETag]:
    return body, ETag(sha256(body).hexdigest()[:32], is_weak=True)


def _add(app: web.Application, paths: Iterable[str], served: _Served) -> None:
    for path in paths:
        app.router.add_get(path, served.answer)


def _add_versions(
    app: web.Application, paths: Iterable[str], versions: Mapping[str, _Served]
) -> None:
    """Serve the one of *versions* that `?openapi=` names, in full or as in `3.1`."""
    default = next(iter(versions))

    async def serve(request: web.Request) -> web.Response:
        wanted = request.query.get("openapi", default)
        for openapi, served in versions.items():
            if wanted in (openapi, openapi.rpartition(".")[0]):
                return await served.answer(request)
        known = ", ".join(openapi.rpartition(".")[0] for openapi in versions)
        raise InvalidInput([FieldError("query", "/openapi", f"Must be one of: {known}.")])

    for path in paths:
        app.router.add_get(path, serve)


@lru_cache(maxsize=16)
def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def _takes_gzip(accepted: str) -> bool:
    """Whether the Accept-Encoding header *accepted* names gzip, and not with a weight of zero."""
    return any(
        re.fullmatch(r"gzip(;q=(1(\.0*)?|0\.\d*[1-9]\d*))?", one.replace(" ", "").lower())
        for one in accepted.split(",")
    )


def _explained(error: type[Exception], status: HTTPStatus) -> str:
    """What a problem means on whatever operation it is answered."""
    if error is Conflict:
        return CONFLICT
    return UNAVAILABLE.get(error) or PROBLEM_DESCRIPTIONS[status]


def _problems_page() -> str:
    """The page that the `type` of a problem document links to."""
    rows = "".join(
        f'<dt id="{name}"><code>{name}</code> · {int(status)} {escape(title)}</dt>'
        f"<dd>{escape(_explained(error, status))}</dd>"
        for error, (status, name, title) in PROBLEMS.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Problems · invoices</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>:root{color-scheme:light dark}"
        "body{font:16px/1.5 sans-serif;max-width:42em;margin:2em auto;padding:0 1em}"
        "dt{font-weight:bold;margin-top:1em}</style>"
        "<main><h1>Problems</h1><p>Every error of this API is a problem document (RFC 9457). Its "
        f"<code>type</code> is one of these:</p><dl>{rows}</dl></main></html>"
    )
