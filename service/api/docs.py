"""
The documentation of the running service, at /api/docs: self-contained, without any other server.

A Content-Security-Policy enforces that in the browser: it allows files of this service, and inline
scripts and styles by their hash.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from typing import Any

import orjson
import yaml
from aiohttp import web
from swagger_ui.core import ApplicationDocument

from service.api.operations import other_form
from service.web.problems import DOCS_PATH as PREFIX
from service.web.problems import PROBLEMS

CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The default of every page: it may not load anything, send forms, or be framed."""

PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


def add_docs(app: web.Application, document: dict[str, Any]) -> None:
    """Serve *document* as JSON and YAML, and Swagger UI on top of it."""
    for path, body, content_type in (
        ("/openapi.json", orjson.dumps(document), "application/json"),
        ("/openapi.yaml", as_yaml(document).encode(), "application/yaml"),
    ):
        # Viewers and editors on other sites may read them: they are public.
        _add(app, _both_forms(path), body, content_type, {"Access-Control-Allow-Origin": "*"})
    _add_page(app, _both_forms("/problems"), _problems_page(), "style-src {styles}")
    # What the page loads is relative to the page, so that it works below any prefix of a proxy.
    pages = {PREFIX: _swagger_ui(app, "docs"), f"{PREFIX}/": _swagger_ui(app, ".")}
    for path, swagger_ui in pages.items():
        _add_page(
            app,
            (path,),
            swagger_ui.doc_html,
            "script-src 'self' {scripts}",
            # Swagger UI draws its arrows as data: URLs.
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
        )
    app.router.add_static(f"{PREFIX}/static", path=pages[PREFIX].static_dir)


def _swagger_ui(app: web.Application, folder: str) -> ApplicationDocument:
    return ApplicationDocument(
        app,
        config_rel_url="/openapi.json",
        url_prefix=folder,
        title="invoices",
        parameters={
            # Swagger UI would send the document to a validator on the internet.
            "validatorUrl": "null",
            # The layout without an input field for other documents.
            "layout": '"BaseLayout"',
            "docExpansion": '"full"',
            "defaultModelsExpandDepth": "0",
            "tryItOutEnabled": "true",
        },
    )


def as_yaml(document: dict[str, Any]) -> str:
    """*document* in YAML, in its own order, with paragraphs as blocks."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat equal values: aliases are hard to read."""
        return True


def _text_node(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


def _both_forms(path: str) -> tuple[str, str]:
    """*path* below the documentation, with and without the trailing slash."""
    return PREFIX + path, other_form(PREFIX + path)


def _add_page(app: web.Application, paths: Iterable[str], page: str, *allowed: str) -> None:
    """Serve *page* under a policy with the rules *allowed* besides the closed default."""
    hashes = {"scripts": _hashes("script", page), "styles": _hashes("style", page)}
    policy = "; ".join([CLOSED, *(rule.format(**hashes) for rule in allowed)])
    headers = {"Content-Security-Policy": policy, "Permissions-Policy": PERMISSIONS_POLICY}
    _add(app, paths, page.encode(), "text/html", headers)


def _hashes(element: str, page: str) -> str:
    """The hash of each inline *element* of *page*, in the form of a policy."""
    texts = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = [b64encode(sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _add(
    app: web.Application,
    paths: Iterable[str],
    body: bytes,
    content_type: str,
    headers: Mapping[str, str],
) -> None:
    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    for path in paths:
        app.router.add_get(path, serve)


def _problems_page() -> str:
    """The page that the `type` of a problem document links to."""
    rows = "".join(
        f'<dt id="{name}"><code>{name}</code> · {int(status)} {escape(title)}</dt>'
        f"<dd>{escape(_first_sentence(error))}</dd>"
        for error, (status, name, title) in PROBLEMS.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Problems · invoices</title>'
        "<style>body{font:16px/1.5 sans-serif;max-width:42em;margin:2em auto;padding:0 1em}"
        "dt{font-weight:bold;margin-top:1em}</style>"
        "<h1>Problems</h1><p>Every error of this API is a problem document (RFC 9457). Its "
        f"<code>type</code> is one of these:</p><dl>{rows}</dl></html>"
    )


def _first_sentence(error: type[Exception]) -> str:
    """The first sentence of the docstring of *error*, without its markup."""
    return (error.__doc__ or "").strip().splitlines()[0].replace("*", "")
