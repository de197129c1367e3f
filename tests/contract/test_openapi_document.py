"""The served document: valid, complete, and equal to the declaration."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from aiohttp import web
from aiohttp_apispec import docs, json_schema, querystring_schema
from marshmallow import Schema, fields
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from standardwebhooks import Webhook

from schemas.invoice import CallbackQuerySchema, InvoiceRequestSchema
from service.api.application import OPERATIONS
from service.api.openapi import build_document
from service.api.operations import read_operation, refuses
from service.app.documents import document_of
from service.callbacks.answers import AnswerRule, Meaning
from service.callbacks.declaration import Callback
from service.callbacks.headers import IMPLIED_HEADERS
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.development import DEV_SECRET
from service.errors import DeclarationError
from service.settings import Settings

METHODS = {"get", "post", "put", "patch", "delete"}


def operations_in(paths):
    """Every operation below *paths*, those of callbacks included."""
    for path, item in paths.items():
        for method, operation in item.items():
            if method in METHODS:
                yield path, method, operation
                for callback in operation.get("callbacks", {}).values():
                    yield from operations_in(callback)


def resolve(document, schema):
    """*schema*, or the schema to which its reference points."""
    reference = schema.get("$ref")
    return document["components"]["schemas"][reference.rsplit("/", 1)[1]] if reference else schema


def examples_in(document):
    """Every example in *document*: its place, its schema, the example."""
    for path, method, operation in operations_in(document["paths"]):
        where = f"{method} {path}"
        for parameter in operation.get("parameters", ()):
            yield from examples_of(f"{where} {parameter['name']}", parameter, parameter["schema"])
        for name, body in bodies_of(operation):
            for part in (*body.get("content", {}).values(), *body.get("headers", {}).values()):
                yield from examples_of(f"{where} {name}", part)
    for name, schema in document["components"]["schemas"].items():
        for field, inner in schema["properties"].items():
            yield from examples_of(f"{name}.{field}", inner)


def examples_of(where, *holders):
    """The examples that *holders* have, each with the schema that the first of them has or is."""
    schema = holders[0].get("schema", holders[0])
    return [(where, schema, holder["example"]) for holder in holders if "example" in holder]


def bodies_of(operation):
    """The request of *operation* and its answers, by name."""
    return [("request", operation.get("requestBody", {})), *operation["responses"].items()]


def test_document_is_valid(document):
    """The document is valid OpenAPI 3.1."""
    assert [] == [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]
    assert "3.1.0" == document["openapi"]
    assert "openapi" == next(iter(document))


def test_document_names_contact_server_and_licence(document):
    """The document has a contact, a server and a licence."""
    assert {"name": "MIT", "identifier": "MIT"} == document["info"]["license"]
    assert document["info"]["contact"]["name"]
    assert document["info"]["description"]
    assert ["/", "http://127.0.0.1:8080"] == [one["url"] for one in document["servers"]]


def test_servers_entry_is_the_public_url():
    """The document names the public URL of the service."""
    settings = Settings(public_url="https://invoices.example.net")

    assert "https://invoices.example.net" == document_of(settings)["servers"][1]["url"]


def test_every_operation_is_described(document):
    """Each operation has an id of its own, a known tag, a summary and a description."""
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    ids = []
    for path, method, operation in operations_in(document["paths"]):
        where = f"{method} {path}"
        ids.append(operation["operationId"])
        assert tags.issuperset(operation["tags"]), where
        assert operation["summary"], where
        assert operation["description"], where
        assert all(one["description"] for one in operation.get("parameters", ())), where

    assert len(set(ids)) == len(ids)


def test_every_body_has_an_example(document):
    """Every request and every response has an example."""
    missing = [
        f"{method} {path} {name}"
        for path, method, operation in operations_in(document["paths"])
        for name, body in bodies_of(operation)
        for content in body.get("content", {}).values()
        if "example" not in content
    ]

    assert [] == missing


def test_every_example_fits_its_schema(document):
    """Every example is valid under its own schema."""
    broken = {}
    count = 0
    for where, schema, example in examples_in(document):
        whole = {**schema, "components": document["components"]}
        validator = OAS31Validator(whole, format_checker=OAS31Validator.FORMAT_CHECKER)
        count += 1
        if messages := [error.message for error in validator.iter_errors(example)]:
            broken[where] = messages

    assert {} == broken
    assert count > 80


def test_every_answered_field_is_described(document):
    """Every field of a response has a description."""
    silent = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, inner in schema["properties"].items()
        if "description" not in resolve(document, inner) and "$ref" not in inner
        if name not in {"Health", "FieldError", "DeliveryPage", "InvoicePage"}
    ]

    assert [] == silent


def test_the_invoice_of_the_readme_is_the_example(document):
    """The example of the request is the invoice that the README sends."""
    body = document["paths"]["/invoices/"]["post"]["requestBody"]
    example = body["content"]["application/json"]["example"]

    assert "2expen51ve" == example["id"]
    assert "9999" == example["total"]


def test_examples_are_in_order_of_time(document):
    """Invoice, event, delivery and attempt of the examples follow each other in time."""
    paths = document["paths"]
    invoice, page = (
        paths[path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        for path in ("/invoices/{id}", "/invoices/{id}/deliveries")
    )
    delivery = page["items"][0]
    attempt = delivery["attempts"][0]
    instants = [
        invoice["created_at"],
        invoice["events"][0]["at"],
        delivery["created_at"],
        attempt["started_at"],
        delivery["settled_at"],
    ]

    assert invoice["id"] == delivery["invoice_id"]
    assert delivery["attempt_count"] == len(delivery["attempts"])
    assert all(earlier <= later for earlier, later in pairwise(instants))


@pytest.mark.parametrize(
    ("expected", "path", "method"),
    [
        (
            {"200", "202", "400", "401", "408", "409", "413", "415", "422", "429", "503"},
            "/invoices/",
            "post",
        ),
        ({"200", "400", "401", "422", "429", "503"}, "/invoices/", "get"),
        ({"200", "400", "401", "404", "422", "429", "503"}, "/invoices/{id}", "get"),
        ({"200", "400", "401", "404", "422", "429", "503"}, "/invoices/{id}/deliveries", "get"),
        ({"200", "400", "401", "422", "429", "503"}, "/deliveries", "get"),
        ({"200", "400", "401", "404", "422", "429", "503"}, "/deliveries/{id}", "get"),
        ({"200", "400"}, "/healthz", "get"),
        ({"200", "400", "503"}, "/readyz", "get"),
        ({"200", "400"}, "/metrics", "get"),
    ],
)
def test_every_status_is_documented(document, expected, path, method):
    """An operation lists the statuses that it answers."""
    assert expected == set(document["paths"][path][method]["responses"])


def test_every_error_is_a_problem_document(document):
    """Every error has the same form, but on the pages for customers."""
    for path, method, operation in operations_in(document["paths"]):
        for code, answer in operation["responses"].items():
            if operation["tags"] == ["pages"]:
                types = set(answer.get("content", ()))
                assert {"text/html", "application/problem+json"} >= types, (method, path)
            elif code.isdigit() and int(code) >= 400 and "callback_url" not in path:
                content = answer["content"]["application/problem+json"]

                assert {"$ref": "#/components/schemas/Problem"} == content["schema"]
                assert int(code) == content["example"]["status"], (method, path)


def test_security_is_declared_for_every_private_operation(document):
    """
    Every operation requires the key, except those for health, for Stripe and for customers.

    Listeners have one of their own.
    """
    name, of_listeners = document["components"]["securitySchemes"]
    scheme = document["components"]["securitySchemes"][name]
    other = {
        path
        for path, _, operation in operations_in(document["paths"])
        if [{name: []}, {of_listeners: []}] == operation.get("security")
    }
    open_to_all = {
        path
        for path, method, operation in operations_in(document["paths"])
        if [] == operation.get("security", document["security"]) and "callback_url" not in path
    }

    assert ("http", "bearer") == (scheme["type"], scheme["scheme"])
    assert [{name: []}] == document["security"]
    assert {path for path in document["paths"] if path.startswith("/listen/")} == other
    by_signature = "/collectors/stripe/{account_id}"
    by_link = "/pay/{token}"
    assert {"/healthz", "/readyz", "/metrics", by_signature, by_link} == open_to_all


def test_private_operations_declare_401_and_429(document):
    """Exactly the operations that need a key declare 401; 429 has Retry-After."""
    for path, method, operation in operations_in(document["paths"]):
        if "callback_url" not in path:
            is_open = [] == operation.get("security")
            refusal = operation["responses"].get("429", {})

            assert ("401" in operation["responses"]) is not is_open, (method, path)
            assert is_open or "Retry-After" in refusal["headers"], (method, path)


def test_receivers_need_no_key(document):
    """A callback carries signatures and no key."""
    assert [] == callback_operation(document)["security"]


def test_field_errors_of_an_example_are_possible_there(document):
    """The example of a field error names a field of the same operation."""
    for path, method, operation in operations_in(document["paths"]):
        if "422" in operation["responses"] and "callback_url" not in path:
            names = {(one["in"], one["name"]) for one in operation["parameters"]}
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]
                schema = document["components"]["schemas"][reference["$ref"].rpartition("/")[2]]
                names |= {("body", name) for name in schema["properties"]}
            content = operation["responses"]["422"]["content"]["application/problem+json"]
            field_errors = content["example"]["errors"]

            assert field_errors, (method, path)
            assert names.issuperset((one["location"], one["pointer"][1:]) for one in field_errors)


def test_callback_key_is_the_declared_expression(document):
    """The key of the callback is the expression of the declaration."""
    callbacks = document["paths"]["/invoices/"]["post"]["callbacks"]

    assert [INVOICE_NOTIFICATION.name] == list(callbacks)
    assert [INVOICE_NOTIFICATION.expression] == list(callbacks[INVOICE_NOTIFICATION.name])


def built(*operations):
    """The document of *operations*, for a service with default settings."""
    return build_document(
        operations,
        version="1",
        public_url="http://x.example",
        callback_timeout=timedelta(seconds=15),
        is_strict=True,
    )


def declaring(*callbacks):
    """An operation that accepts an invoice and declares *callbacks*."""

    @docs(tags=["invoices"], callbacks=callbacks)
    @querystring_schema(CallbackQuerySchema)
    @json_schema(InvoiceRequestSchema)
    @refuses(422)
    async def handler(_request: web.Request) -> web.Response:
        raise NotImplementedError

    return read_operation("POST", "/x", handler)


def test_callback_follows_the_declaration():
    """The document changes with the declaration."""
    declared = dataclasses.replace(
        INVOICE_NOTIFICATION,
        name="renamed",
        expression="{$request.query.callback_url}/renamed/{$request.body#/customer}",
        method="put",
    )

    callback = built(declaring(declared))["paths"]["/x"]["post"]["callbacks"]["renamed"]
    ((expression, item),) = callback.items()

    assert "{$request.query.callback_url}/renamed/{$request.body#/customer}" == expression
    assert ["put"] == list(item)


class ParcelSchema(Schema):
    """A parcel."""

    weight = fields.Integer(metadata={"description": "In grams.", "example": 700})


ANOTHER = Callback(
    name="parcel_sent",
    expression="{$request.query.callback_url}/parcels",
    method="put",
    request=ParcelSchema,
    response=ParcelSchema,
    summary="A parcel was sent",
    description="Sent once.",
    answers=(
        AnswerRule("204", Meaning.DEAD, "No parcel is wanted."),
        AnswerRule("2XX", Meaning.DELIVERED, "The parcel is known."),
        AnswerRule("3XX", Meaning.RETRY, "Redirected."),
        AnswerRule("4XX", Meaning.RETRY, "Refused."),
        AnswerRule("5XX", Meaning.HOLD, "Failed."),
    ),
)


def test_a_second_callback_needs_only_a_declaration():
    """Several callbacks of one operation are documented under their names, each as declared."""
    callbacks = built(declaring(INVOICE_NOTIFICATION, ANOTHER))["paths"]["/x"]["post"]["callbacks"]
    operation = callbacks["parcel_sent"]["{$request.query.callback_url}/parcels"]["put"]
    answers = operation["responses"]

    assert [INVOICE_NOTIFICATION.name, "parcel_sent"] == list(callbacks)
    names = {"webhook-id", "webhook-timestamp", "webhook-signature", "webhook-attempt"}
    assert {*names, "user-agent"} == {one["name"] for one in operation["parameters"]}
    assert {"weight": 700} == operation["requestBody"]["content"]["application/json"]["example"]
    assert '`200` with a body such as `{"weight": 700}`' in operation["description"]
    assert "`204` to stop" in operation["description"]
    assert ["Dead", "Delivered", "Not delivered"] == [
        re.search("Dead|Delivered|Not delivered", one["description"])[0] for one in answers.values()
    ]
    assert ["204", "200", "default"] == list(answers)
    assert ["default"] == [statuses for statuses, one in answers.items() if "headers" in one]


def at(path, *callbacks):
    """An operation at *path* that declares *callbacks*."""
    declared = declaring(*callbacks)
    docs(operationId=f"send_{path}")(declared.handler)
    return read_operation("POST", f"/{path}", declared.handler)


def test_two_operations_may_declare_one_callback():
    """If two operations declare one callback, each of its operationIds is unique."""
    paths = built(at("x", ANOTHER), at("y", ANOTHER))["paths"]

    assert ["parcel_sent", "parcel_sent_of_send_y"] == [
        operation["operationId"]
        for path in paths.values()
        for operation in path["post"]["callbacks"]["parcel_sent"][ANOTHER.expression].values()
    ]


def test_other_callbacks_of_one_name_stop_the_start():
    """Deliveries name their callback, so the name means one declaration in the whole service."""
    with pytest.raises(DeclarationError, match="parcel_sent"):
        built(at("x", ANOTHER), at("y", dataclasses.replace(ANOTHER, method="post")))


def test_two_callbacks_of_one_name_stop_the_start():
    """Two callbacks with the same name in one operation raise an error."""
    with pytest.raises(DeclarationError, match="parcel_sent"):
        built(declaring(ANOTHER, dataclasses.replace(ANOTHER, summary="Again")))


def callback_operation(document):
    """The operation that a receiver implements."""
    callbacks = document["paths"]["/invoices/"]["post"]["callbacks"]
    return callbacks[INVOICE_NOTIFICATION.name][INVOICE_NOTIFICATION.expression]["post"]


def test_callback_shows_headers_and_expected_answers(document):
    """The callback documents its headers, the expected answer and the meaning of other answers."""
    operation = callback_operation(document)
    answer = operation["responses"]["200"]["content"]["application/json"]
    headers = {one.name: one for one in INVOICE_NOTIFICATION.headers}

    assert set(headers) - IMPLIED_HEADERS == {one["name"] for one in operation["parameters"]}
    for one in operation["parameters"]:
        declared = headers[one["name"]]
        shown = (one["description"], one["required"], one["schema"].get("pattern"))
        assert shown == (declared.description, declared.is_required, declared.pattern)
        # The signature is that of the example event.
        assert one["name"] == "webhook-signature" or one["example"] == declared.example
    example = {"description": "Invoice paid", "paid": True, "invoice_id": "2expen51ve"}
    assert example == operation["requestBody"]["content"]["application/json"]["example"]
    assert "compare `invoice_id` with the id in the path" in operation["description"]
    assert {"ok": True} == answer["example"]
    shown = {"2XX": "200", "410": "410"}
    assert {"200", "410", "default"} == set(operation["responses"])
    for rule in INVOICE_NOTIFICATION.answers:
        status = shown.get(rule.statuses, "default")
        assert rule.description in operation["responses"][status]["description"]


@pytest.mark.parametrize(
    "words",
    ["webhook-id", "webhook-timestamp", "webhook-signature", "15 seconds", "410", "once"],
)
def test_description_of_the_callback_explains_the_protocol(document, words):
    """The description of the callback explains the whole protocol."""
    assert words in callback_operation(document)["description"]


@pytest.mark.parametrize(
    ("expected", "timeout"), [("1 second:", 1000), ("2.5 seconds:", 2500), ("90 seconds:", 90_000)]
)
def test_deadline_of_the_callback_is_the_one_that_is_set(expected, timeout):
    """The document names the deadline that the operator has set."""
    document = document_of(Settings(callback_timeout=timedelta(milliseconds=timeout)))

    assert f"Answer within {expected}" in callback_operation(document)["description"]


@pytest.mark.parametrize(
    ("contract", "described", "row"),
    [
        ("strict", 'a body such as `{"ok": true}`', "Delivered, if the body is as declared"),
        ("lenient", "any body", "Delivered, with any body"),
    ],
)
def test_the_contract_for_receivers_is_documented(contract, described, row):
    """The document says whether the body of an acknowledgement counts."""
    operation = callback_operation(document_of(Settings(receiver_contract=contract)))

    assert f"`200` with {described} acknowledges" in operation["description"]
    assert operation["responses"]["200"]["description"].startswith(row)


def test_example_of_the_signature_verifies(document):
    """The signature of the document can be computed from its other examples."""
    examples = {one["name"]: one["example"] for one in callback_operation(document)["parameters"]}
    body = INVOICE_NOTIFICATION.render(INVOICE_NOTIFICATION.request_example)
    at = datetime.fromtimestamp(int(examples["webhook-timestamp"]), UTC)
    signature = Webhook(DEV_SECRET).sign(examples["webhook-id"], at, body.decode())

    assert signature == examples["webhook-signature"]


@pytest.mark.parametrize("name", ["InvoiceNotification", "InvoiceEventReceived"])
def test_bodies_of_the_callback_are_open(document, name):
    """A field may be added to an event without breaking strict receivers."""
    assert "additionalProperties" not in document["components"]["schemas"][name]


def test_models_of_generated_clients_have_names_of_their_own(document):
    """No model is called as what the libraries of clients, or languages, call something else."""
    common = {"Request", "Response", "Error", "Exception", "Next", "Event", "Object", "Client"}

    assert common.isdisjoint(document["components"]["schemas"])
    assert {"AttemptRequest", "AttemptPhases", "NextStep"} <= set(document["components"]["schemas"])


def test_answers_are_open_and_complete(document):
    """A response always has all of its fields, but for evidence; later versions may add more."""
    facts = set(document["components"]["schemas"]["Evidence"]["properties"]) - {"invoice_id"}
    for name, schema in document["components"]["schemas"].items():
        if name in {"InvoiceRequest", "InvoiceEventReceived", "Redelivery", "RefundRequest"}:
            continue
        if name in {"ArrivedEvents", "ListenerAnswer"}:
            continue
        optional = {
            "Problem": {"errors"},
            "Evidence": facts,
            "InvoiceNotification": {"test"},
        }.get(name, set())

        assert set(schema["properties"]) - optional == set(schema.get("required", ())), name
        assert "additionalProperties" not in schema, name


def test_request_is_closed(document):
    """A field that is not declared is refused, and the schema forbids it."""
    for name in ("InvoiceRequest", "Redelivery"):
        assert False is document["components"]["schemas"][name]["additionalProperties"]


def test_nullable_fields_have_two_types(document):
    """A nullable field has the type null, as in JSON Schema, not the keyword of OpenAPI 3.0."""
    properties = document["components"]["schemas"]["Invoice"]["properties"]

    assert ["string", "null"] == properties["callback_url"]["type"]
    assert "nullable" not in str(document)


def test_document_can_be_built_again():
    """Building the document does not change its input: a second build is equal."""
    assert document_of(Settings()) == document_of(Settings())


@pytest.mark.parametrize(
    ("expected", "expression"),
    [
        ("callback_uri", "{$request.query.callback_uri}/invoices/{$request.body#/id}"),
        ("Did you mean callback_url?", "{$request.query.callback_uri}"),
        ("number", "{$request.query.callback_url}/invoices/{$request.body#/number}"),
        ("x-callback", "{$request.header.x-callback}"),
        ("invoice_id", "{$request.query.callback_url}/{$request.path.invoice_id}"),
    ],
)
def test_undeclared_name_stops_the_start(expected, expression):
    """An expression with an undeclared name raises an error that contains the name."""
    declared = dataclasses.replace(INVOICE_NOTIFICATION, expression=expression)
    with pytest.raises(DeclarationError, match="invoice_notification") as refusal:
        built(declaring(declared))

    assert expected in str(refusal.value)


def test_body_of_an_operation_without_one_stops_the_start():
    """An expression for the body raises an error if the operation has no body."""

    @docs(tags=["invoices"], callbacks=[INVOICE_NOTIFICATION])
    @querystring_schema(CallbackQuerySchema)
    @refuses(422)
    async def handler(_request: web.Request) -> web.Response:
        raise NotImplementedError

    with pytest.raises(DeclarationError, match="declares none"):
        built(read_operation("POST", "/x", handler))


def test_every_documented_operation_is_served(document):
    """The document and the routes are made from one table."""
    documented = {(method.upper(), path) for path, method, _ in operations_in(document["paths"])}

    assert {(one.method, one.path) for one in OPERATIONS} <= documented


def test_patterns_are_those_of_json_schema(document):
    """Every pattern is a valid regular expression in ECMA-262, and not only in Python."""
    patterns = re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(document))

    assert patterns
    assert [] == [one for one in patterns if re.search(r"\\[AZz]|\(\?P|\(\?i", json.loads(one))]
