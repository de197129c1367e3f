"""
Evaluates the callbacks that an operation declares, from the request that it accepts.

`@docs(callbacks=[...])` on a handler is the declaration; the document shows it, and this module
makes the URL to call. The URL is checked here, because only here the caller can still correct it.
"""

from collections.abc import Callable, Iterable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from schemas.documented import example_of
from service.api.operations import Operation
from service.api.validation import BODY, FIELD_ERRORS
from service.callbacks.declaration import Callback
from service.callbacks.exchange import ABSENT, Exchange, Message
from service.callbacks.expression import Body, Expression, Header, Path, Query, Url
from service.callbacks.url import CallbackUrl
from service.domain.invoice import EvaluatedCallback
from service.errors import EvaluationError, FieldError, InvalidInput, MalformedRequest

EVALUATED_CALLBACKS = web.RequestKey("evaluated_callbacks", tuple[EvaluatedCallback, ...])
"""The callbacks that the request asks for, each with the URL to call."""

Judge = Callable[[CallbackUrl], str | None]
ListenerOf = Callable[[CallbackUrl], str | None]


def make_callback_evaluation(
    operations: Iterable[Operation], judge: Judge, listener_of: ListenerOf
) -> Middleware:
    """
    Make the innermost middleware: it evaluates callbacks and refuses requests with field errors.

    It follows validation, so that one response lists the field errors of both. *judge* returns why
    a URL may not be called; None where it may. *listener_of* returns the origin of a URL that is
    not called, because it is that of a listener.
    """
    evaluations = {
        one.handler: _Evaluation(one.callbacks, judge, listener_of)
        for one in operations
        if one.callbacks
    }

    @web.middleware
    async def evaluate(request: web.Request, handler: Handler) -> web.StreamResponse:
        field_errors = request.get(FIELD_ERRORS, [])
        evaluation = evaluations.get(request.match_info.handler)
        if evaluation is not None:
            field_errors += evaluation.evaluate(request, field_errors)
        if field_errors:
            raise InvalidInput(field_errors)
        return await handler(request)

    return evaluate


def example_exchange(operation: Operation) -> Exchange:
    """What the callbacks of *operation* see of a request that is made of its examples."""
    examples = {
        location: {name: value for name, value in example_of(schema).items() if value is not None}
        for location, schema in operation.schemas.items()
    }
    message = Message(
        headers=examples.get("header", {}),
        query=examples.get("query", {}),
        path=examples.get("path", {}),
        body=operation.body_example or examples.get("body") or ABSENT,
    )
    return Exchange(operation.path, operation.method, message)


class _Evaluation:
    """Evaluates the *callbacks* of one operation."""

    def __init__(
        self, callbacks: Sequence[Callback], judge: Judge, listener_of: ListenerOf
    ) -> None:
        self._callbacks = callbacks
        self._judge = judge
        self._listener_of = listener_of
        self._needs_url = any(
            isinstance(expression, Url)
            for callback in callbacks
            for expression in callback.template.expressions
        )

    def evaluate(self, request: web.Request, known: Sequence[FieldError]) -> list[FieldError]:
        """
        Store the callbacks that *request* asks for under EVALUATED_CALLBACKS.

        Returns:
            A field error for each callback that cannot be called, unless one is *known* at its
            place.
        """
        exchange = self._exchange(request)
        evaluated = []
        field_errors = []
        for callback in self._callbacks:
            try:
                url = callback.url_for(exchange)
                if url is not None:
                    listener = self._listener_of(url)
                    if listener is None:
                        self._check(callback, url)
                    origin = listener or url.origin
                    evaluated.append(EvaluatedCallback(callback.name, url.text, origin, url.base))
            except EvaluationError as error:
                field_errors.append(_field_error(callback, error))
        request[EVALUATED_CALLBACKS] = tuple(evaluated)
        return [one for one in field_errors if not any(_covers(other, one) for other in known)]

    def _exchange(self, request: web.Request) -> Exchange:
        """What is known of the exchange before there is a response."""
        url = ""
        if self._needs_url:
            try:
                url = str(request.url)
            except ValueError:
                raise MalformedRequest("The Host header does not name a host.") from None
        message = Message(
            headers=request.headers,
            query=request.query,
            path=request.match_info,
            body=request.get(BODY, ABSENT),
        )
        return Exchange(url, request.method, message)

    def _check(self, callback: Callback, url: CallbackUrl) -> None:
        reason = self._judge(url)
        if reason is not None:
            leading = callback.template.leading
            raise EvaluationError(str(leading or callback.expression), reason)


def _covers(known: FieldError, other: FieldError) -> bool:
    """Whether *known* is at the place of *other* or of a value that contains it."""
    place = f"{other.pointer}/"
    return known.location == other.location and place.startswith(f"{known.pointer}/")


def _field_error(callback: Callback, error: EvaluationError) -> FieldError:
    """*error* at the place in the request that its expression names."""
    for expression in callback.template.expressions:
        if str(expression) == error.expression:
            location, pointer = _place(expression)
            return FieldError(location, pointer, f"The value {error.reason}.")
    return FieldError("body", "", str(error))


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
