"""The documentation of the running service, at /api/docs: nothing on it comes from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

import orjson
import yaml
from aiohttp import web
from swagger_ui import api_doc

from service.api.problems import PROBLEMS
from service.api.routes import other_form

PREFIX = "/api/docs"


def add_docs(app: web.Application, document: dict[str, Any]) -> None:
    """Serve *document* as JSON and YAML, and Swagger UI on top of it."""
    _add(app, "/openapi.json", orjson.dumps(document), "application/json")
    _add(app, "/openapi.yaml", as_yaml(document).encode(), "application/yaml")
    _add(app, "/problems", _problems_page().encode(), "text/html")
    api_doc(
        app,
        config_rel_url="/openapi.json",
        url_prefix=PREFIX,
        title="invoices",
        parameters={
            # Swagger UI would send the document to a validator on the internet.
            "validatorUrl": "null",
            # The plain layout: without a field that asks for other documents.
            "layout": '"BaseLayout"',
            "docExpansion": '"full"',
            "defaultModelsExpandDepth": "0",
            "tryItOutEnabled": "true",
        },
    )


def as_yaml(document: dict[str, Any]) -> str:
    """*document* in YAML, in its own order, paragraphs as they are read."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes every value out, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat what is equal: an alias would send the reader elsewhere."""
        return True


def _text_node(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


def _add(app: web.Application, path: str, body: bytes, content_type: str) -> None:
    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    for form in (PREFIX + path, other_form(PREFIX + path)):
        app.router.add_get(form, serve)


def _problems_page() -> str:
    """What the `type` of a problem document points at."""
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
        f"<code>type</code> is one of these.</p><dl>{rows}</dl></html>"
    )


def _first_sentence(error: type[Exception]) -> str:
    """What the class says of itself, without the marks of a docstring."""
    return (error.__doc__ or "").strip().splitlines()[0].replace("*", "")
