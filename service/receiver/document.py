"""
The document of the receiver: every callback as an operation of the API that its developer builds.

OpenAPI 3.0.3 is the default, because generators of servers need it. The document of OpenAPI 3.1
has the callbacks under `webhooks` as well.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from service.callbacks.answers import AnswerRule, Meaning
from service.callbacks.declaration import Callback
from service.callbacks.documentation import (
    EXAMPLE_SECRET,
    acknowledgement,
    consequence,
    expected_answer,
    header_parameters,
    refusal,
    request_body,
    shown_statuses,
)
from service.callbacks.exchange import Exchange
from service.errors import DeclarationError
from service.receiver.address import ReceiverAddress, address_of
from service.receiver.address_objects import SERVER, server_object, url_parameters

Version = Literal["3.0.3", "3.1.0"]
VERSIONS: tuple[Version, ...] = ("3.0.3", "3.1.0")

TAG = "callbacks"

DESCRIPTION = """\
The API that you build, so that the service can call it. Every operation is a callback of the
service: it sends the request, and you answer it. Generate a server from this document, or write the
routes by hand.

**The signature.** Callbacks are signed by [Standard Webhooks](https://www.standardwebhooks.com/),
which has libraries for most languages. Verify each request before you parse it:

1. Take the bytes of the body as they arrived. Parsed and written again, they differ.
2. Join `webhook-id`, `webhook-timestamp` and the body with a `.` between them.
3. The key is the base64 behind `whsec_` in your signing secret. Compute the HMAC-SHA256 of the
   joined bytes with it, and write it in base64.
4. `webhook-signature` holds signatures with blanks between them, each beginning with `v1,`. The
   request is authentic if one of them is equal to yours, compared in constant time. After the
   secret was replaced there are two for some time.
5. Refuse a `webhook-timestamp` that differs from your clock by more than 300 seconds.

Answer a request that does not verify with 401. `/api/docs/vectors.json` of the service has requests
to test a verification with. The headers of each example below sign its body, which is written
without blanks between names and values, with the public secret of the development mode,
`$secret`; the current time of the example is its timestamp.

**At least once.** Store the `webhook-id` of what you have processed, in the transaction that does
the work, and give a repeated one the same answer.

**More may come.** Ignore headers and fields that you do not know. A generated server may refuse
them unless it is told not to.
"""

TYPICAL_STATUSES = {"4XX": 401, "5XX": 503}
"""The status that stands for a class of refusals; no receiver has to redirect."""

TYPICAL_TEXTS = {401: "The signature does not verify, or the body is not as described."}


@dataclass(frozen=True, slots=True)
class Promise:
    """A callback, and an example of the request that makes the service send it."""

    callback: Callback
    example: Exchange


def build_receiver_document(
    promises: Iterable[Promise],
    *,
    version: str,
    timeout: timedelta,
    is_strict: bool,
    openapi: Version = "3.0.3",
) -> dict[str, Any]:
    """
    The document of a receiver of all *promises*; a callback that several operations make is once.

    *timeout* and *is_strict* apply to the answers, as in the document of the API.

    Raises:
        DeclarationError: an expression cannot be turned round, or two callbacks have one name.
    """
    listed = _by_name(promises)
    addresses = _addresses([one.callback for one in listed])
    first, *_ = [server_object(address) for address in addresses] or [{"url": SERVER}]
    spec = APISpec(
        title="Receiver of callbacks",
        version=version,
        openapi_version=openapi,
        info={
            "description": DESCRIPTION.replace("$secret", EXAMPLE_SECRET),
            "contact": {"name": "The invoices authors"},
            "license": {"name": "MIT", "url": "https://opensource.org/license/mit"},
        },
        servers=[first],
        tags=[{"name": TAG, "description": "What the service sends to you."}],
        plugins=[MarshmallowPlugin(schema_name_resolver=_schema_name)],
    )
    for promise, address in zip(listed, addresses, strict=True):
        callback, method = promise.callback, promise.callback.method.lower()
        operation = _operation(callback, timeout.total_seconds(), is_strict=is_strict)
        placed = {
            **operation,
            "description": f"{operation['description']}\n\n{_where(callback, address)}",
            "parameters": [*url_parameters(address, promise.example), *operation["parameters"]],
        }
        if (server := server_object(address)) != first:
            placed["servers"] = [server]
        spec.path(path=address.path, operations={method: placed})
    document = spec.to_dict()
    if openapi != "3.0.3":
        document["webhooks"] = _webhooks(document)
    return {"openapi": document.pop("openapi"), **document}


def _by_name(promises: Iterable[Promise]) -> list[Promise]:
    known: dict[str, Promise] = {}
    for promise in promises:
        name = promise.callback.name
        if known.setdefault(name, promise).callback is not promise.callback:
            raise DeclarationError(f"Callback {name}: the name is used twice.")
    return list(known.values())


def _addresses(callbacks: Sequence[Callback]) -> list[ReceiverAddress]:
    """
    The address of each of *callbacks*, all of them different.

    Of two with the same route, one whose receiver chooses its own URL is put below its name.

    Raises:
        DeclarationError: two callbacks that name their server have the same address.
    """
    addresses = [address_of(one) for one in callbacks]
    routes = [_route(*pair) for pair in zip(callbacks, addresses, strict=True)]
    counts = Counter(routes)
    fixed = Counter(
        route for route, address in zip(routes, addresses, strict=True) if address.base is None
    )
    result = []
    for callback, address, route in zip(callbacks, addresses, routes, strict=True):
        if address.base is None and fixed[route] > 1:
            raise DeclarationError(f"Callback {callback.name}: another one has the same URL.")
        is_moved = address.base is not None and counts[route] > 1
        result.append(address_of(callback, f"/{callback.name}") if is_moved else address)
    return result


def _route(callback: Callback, address: ReceiverAddress) -> tuple[str, str]:
    """What a router tells apart: method and path, whatever the names of the parameters are."""
    path = address.path
    for variable in address.path_variables:
        path = path.replace(f"{{{variable.name}}}", "{}")
    return callback.method.lower(), path


# --- One operation.


def _operation(callback: Callback, timeout_seconds: float, *, is_strict: bool) -> dict[str, Any]:
    """The operation without what depends on its path."""
    name = _schema_name(callback.request)
    answer = expected_answer(callback, timeout_seconds, is_strict=is_strict)
    return {
        "tags": [TAG],
        "operationId": callback.name,
        "summary": callback.summary,
        "description": f"{callback.description}\n\n{answer}",
        # The signature is a header like the others: no scheme of OpenAPI describes it.
        "security": [],
        "parameters": header_parameters(callback),
        "requestBody": request_body(callback),
        "responses": _answers(callback, is_strict=is_strict),
        "x-codegen-request-body-name": name[:1].lower() + name[1:],
    }


def _answers(callback: Callback, *, is_strict: bool) -> dict[str, Any]:
    """
    The responses of single statuses, the acknowledgement first.

    Generated servers take classes such as `4XX` for a number, and `default` for a success.
    """
    acknowledgements, refusals = {}, {}
    for rule in callback.answers:
        if rule.meaning is Meaning.DELIVERED:
            acknowledgements[shown_statuses(callback, rule)] = acknowledgement(
                callback, rule, is_strict=is_strict
            )
        elif not rule.is_class:
            refusals[rule.statuses] = refusal([rule], consequence(rule))
        elif (code := TYPICAL_STATUSES.get(rule.statuses)) and callback.rule_for(code) is rule:
            refusals[str(code)] = refusal([rule], _typical(rule, code))
    return acknowledgements | dict(sorted(refusals.items()))


def _typical(rule: AnswerRule, status: int) -> str:
    others = f"Every other {rule.statuses.lower()} that is not listed has the same effect."
    texts = (TYPICAL_TEXTS.get(status), consequence(rule), others)
    return " ".join(text for text in texts if text)


def _where(callback: Callback, address: ReceiverAddress) -> str:
    """Where the callback is sent to, in one paragraph."""
    sentence = f"**The URL.** The service calls `{callback.expression}`."
    if address.base is None:
        return sentence
    return (
        f"{sentence} The value of `{address.base}` is the URL of your server"
        + (f", followed by `{address.base_end}`" if address.base_end else "")
        + "; without it, nothing is sent."
    )


# --- Schemas, and the twin of OpenAPI 3.1.


def _webhooks(document: Mapping[str, Any]) -> dict[str, Any]:
    """The operations of *document* as OpenAPI 3.1 lists them where no path is given."""
    return {
        operation["operationId"]: {
            method: {
                **{key: value for key, value in operation.items() if key != "servers"},
                "operationId": f"{operation['operationId']}_webhook",
                "parameters": [one for one in operation["parameters"] if one["in"] == "header"],
            }
        }
        for item in document["paths"].values()
        for method, operation in item.items()
    }


def _schema_name(schema: type[Schema] | Schema) -> str:
    cls = schema if isinstance(schema, type) else type(schema)
    return cls.__name__.removesuffix("Schema")
