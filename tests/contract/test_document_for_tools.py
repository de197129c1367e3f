"""The document works in code generators, in viewers and for readers."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.event import InvoiceEventReceivedSchema
from service.api.application import OPERATIONS, make_application, reserved_ids
from service.app.assembling import assemble
from service.app.documents import document_of
from service.app.edges import Edges
from service.app.process import DEVELOPMENT
from service.collection.sandbox import Sandbox
from service.database.sqlite import SqliteDatabase
from service.settings import Settings
from service.web.problems import PROBLEMS
from tests.fakes import FakeReceivers
from tests.mails import FakeTransport

METHODS = {"get", "post"}


@pytest.fixture(scope="module")
def document():
    """The document with default settings."""
    return document_of(Settings())


@pytest.fixture
async def site(aiohttp_client, tmp_path):
    """A client of the service in development mode; no test here needs its database."""
    edges = Edges(
        database=SqliteDatabase(f"sqlite:///{tmp_path}/invoices.db"),
        sender=FakeReceivers(),
        mail_transport=FakeTransport(),
        collector=Sandbox(timedelta(seconds=1)),
    )
    service = assemble(Settings(), DEVELOPMENT, edges, OPERATIONS, document_of(Settings()))
    yield await aiohttp_client(make_application(service.dependencies))
    await edges.database.close()


def schema(document, name):
    """The schema named *name*."""
    return document["components"]["schemas"][name]


def callback(document):
    """The operation that a receiver implements."""
    (item,) = document["paths"]["/invoices/"]["post"]["callbacks"]["invoice_notification"].values()
    return item["post"]


def test_total_is_a_string_or_a_double(document):
    """The amount is `anyOf` two schemas, because generators expect one type in each schema."""
    total = schema(document, "InvoiceRequest")["properties"]["total"]
    text, number = total["anyOf"]

    assert "type" not in total
    assert ("string", "number", "double") == (text["type"], number["type"], number["format"])
    assert {"pattern"} <= set(text)
    assert {"exclusiveMinimum", "maximum"} <= set(number)


def test_ok_is_a_plain_boolean(document):
    """`ok` has no enum, which Java generators cannot read; its description has the rule."""
    ok = schema(document, "InvoiceEventReceived")["properties"]["ok"]

    assert {"type", "description", "example"} == set(ok)
    assert "boolean" == ok["type"]
    assert "Always true" in ok["description"]
    assert True is ok["example"]
    assert {"ok": ["Must be true."]} == InvoiceEventReceivedSchema().validate({"ok": False})


def test_no_response_has_a_status_range(document):
    """The document has no `2XX`: generated code needs a number, and viewers sort it behind 410."""
    assert ["200", "410", "default"] == list(callback(document)["responses"])
    for operations in document["paths"].values():
        for operation in operations.values():
            assert all(status.isdigit() for status in operation["responses"])


def test_the_responses_explain_every_class_of_status(document):
    """Any 2xx acknowledges the event, and each class of failures is explained."""
    answers = callback(document)["responses"]

    assert "Every other 2xx counts too." in answers["200"]["description"]
    for status in ("`3xx`", "`4xx`", "`5xx`"):
        assert status in answers["default"]["description"]
    assert "Retry-After" in answers["default"]["headers"]


def test_schemas_have_names_for_generated_classes(document):
    """Schemas have good names, because generated clients use them for classes."""
    named = set(document["components"]["schemas"])

    assert {
        "Invoice",
        "InvoiceRequest",
        "FieldError",
        "InvoiceEvent",
        "InvoiceEventRecord",
        "InvoiceNotification",
    } <= named
    assert set() == named & {"Mistake", "ToldEvent", "CollectedInvoice", "RecordedEvent"}


@pytest.mark.parametrize(
    ("expected", "method", "path"),
    [
        ("Liveness", "get", "/healthz"),
        ("Readiness", "get", "/readyz"),
        ("Metrics", "get", "/metrics"),
        ("Redeliver dead deliveries", "post", "/deliveries/redeliver"),
    ],
)
def test_summaries_are_the_terms_of_the_field(document, expected, method, path):
    """Summaries use the terms of the field, because viewers show them as headings."""
    assert expected == document["paths"][path][method]["summary"]


def test_a_redelivered_delivery_is_shown_pending(document):
    """The example of the response to a redelivery is a pending delivery."""
    answer = document["paths"]["/deliveries/{id}/redeliver"]["post"]["responses"]["202"]
    example = answer["content"]["application/json"]["example"]

    assert ("pending", None) == (example["status"], example["settled_at"])
    assert example["due_at"] > example["created_at"]


def test_no_description_promises_every_attempt(document):
    """A response has at most the newest hundred attempts, and no description promises more."""
    texts = [document["info"]["description"]]
    for operations in document["paths"].values():
        texts += [one["description"] for one in operations.values()]

    assert [] == [text for text in texts if "every attempt" in text or "all of their" in text]


def test_the_callback_url_has_an_example(document):
    """The parameter `callback_url` has an example."""
    parameters = document["paths"]["/invoices/"]["post"]["parameters"]
    (parameter,) = [one for one in parameters if "callback_url" == one["name"]]

    assert "https://api.example.com" == parameter.get("example", parameter["schema"].get("example"))


def test_operations_without_a_body_do_not_mention_json(document):
    """The description of 400 mentions JSON only for operations with a body."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation["responses"]["400"]["content"]["application/problem+json"]
            text = f"{operation['responses']['400']['description']} {content['example']['detail']}"

            assert ("JSON" in text) is ("requestBody" in operation), path


