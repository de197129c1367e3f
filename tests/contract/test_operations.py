"""Operations are values: whoever composes the service may add some, with callbacks of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiohttp import hdrs, web
from aiohttp_apispec import docs, headers_schema, json_schema
from marshmallow import Schema, fields

from schemas.event import InvoiceEventReceivedSchema, InvoiceEventSchema
from service.api.application import OPERATIONS, make_application
from service.api.callbacks import CALLBACK_URLS
from service.api.openapi import build_document
from service.api.operations import answers, read_operation, refuses
from service.callbacks import Callback

NOTICE = Callback(
    name="notice",
    expression="{$request.header.x-receiver}/orders/{$request.body#/number}",
    method="post",
    request=InvoiceEventSchema,
    response=InvoiceEventReceivedSchema,
    summary="Reports an order",
    description="Sent once.",
    request_example={"description": "Ordered", "paid": False},
    response_example={"ok": True},
)


class HeadersSchema(Schema):
    receiver = fields.String(data_key="x-receiver", metadata={"example": "https://one.example"})


class OrderSchema(Schema):
    number = fields.Integer(required=True, metadata={"example": 1})


class OrderedSchema(Schema):
    url = fields.String(allow_none=True, metadata={"example": "https://one.example/orders/1"})


@docs(tags=["invoices"], operationId="order", security=[], callbacks=[NOTICE])
@headers_schema(HeadersSchema)
@json_schema(OrderSchema)
@answers(OrderedSchema, "Ordered.")
@refuses(400, 422)
async def order(request: web.Request) -> web.Response:
    """Answer with the URL that would be called."""
    url = request[CALLBACK_URLS].get(NOTICE)
    return web.json_response({"url": url and url.text})


ORDER = read_operation(hdrs.METH_POST, "/orders", order)


@pytest.fixture
async def extended(aiohttp_client, dependencies):
    """Asks an application with one operation more."""
    operations = (*OPERATIONS, ORDER)
    document = build_document(operations, version="1", public_url="http://x.example")
    app = make_application(replace(dependencies, document=document), operations)
    return await aiohttp_client(app)


@pytest.mark.parametrize("path", ["/orders", "/orders/"])
async def test_an_added_operation_is_served_with_its_callbacks(extended, path):
    """Validation and the evaluation of callbacks work for an operation that was added."""
    headers = {"X-Receiver": "https://one.example"}
    answer = await extended.post(path, json={"number": 7}, headers=headers)

    assert {"url": "https://one.example/orders/7"} == await answer.json()
    assert {"url": None} == await (await extended.post(path, json={"number": 7})).json()


async def test_field_errors_of_an_added_operation_have_their_place(extended):
    """A URL that may not be called is reported at the header that its expression names."""
    headers = {"X-Receiver": "http://127.0.0.1"}
    answer = await extended.post("/orders", json={"number": "x"}, headers=headers)
    errors = {(one["location"], one["pointer"]) for one in (await answer.json())["errors"]}

    assert 422 == answer.status
    assert {("body", "/number"), ("header", "/x-receiver")} == errors


async def test_an_added_operation_is_documented(extended):
    """The document has the added operation and its callbacks, and all others."""
    paths = (await (await extended.get("/api/docs/openapi.json")).json())["paths"]

    assert [NOTICE.expression] == list(paths["/orders"]["post"]["callbacks"]["notice"])
    assert {one.path for one in OPERATIONS} < set(paths)


async def test_an_added_operation_is_counted(extended, dependencies):
    """Requests of an added operation have its id as their label."""
    await extended.post("/orders", json={"number": 7})
    text, _ = await dependencies.exposition.text("")

    assert b'invoices_http_requests_total{code="200",operation="order"} 1.0' in text
