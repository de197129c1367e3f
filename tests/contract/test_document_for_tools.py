"""The document in the forms that generators, viewers and people can use."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.event import InvoiceEventReceivedSchema
from service.api.application import OPERATIONS, make_application, reserved_ids
from service.app import DEVELOPMENT, Edges, assemble, document_of
from service.collection.sandbox import Sandbox
from service.database.sqlite import SqliteDatabase
from service.settings import Settings
from service.web.problems import PROBLEMS
from tests.fakes import FakeReceivers

METHODS = {"get", "post"}


@pytest.fixture(scope="module")
def document():
    """The document with default settings."""
    return document_of(Settings())


@pytest.fixture
async def site(aiohttp_client, tmp_path):
    """Asks the service, wired as it is in development mode; no test here needs its database."""
    edges = Edges(
        database=SqliteDatabase(f"sqlite:///{tmp_path}/invoices.db"),
        sender=FakeReceivers(),
        collector=Sandbox(timedelta(seconds=1)),
    )
    service = assemble(Settings(), DEVELOPMENT, edges, OPERATIONS, document_of(Settings()))
    yield await aiohttp_client(make_application(service.dependencies))
    await edges.database.close()


def schema(document, name):
    """The schema that has *name*."""
    return document["components"]["schemas"][name]


def callback(document):
    """The operation that a receiver builds."""
    (item,) = document["paths"]["/invoices/"]["post"]["callbacks"]["invoice_notification"].values()
    return item["post"]


def test_total_is_a_string_or_a_double(document):
    """Generators that know one type for each schema read the amount as one of two schemas."""
    total = schema(document, "InvoiceRequest")["properties"]["total"]
    text, number = total["anyOf"]

    assert "type" not in total
    assert ("string", "number", "double") == (text["type"], number["type"], number["format"])
    assert {"pattern"} <= set(text)
    assert {"exclusiveMinimum", "maximum"} <= set(number)


def test_ok_is_a_plain_boolean(document):
    """A boolean with an enum is no boolean in Java; the rule stands in words and in the example."""
    ok = schema(document, "InvoiceEventReceived")["properties"]["ok"]

    assert {"type", "description", "example"} == set(ok)
    assert "boolean" == ok["type"]
    assert "Always true" in ok["description"]
    assert True is ok["example"]
    assert {"ok": ["Must be true."]} == InvoiceEventReceivedSchema().validate({"ok": False})


def test_no_status_of_an_answer_is_a_class(document):
    """`2XX` is no number in a generated program, and viewers sort it behind 410."""
    assert ["200", "410", "default"] == list(callback(document)["responses"])
    for operations in document["paths"].values():
        for operation in operations.values():
            assert all(status.isdigit() for status in operation["responses"])


def test_the_answers_say_what_every_status_leads_to(document):
    """What counts is still any 2xx, and each class of failures is explained."""
    answers = callback(document)["responses"]

    assert "Every other 2xx counts too." in answers["200"]["description"]
    for status in ("`3xx`", "`4xx`", "`5xx`"):
        assert status in answers["default"]["description"]
    assert "Retry-After" in answers["default"]["headers"]


def test_schemas_have_the_names_that_clients_want(document):
    """Generated clients name their classes after the schemas."""
    named = set(document["components"]["schemas"])

    assert {
        "Invoice",
        "InvoiceRequest",
        "FieldError",
        "InvoiceEvent",
        "InvoiceEventRecord",
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
    """Summaries are headings in viewers and in generated documentation."""
    assert expected == document["paths"][path][method]["summary"]


def test_a_redelivered_delivery_is_shown_pending(document):
    """The example of the answer to a redelivery is what that answers."""
    answer = document["paths"]["/deliveries/{id}/redeliver"]["post"]["responses"]["202"]
    example = answer["content"]["application/json"]["example"]

    assert ("pending", None) == (example["status"], example["settled_at"])
    assert example["due_at"] > example["created_at"]


def test_nothing_promises_more_attempts_than_are_returned(document):
    """At most the newest hundred attempts are answered, and no description says more."""
    texts = [document["info"]["description"]]
    for operations in document["paths"].values():
        texts += [one["description"] for one in operations.values()]

    assert [] == [text for text in texts if "every attempt" in text or "all of their" in text]


def test_the_callback_url_has_an_example(document):
    """A person who tries the page sees what a callback URL looks like."""
    parameters = document["paths"]["/invoices/"]["post"]["parameters"]
    (parameter,) = [one for one in parameters if "callback_url" == one["name"]]

    assert "https://api.example.com" == parameter.get("example", parameter["schema"].get("example"))


def test_a_request_without_a_body_is_not_refused_for_its_body(document):
    """The answer 400 speaks of JSON only where JSON is sent."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation["responses"]["400"]["content"]["application/problem+json"]
            text = f"{operation['responses']['400']['description']} {content['example']['detail']}"

            assert ("JSON" in text) is ("requestBody" in operation), path


