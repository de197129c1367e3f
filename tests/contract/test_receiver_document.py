"""The document of the receiver: the same callbacks, as operations of the API that receives them."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import EXCLUDE, Schema, fields
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator
from standardwebhooks import Webhook

from service.api.application import OPERATIONS
from service.app.documents import receiver_document_of
from service.callbacks.answers import STANDARD_ANSWERS, AnswerRule, Meaning
from service.callbacks.exchange import Exchange, Message
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.commands import main
from service.development import DEV_SECRET
from service.errors import DeclarationError
from service.receiver.document import VERSIONS, Promise, build_receiver_document
from service.receiver.vectors import vectors_document
from service.settings import Settings

VALIDATORS = {"3.0.3": OpenAPIV30SpecValidator, "3.1.0": OpenAPIV31SpecValidator}
EXAMPLE = Exchange("/x", "POST", Message(body={"id": "a/b"}, query={"url": "http://h"}))


STARTS = (
    "{$request.query.url}",
    "{$url}",
    "{$request.body#/a~1b/0}",
    "https://h",
    "http://x.y:80/",
)
PIECES = (
    *("{$request.body#/id}", "{$request.query.a b}", "{$request.path.é}", "{$request.body}"),
    *("{$request.header.X-A}", "{$method}", "{$statusCode}", "{$response.body}"),
    *("/", "?", "&", "=", "#", "/a", "a=b", "-", ".", ":", "@", "%7B", "..", "//", "[", "~", ","),
)
"""Beginnings of expressions, and what may follow them, sensible or not."""


class PickedUpSchema(Schema):
    """Another event."""

    class Meta:
        """Open."""

        unknown = EXCLUDE

    at = fields.DateTime(allow_none=True, metadata={"example": "2026-01-31T12:00:00Z"})
    weight = fields.Decimal(metadata={"example": "1.5"})


@pytest.fixture
def served_document(document):
    """The real documents."""
    return document


def declared(expression, **changes):
    """A callback with *expression*."""
    return replace(INVOICE_NOTIFICATION, expression=expression, **changes)


def built(*callbacks, openapi="3.0.3"):
    """The valid document of *callbacks*."""
    document = build_receiver_document(
        [Promise(one, EXAMPLE) for one in callbacks],
        version="1",
        timeout=timedelta(seconds=15),
        is_strict=True,
        openapi=openapi,
    )
    VALIDATORS[openapi](document).validate()
    return document


def operation_of(document, path="/invoices/{id}", method="post"):
    """An operation of *document*."""
    return document["paths"][path][method]


@pytest.fixture(params=VERSIONS)
def receiver_document(request):
    """The real document, in each version of OpenAPI."""
    return receiver_document_of(Settings(), openapi=request.param)


def test_document_is_valid(receiver_document):
    """The document is valid in the version that it names."""
    VALIDATORS[receiver_document["openapi"]](receiver_document).validate()


def test_default_is_what_generators_read():
    """Without a choice the document is OpenAPI 3.0.3, which has no `webhooks`."""
    document = receiver_document_of(Settings())

    assert "3.0.3" == document["openapi"]
    assert "webhooks" not in document


def test_callback_is_an_operation_of_the_receiver(receiver_document):
    """The rest of the expression is the path, and what it begins with the server."""
    (server,) = receiver_document["servers"]
    (path,) = operation_of(receiver_document)["parameters"][:1]

    assert ["/invoices/{id}"] == list(receiver_document["paths"])
    assert "{callback_url}" == server["url"]
    assert "http://127.0.0.1:9000" == server["variables"]["callback_url"]["default"]
    assert ("path", "id", True, "2expen51ve") == tuple(
        path[key] for key in ("in", "name", "required", "example")
    )


def test_headers_are_those_that_are_sent(receiver_document):
    """Each declared header is a parameter; its example matches its pattern."""
    headers = {
        one["name"]: one
        for one in operation_of(receiver_document)["parameters"]
        if one["in"] == "header"
    }
    sent = {one.name: one for one in INVOICE_NOTIFICATION.headers if one.name != "content-type"}

    assert headers.keys() == sent.keys()
    for name, one in sent.items():
        assert one.is_required == headers[name]["required"]
        assert re.search(headers[name]["schema"].get("pattern", ""), headers[name]["example"])


def test_generators_do_not_change_the_patterns(receiver_document):
    """Some generators escape these characters as HTML does, and no value would match then."""
    patterns = [
        one["schema"].get("pattern", "") for one in operation_of(receiver_document)["parameters"]
    ]

    assert [] == [one for one in patterns if set(one) & set("=<>&\"'`\\")]


def test_examples_verify(receiver_document):
    """The example headers are a signature of the example body, written without blanks."""
    operation = operation_of(receiver_document)
    headers = {one["name"]: one["example"] for one in operation["parameters"]}
    event = operation["requestBody"]["content"]["application/json"]["example"]
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)

    expected = Webhook(DEV_SECRET).sign(headers["webhook-id"], at, orjson.dumps(event).decode())
    assert expected == headers["webhook-signature"]
    assert DEV_SECRET in receiver_document["info"]["description"]
    assert dict(INVOICE_NOTIFICATION.request_example) == event


def test_answers_are_single_statuses(receiver_document):
    """Each answer says what follows from it, the acknowledgement first, and none is a class."""
    responses = operation_of(receiver_document)["responses"]

    assert ["200", "401", "410", "503"] == list(responses)
    assert {"ok": True} == responses["200"]["content"]["application/json"]["example"]
    assert "signature does not verify" in responses["401"]["description"]
    assert "is not sent again" in responses["410"]["description"]
    assert "Retry-After" in responses["503"]["headers"]


def test_what_breaks_generators_is_not_in_the_document(receiver_document):
    """Boolean enums, `additionalProperties` and status classes break generated servers."""
    text = orjson.dumps(receiver_document).decode()

    assert [] == [
        word
        for word in ('"additionalProperties"', '"const"', '"enum":[true]', '"2XX"', '"default":{')
        if word in text
    ]
    assert "invoiceNotification" == operation_of(receiver_document)["x-codegen-request-body-name"]


def test_webhooks_are_the_same_operations():
    """In OpenAPI 3.1 each callback is under `webhooks` too, without what its path brings."""
    document = receiver_document_of(Settings(), openapi="3.1.0")
    placed, twin = operation_of(document), document["webhooks"]["invoice_notification"]["post"]

    assert {"header"} == {one["in"] for one in twin["parameters"]}
    assert placed["requestBody"] == twin["requestBody"]
    assert placed["responses"] == twin["responses"]
    assert placed["operationId"] != twin["operationId"]


@pytest.mark.parametrize("openapi", VERSIONS)
@pytest.mark.parametrize(
    "expression",
    [
        "{$request.query.url}",
        "{$request.query.url}/a?id={$request.body#/id}&id={$request.query.x}&fixed=1",
        "{$request.query.url}/{$request.body#/id}{$request.body#/id}/{$request.body#/id}",
        "https://{$request.body#/id}.a.example:{$request.query.port}/{$method}",
        "https://a.example/hook",
        "{$url}/{$request.header.x-thing}/",
    ],
)
def test_odd_templates_make_valid_documents(expression, openapi):
    """Every template that can make a URL makes a valid document."""
    document = built(declared(expression), openapi=openapi)

    assert openapi == document["openapi"]


def test_query_of_the_url_is_described():
    """A query parameter has the values that are sent: an example, a fixed text, or several."""
    query = "id={$request.body#/id}&kind=paid&tag=a&tag=b"
    operation = operation_of(built(declared(f"{{$request.query.url}}/a?{query}")), "/a")
    parameters = {one["name"]: one for one in operation["parameters"] if one["in"] == "query"}

    assert "a/b" == parameters["id"]["example"]
    assert ["paid"] == parameters["kind"]["schema"]["enum"]
    assert ["a", "b"] == parameters["tag"]["example"]


def test_schemas_of_any_field_are_valid():
    """The schemas of a callback may have fields that differ between versions of OpenAPI."""
    for openapi in VERSIONS:
        document = built(
            declared("{$request.query.url}/a", request=PickedUpSchema, path_fields={}),
            openapi=openapi,
        )

        assert "PickedUp" in document["components"]["schemas"]


def test_callbacks_with_one_path_are_below_their_names():
    """Two callbacks that would have one route are told apart by their names."""
    document = built(
        declared("{$request.query.paid_url}/{$request.body#/id}", name="paid"),
        declared("{$request.query.failed_url}/{$request.body#/number}", name="failed"),
    )

    assert {"/paid/{id}", "/failed/{number}"} == set(document["paths"])
    described = document["paths"]["/failed/{number}"]["post"]["description"]
    assert "the URL of your server, followed by `/failed`" in described
    assert "{failed_url}" == document["paths"]["/failed/{number}"]["post"]["servers"][0]["url"]


def test_callbacks_to_a_url_of_their_own_are_told_apart():
    """Two callbacks to a URL that the receiver gives as a whole are at their names."""
    document = built(
        declared("{$request.query.paid_url}", name="paid"),
        declared("{$request.query.failed_url}", name="failed"),
    )

    assert {"/paid", "/failed"} == set(document["paths"])


@given(parts=st.lists(st.sampled_from([*PIECES]), max_size=6), start=st.sampled_from(STARTS))
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_every_template_has_a_valid_document_or_a_reason(start, parts):
    """Whatever an expression is, its document is valid, or the error says why there is none."""
    try:
        callback = declared(start + "".join(parts))
        for openapi in VERSIONS:
            built(callback, openapi=openapi)
    except DeclarationError as error:
        assert str(error)


def test_a_callback_with_a_server_of_its_own_keeps_its_path():
    """Where the declaration names the server, the path is the declared one."""
    document = built(
        declared("{$request.query.url}/hook", name="chosen"),
        declared("https://a.example/hook", name="fixed"),
    )

    assert {"/chosen/hook", "/hook"} == set(document["paths"])


def test_a_callback_of_several_operations_is_once():
    """A callback that two operations make is one operation of the receiver."""
    assert 1 == len(built(INVOICE_NOTIFICATION, INVOICE_NOTIFICATION)["paths"])


@pytest.mark.parametrize(
    ("words", "callbacks"),
    [
        ("the name is used twice", [declared("{$url}/a"), declared("{$url}/b")]),
        (
            "another one has the same URL",
            [declared("https://a.example/a", name="a"), declared("https://a.example/a", name="b")],
        ),
        ("fragment", [declared("{$request.query.url}/#a")]),
    ],
)
def test_what_cannot_be_described_is_an_error(words, callbacks):
    """Callbacks that no document can describe are refused with a reason."""
    with pytest.raises(DeclarationError, match=words):
        built(*callbacks)


def test_other_meanings_of_answers_are_kept():
    """The answers are those of the declaration, whatever they are."""
    answers = (
        AnswerRule("202", Meaning.DELIVERED, "Taken."),
        AnswerRule("2XX", Meaning.RETRY, "Not taken."),
        AnswerRule("401", Meaning.DEAD, "Not yours."),
        AnswerRule("429", Meaning.HOLD, "Later."),
        *STANDARD_ANSWERS[1:],
    )
    responses = operation_of(built(declared("{$url}/a", answers=answers)), "/a")["responses"]

    assert ["202", "401", "410", "429", "503"] == list(responses)
    assert responses["401"]["description"].endswith("Not yours.")


# Where the document is found


async def test_document_is_served_as_json_and_yaml(api):
    """The served documents equal those of the command line."""
    as_json = await api.get("/api/docs/receiver.json")
    as_yaml = await api.get("/api/docs/receiver.yaml/")

    assert receiver_document_of(Settings()) == await as_json.json()
    assert receiver_document_of(Settings()) == yaml.safe_load(await as_yaml.text())
    assert "*" == as_json.headers["Access-Control-Allow-Origin"]


@pytest.mark.parametrize(
    ("openapi", "wanted"),
    [("3.0.3", "3.0"), ("3.0.3", "3.0.3"), ("3.1.0", "3.1"), ("3.1.0", "3.1.0")],
)
async def test_version_is_chosen_in_the_query(api, openapi, wanted):
    """`?openapi=` chooses the version, in full or as in 3.1."""
    answer = await api.get("/api/docs/receiver.json", params={"openapi": wanted})

    assert openapi == (await answer.json())["openapi"]


@pytest.mark.parametrize("wanted", ["2.0", "", "3", "3.1.1", "latest"])
async def test_unknown_version_is_refused(api, wanted):
    """Another version is answered 422 with those that there are."""
    answer = await api.get("/api/docs/receiver.json", params={"openapi": wanted})
    (error,) = (await answer.json())["errors"]

    assert 422 == answer.status
    assert ("query", "/openapi", "Must be one of: 3.0, 3.1.") == tuple(error.values())


@pytest.mark.parametrize(
    ("openapi", "options"),
    [("3.0.3", []), ("3.0.3", ["--openapi", "3.0"]), ("3.1.0", ["--openapi", "3.1"])],
)
def test_command_prints_the_document(openapi, options):
    """`invoices spec --receiver` prints the document in both formats."""
    expected = receiver_document_of(Settings(), openapi=openapi)
    as_json = CliRunner().invoke(main, ["spec", "--receiver", *options])
    as_yaml = CliRunner().invoke(main, ["spec", "--receiver", "--format", "yaml", *options])

    assert expected == orjson.loads(as_json.stdout)
    assert expected == yaml.safe_load(as_yaml.stdout)


def test_operations_of_others_have_a_document_too():
    """The document holds the callbacks of the operations that are served, and no others."""
    others = [one for one in OPERATIONS if not one.callbacks]

    assert {} == receiver_document_of(Settings(), others)["paths"]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_vectors_are_served(api, slash):
    """The vectors are readable by everybody, as every other document is."""
    answer = await api.get(f"/api/docs/vectors.json{slash}")

    assert vectors_document(INVOICE_NOTIFICATION) == await answer.json()
    assert "application/json" == answer.content_type
    assert "*" == answer.headers["Access-Control-Allow-Origin"]