def test_the_document_has_no_link_to_its_own_page(document):
    """The URL of the contact is not the page that shows the document."""
    assert {"name"} == set(document["info"]["contact"])


def test_an_id_cannot_hide_another_operation():
    """A path without parameters has precedence over a path with parameters, as in OpenAPI."""
    reserved = {one.path: reserved_ids(one, OPERATIONS) for one in OPERATIONS}

    assert ["redeliver"] == reserved.pop("/deliveries/{id}")
    assert [] == [path for path, ids in reserved.items() if ids]


@pytest.mark.parametrize("path", ["/deliveries/redeliver", "/deliveries/redeliver/"])
async def test_only_methods_that_exist_are_allowed(site, path):
    """`Allow` has the methods of this path, and not those of `/deliveries/{id}`."""
    answer = await site.get(path)

    assert (405, "OPTIONS, POST") == (answer.status, answer.headers["Allow"])


async def test_problems_are_explained_to_callers(site):
    """The page of problems addresses the caller, and each problem has an anchor."""
    text = await (await site.get("/api/docs/problems")).text()

    assert [] == [name for _, name, _ in PROBLEMS.values() if f'id="{name}"' not in text]
    assert "Your account is above a limit" in text
    assert "The collector does not answer" in text
    assert "already used by an invoice" not in text
    assert "field_errors" not in text
    assert '<meta name="viewport"' in text


async def test_the_page_fits_a_phone_and_shows_operations_folded(site):
    """The page has the width of the screen and shows the operations folded."""
    text = await (await site.get("/api/docs")).text()

    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert 'docExpansion: "list"' in text


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.5", "GZIP ; q=1.0"])
async def test_files_are_compressed(site, accepted):
    """A compressed file has at most a third of its size."""
    path = "/api/docs/static/swagger-ui-bundle.js"
    plain = await site.get(path, headers={"Accept-Encoding": "identity"})
    packed = await site.get(path, headers={"Accept-Encoding": accepted})

    assert "gzip" == packed.headers["Content-Encoding"]
    assert "Accept-Encoding" == packed.headers["Vary"]
    assert await plain.read() == await packed.read()
    assert int(packed.headers["Content-Length"]) * 3 < int(plain.headers["Content-Length"])


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "gzip; q=0.0", "xgzip"])
async def test_a_client_that_does_not_accept_gzip_gets_plain_files(site, accepted):
    """A file is compressed only if the client accepts gzip."""
    answer = await site.get("/api/docs/openapi.json", headers={"Accept-Encoding": accepted})

    assert "Content-Encoding" not in answer.headers
    assert document_of(Settings()) == await answer.json()


async def test_a_file_that_has_not_changed_is_not_sent_again(site):
    """A conditional request for a file that has not changed gets 304."""
    path = "/api/docs/static/page.css"
    first = await site.get(path)
    second = await site.get(path, headers={"If-None-Match": first.headers["ETag"]})

    assert ("no-cache", "text/css") == (first.headers["Cache-Control"], first.content_type)
    assert (304, b"") == (second.status, await second.read())
