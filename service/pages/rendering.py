"""
Pages for people: HTML from templates, under a policy that lets them load and run nothing.

The one style sheet is in the page and allowed by its hash. A page has no script, is stored by no
cache, and tells no other site where it was.
"""

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), usb=()"


class Renderer:
    """Renders pages; *form_targets* are the sources to which their forms may lead."""

    def __init__(self, form_targets: str = "'self'") -> None:
        style = (files("service.pages") / "templates" / "page.css").read_text(encoding="utf-8")
        digest = b64encode(sha256(style.encode()).digest()).decode()
        self._templates = Environment(
            loader=PackageLoader("service.pages", "templates"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
        )
        self._templates.globals["style"] = Markup(style)  # noqa: S704 -- our own file
        self._headers = {
            "Content-Security-Policy": "default-src 'none'; base-uri 'none'; "
            f"frame-ancestors 'none'; form-action {form_targets}; style-src 'sha256-{digest}'",
            "Permissions-Policy": PERMISSIONS_POLICY,
            "X-Robots-Tag": "noindex, nofollow",
        }

    def page(self, name: str, values: Mapping[str, object], *, status: int = 200) -> web.Response:
        """The template *name* with *values*, which are escaped."""
        text = self._templates.get_template(name).render(values)
        return web.Response(
            text=text, status=status, content_type="text/html", headers=self._headers
        )
