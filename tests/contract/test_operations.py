"""An application can have additional operations, with callbacks of their own."""

from __future__ import annotations

import pytest
from aiohttp import hdrs, web
from aiohttp_apispec import docs, headers_schema, json_schema
from marshmallow import Schema, fields

from schemas.event import InvoiceEventReceivedSchema, InvoiceEventSchema
from service.api.application import OPERATIONS, make_application
from service.api.callbacks import EVALUATED_CALLBACKS
from service.api.operations import answers, read_operation, refuses
from service.app.documents import document_of
from service.callbacks.declaration import Callback
from service.settings import Settings

NOTICE = Callback(
    name="notice",
    expression="{$request.header.x-receiver}/orders/{$request.body#/number}",
    method="post",
    request=InvoiceEventSchema,
    response=InvoiceEventReceivedSchema,
    summary="Reports an order",
    description="Sent once.",
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
    urls = [one.url for one in request[EVALUATED_CALLBACKS] if one.callback == NOTICE.name]
    return web.json_response({"url": urls[0] if urls else None})


ORDER = read_operation(hdrs.METH_POST, "/orders", order)


@pytest.fixture
def service(assembled):
    """The service with one additional operation."""
    operations = (*OPERATIONS, ORDER)
    return assembled(operations=operations, document=document_of(Settings(), operations))


@pytest.fixture
async def extended(aiohttp_client, dependencies):
    """A client of the application with one additional operation."""
    return await aiohttp_client(make_application(dependencies, (*OPERATIONS, ORDER)))


@pytest.mark.parametrize("path", ["/orders", "/orders/"])
async def test_an_added_operation_is_served_with_its_callbacks(extended, path):
    """Validation and the evaluation of callbacks work for an operation that was added."""
    headers = {"X-Receiver": "https://one.example"}
    answer = await extended.post(path, json={"number": 7}, headers=headers)

    assert {"url": "https://one.example/orders/7"} == await answer.json()
    assert {"url": None} == await (await extended.post(path, json={"number": 7})).json()


async def test_field_errors_of_an_added_operation_have_their_place(extended):
    """The field error of a denied URL points to the header that the expression names."""
    headers = {"X-Receiver": "http://127.0.0.1"}
    answer = await extended.post("/orders", json={"number": "x"}, headers=headers)
    errors = {(one["location"], one["pointer"]) for one in (await answer.json())["errors"]}

    assert 422 == answer.status
    assert {("body", "/number"), ("header", "/x-receiver")} == errors


async def test_an_added_operation_is_documented(extended):
    """The document has the added operation with its callbacks, and all other operations."""
    paths = (await (await extended.get("/api/docs/openapi.json")).json())["paths"]

    assert [NOTICE.expression] == list(paths["/orders"]["post"]["callbacks"]["notice"])
    assert {one.path for one in OPERATIONS} < set(paths)


async def test_an_added_operation_is_counted(extended, dependencies):
    """Requests of an added operation have its id as their label."""
    await extended.post("/orders", json={"number": 7})
    text, _ = await dependencies.exposition.text("")

    assert b'invoices_http_requests_total{code="200",operation="order"} 1.0' in text