def test_the_document_links_to_nothing_that_leads_back_to_it(document):
    """A contact whose URL is the page that shows it helps nobody."""
    assert {"name"} == set(document["info"]["contact"])


def test_an_id_cannot_hide_another_operation():
    """A path without parameters goes before one with parameters, as OpenAPI has it."""
    reserved = {one.path: reserved_ids(one, OPERATIONS) for one in OPERATIONS}

    assert ["redeliver"] == reserved.pop("/deliveries/{id}")
    assert [] == [path for path, ids in reserved.items() if ids]


@pytest.mark.parametrize("path", ["/deliveries/redeliver", "/deliveries/redeliver/"])
async def test_only_methods_that_exist_are_allowed(site, path):
    """`Allow` names what the path has, and not what a path with an id in its place would have."""
    answer = await site.get(path)

    assert (405, "OPTIONS, POST") == (answer.status, answer.headers["Allow"])


async def test_problems_are_explained_to_callers(site):
    """The page of problems speaks to whoever sent the request, and each kind has its place."""
    text = await (await site.get("/api/docs/problems")).text()

    assert [] == [name for _, name, _ in PROBLEMS.values() if f'id="{name}"' not in text]
    assert "Your account is above its rate limit." in text
    assert "field_errors" not in text
    assert '<meta name="viewport"' in text


async def test_the_page_fits_a_phone_and_shows_operations_folded(site):
    """The page takes the width of the screen and begins with a list, and not with everything."""
    text = await (await site.get("/api/docs")).text()

    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert 'docExpansion: "list"' in text


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.5", "GZIP ; q=1.0"])
async def test_files_are_compressed(site, accepted):
    """The program of the page is a third as large on the way."""
    path = "/api/docs/static/swagger-ui-bundle.js"
    plain = await site.get(path, headers={"Accept-Encoding": "identity"})
    packed = await site.get(path, headers={"Accept-Encoding": accepted})

    assert "gzip" == packed.headers["Content-Encoding"]
    assert "Accept-Encoding" == packed.headers["Vary"]
    assert await plain.read() == await packed.read()
    assert int(packed.headers["Content-Length"]) * 3 < int(plain.headers["Content-Length"])


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "gzip; q=0.0", "xgzip"])
async def test_who_does_not_take_gzip_gets_none(site, accepted):
    """Only a client that says so is sent something compressed."""
    answer = await site.get("/api/docs/openapi.json", headers={"Accept-Encoding": accepted})

    assert "Content-Encoding" not in answer.headers
    assert document_of(Settings()) == await answer.json()


async def test_a_file_is_sent_once(site):
    """A browser that has the file asks whether it is still the one, and is told so."""
    path = "/api/docs/static/page.css"
    first = await site.get(path)
    second = await site.get(path, headers={"If-None-Match": first.headers["ETag"]})

    assert ("no-cache", "text/css") == (first.headers["Cache-Control"], first.content_type)
    assert (304, b"") == (second.status, await second.read())
