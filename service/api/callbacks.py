"""
The declared callbacks of an operation, evaluated from the request that it accepts.

`@docs(callbacks=[...])` on a handler is the declaration; the document shows it, and this module
performs its first half: where to call. All of that is judged now, while somebody is there to be
told, and never at delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from service.api.dependencies import BODY, CALLED, JUDGE
from service.callbacks.declaration import Callback
from service.callbacks.exchange import ABSENT, Exchange, Message
from service.callbacks.expression import Body, Expression, Header, Path, Query, Url
from service.callbacks.url import CallbackUrl
from service.errors import EvaluationError, MalformedRequest, Mistake


def evaluate_callbacks(request: web.Request, known: Sequence[Mistake]) -> list[Mistake]:
    """
    Put the URLs of the callbacks that *request* asks for into it, under CALLED.

    *known* are the mistakes that were found already.

    Returns:
        A mistake for each callback that cannot be called, unless one is *known* at its place.
    """
    declared = getattr(request.match_info.handler, "__apispec__", {}).get("callbacks", ())
    called: dict[Callback, CallbackUrl] = {}
    mistakes = []
    for callback in declared:
        exchange = _exchange(request, callback)
        try:
            url = callback.url_for(exchange)
            if url is not None:
                called[callback] = _permitted(request, callback, url)
        except EvaluationError as error:
            mistakes.append(_mistake(callback, error))
    request[CALLED] = called
    return [one for one in mistakes if not any(_covers(other, one) for other in known)]


def _covers(known: Mistake, other: Mistake) -> bool:
    """Whether *known* is a mistake at the place of *other*, or of something around it."""
    place = f"{other.pointer}/"
    return known.location == other.location and place.startswith(f"{known.pointer}/")


def _exchange(request: web.Request, callback: Callback) -> Exchange:
    """What can be known of the exchange now; the body was parsed before."""
    message = Message(
        headers=request.headers,
        query=request.query,
        path=request.match_info,
        body=request.get(BODY, ABSENT),
    )
    return Exchange(_url(request, callback), request.method, message)


def _url(request: web.Request, callback: Callback) -> str:
    """The URL of *request*, if *callback* asks for it: a Host header may make none."""
    if not any(isinstance(expression, Url) for expression in callback.template.expressions):
        return ""
    try:
        return str(request.url)
    except ValueError:
        raise MalformedRequest("The Host header does not name a host.") from None


def _permitted(request: web.Request, callback: Callback, url: CallbackUrl) -> CallbackUrl:
    reason = request.app[JUDGE](url)
    if reason is None:
        return url
    leading = callback.template.leading
    raise EvaluationError(str(leading or callback.expression), reason)


def _mistake(callback: Callback, error: EvaluationError) -> Mistake:
    """*error* at the place in the request that its expression names."""
    for expression in callback.template.expressions:
        if str(expression) == error.expression:
            location, pointer = _place(expression)
            return Mistake(location, pointer, f"The value {error.reason}.")
    return Mistake("body", "", str(error))


def _place(expression: Expression) -> tuple[str, str]:
    match expression:
        case Query(_, name):
            return "query", f"/{name}"
        case Path(_, name):
            return "path", f"/{name}"
        case Header(_, name):
            return "header", f"/{name}"
        case Body(_, pointer):
            return "body", "".join(f"/{token}" for token in pointer or ())
    return "body", ""
