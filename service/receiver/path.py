"""The path that a receiver has to serve, made from the declaration of its callback."""

from service.callbacks.declaration import Callback
from service.callbacks.expression import Body, Expression, Header, Path, Query


def receiver_path(callback: Callback) -> str:
    """
    The path that a receiver serves, below the URL it gave: `/invoices/{id}`.

    Each value that the caller does not control becomes a parameter of the path, named after
    the last part of its expression.
    """
    template = callback.template
    parts = template.parts[1:] if template.leading else template.parts
    return "".join(part if isinstance(part, str) else f"{{{_name(part)}}}" for part in parts)


def _name(expression: Expression) -> str:
    match expression:
        case Body(_, (*_, name)) | Query(_, name) | Path(_, name) | Header(_, name):
            return name
    return str(expression).strip("$")
