"""The path of a callback: as the router of each framework takes it, and as an example."""

import re
from collections.abc import Callable
from urllib.parse import quote, unquote, urlencode

from service.errors import DeclarationError
from service.receiver.projects.identifiers import camel, snake
from service.receiver.projects.inbound import Inbound, PathPart


def aiohttp_route(callback: Inbound) -> str:
    """A parameter has a pattern, because it matches no braces without one."""
    return _route(callback, lambda name: f"{{{snake(name)}:[^/]+}}")


def fastapi_route(callback: Inbound) -> str:
    """The template has it compared with the path as it was sent."""
    return _route(callback, lambda name: f"{{{snake(name)}}}")


def flask_route(callback: Inbound) -> str:
    """The template has it compared with the path as it was sent."""
    return _route(callback, lambda name: f"<{snake(name)}>")


def express_route(callback: Inbound) -> str:
    """A name is in quotation marks where a segment goes on behind it."""
    route = _route(
        callback,
        lambda name: f':"{camel(name)}"',
        lambda text: re.sub(r"[{}()\[\]*+?!:\\]", r"\\\g<0>", text),
    )
    return re.sub(r':"(\w+)"(?=/|$)', r":\1", route)


def go_route(callback: Inbound) -> str:
    """
    The route of `net/http`.

    Raises:
        DeclarationError: a parameter is not a whole segment, which that router cannot have.
    """
    if not re.fullmatch(r"(/([^/{}]+|\{[^/{}]+\})?)*", callback.path):
        raise DeclarationError(
            f"{callback.path} has a segment with text beside a parameter: Go's router takes none."
        )
    # A route that ends with a slash matches everything below it without {$}.
    end = "{$}" if callback.path.endswith("/") else ""
    return _route(callback, _in_braces) + end


def spring_route(callback: Inbound) -> str:
    """The route of Spring Web MVC, which is compared segment by segment, each decoded."""
    return _route(callback, _in_braces, unquote)


def _in_braces(name: str) -> str:
    return f"{{{camel(name)}}}"


def _route(
    callback: Inbound,
    parameter: Callable[[str], str],
    literal: Callable[[str], str] = str,
) -> str:
    parts = ((parameter if one.is_parameter else literal)(one.text) for one in callback.parts)
    return "".join(parts)


def example_path(callback: Inbound) -> str:
    """The path and the query of the example of *callback*, percent-encoded."""

    def text(part: PathPart) -> str:
        return quote(callback.values[part.text], safe="") if part.is_parameter else part.text

    return "".join(map(text, callback.parts)) + _query(callback)


def path_literals(callback: Inbound) -> list[str]:
    """The text before, between and after the path parameters of *callback*, with the query."""
    return (re.sub(r"\{[^}]*\}", "\0", callback.path) + _query(callback)).split("\0")


def _query(callback: Inbound) -> str:
    """The query of the example of *callback*, with its question mark; empty without parameters."""
    values = {name: callback.values[name] for name in callback.query}
    return f"?{urlencode(values)}" if values else ""
