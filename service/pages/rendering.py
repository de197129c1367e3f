"""
Pages for people: HTML from templates, under a policy that lets them load and run nothing of others.

A page is stored by no cache, and tells no other site where it was. That of an invoice has its one
style sheet in itself, allowed by its hash, and no script at all.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.resources import files

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), usb=()"

CLOSED = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
"""What every policy of a page begins with."""


class Renderer:
    """
    Renders the pages of *package*, whose templates are in its folder `templates`.

    *policy* is the Content-Security-Policy. What a template shows passes *finalize* before it is
    escaped.
    """

    def __init__(
        self, package: str, policy: str, finalize: Callable[[object], object] | None = None
    ) -> None:
        self.environment = Environment(
            loader=PackageLoader(package, "templates"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            finalize=finalize,
        )
        self._headers = {
            "Content-Security-Policy": policy,
            "Permissions-Policy": PERMISSIONS_POLICY,
            "X-Robots-Tag": "noindex, nofollow",
        }

    def page(
        self,
        name: str,
        values: Mapping[str, object],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        """The template *name* with *values*, which are escaped."""
        return web.Response(
            text=self.template(name).render(values),
            status=status,
            content_type="text/html",
            headers={**self._headers, **(headers or {})},
        )

    def template(self, name: str) -> Template:
        """The template *name*."""
        return self.environment.get_template(name)


def invoice_renderer(form_targets: str = "'self'") -> Renderer:
    """Renders the pages of invoices; *form_targets* are the sources to which their forms lead."""
    folder = files("service.pages") / "templates"
    style = "".join(
        (folder / name).read_text(encoding="utf-8") for name in ("palette.css", "page.css")
    )
    digest = b64encode(sha256(style.encode()).digest()).decode()
    renderer = Renderer(
        "service.pages", f"{CLOSED}; form-action {form_targets}; style-src 'sha256-{digest}'"
    )
    renderer.environment.globals["style"] = Markup(style)  # noqa: S704 -- our own files
    return renderer
