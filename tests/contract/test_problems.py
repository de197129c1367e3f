"""Every error is a problem document, wherever it was raised."""

from __future__ import annotations

import pytest
from aiohttp import web

from service.api.application import make_application
from service.errors import (
    CollectorUnavailable,
    ListenersUnavailable,
    RequestError,
    StorageUnavailable,
)
from service.loops import running_loops
from service.web.problems import PROBLEMS
from tests.clock import PATIENCE_SECONDS

JSON = {"Content-Type": "application/json"}
INVOICE = {"id": "1", "customer": "c", "total": "1"}


async def problem_of(answer, status):
    """The problem document of *answer*, which has *status*."""
    assert status == answer.status, await answer.text()
    assert "application/problem+json" == answer.content_type
    document = await answer.json()
    assert status == document["status"]
    assert {"type", "title", "status", "detail"} <= set(document)
    return document


def leaves(error):
    """The error classes without subclasses."""
    below = error.__subclasses__()
    return {one for child in below for one in leaves(child)} if below else {error}


def test_every_error_of_a_caller_has_a_problem_type():
    """Every error that a caller can act on has a problem type of its own, and is never a 500."""
    unavailable = {CollectorUnavailable, ListenersUnavailable, StorageUnavailable}

    assert leaves(RequestError) | unavailable == set(PROBLEMS)


@pytest.mark.parametrize("path", ["/", "/none", "/invoice", "/invoices//", "/invoices/1/x", "/.."])
async def test_unknown_path_is_a_problem(api, path):
    """The 404 of aiohttp is a problem document like every other error."""
    document = await problem_of(await api.get(path), 404)

    assert "/api/docs" in document["detail"]


@pytest.mark.parametrize(
    ("expected", "method", "path"),
    [
        ("GET, HEAD, OPTIONS, POST", "PUT", "/invoices/"),
        ("GET, HEAD, OPTIONS, POST", "DELETE", "/invoices"),
        ("GET, HEAD, OPTIONS", "POST", "/invoices/1"),
        ("GET, HEAD, OPTIONS", "PATCH", "/deliveries/1/"),
        ("GET, HEAD, OPTIONS", "POST", "/deliveries"),
        ("GET, HEAD, OPTIONS", "POST", "/healthz"),
        ("GET, HEAD, OPTIONS", "TRACE", "/invoices/1"),
        ("GET, HEAD, OPTIONS", "POST", "/api/docs/openapi.json"),
    ],
)
async def test_method_that_is_not_allowed_is_a_problem(api, expected, method, path):
    """The 405 of aiohttp is a problem document with the allowed methods."""
    answer = await api.request(method, path)
    await problem_of(answer, 405)

    assert expected == answer.headers["Allow"]


async def test_options_lists_the_allowed_methods(api):
    """OPTIONS answers with the allowed methods and an empty body."""
    answer = await api.options("/invoices/")

    assert 204 == answer.status
    assert "GET, HEAD, OPTIONS, POST" == answer.headers["Allow"]
    assert b"" == await answer.read()


async def test_options_of_an_unknown_path_is_404(api):
    """OPTIONS of an unknown path is 404."""
    await problem_of(await api.options("/none"), 404)


@pytest.mark.parametrize(
    "path", ["/receivers", "/events", "/healthz", "/readyz/", "/api/docs", "/api/docs/problems"]
)
async def test_head_answers_like_get_without_the_body(api, path):
    """HEAD has the status and the headers of GET."""
    head, get = await api.head(path), await api.get(path)

    assert (get.status, get.content_type) == (head.status, head.content_type)
    assert get.headers["Content-Length"] == head.headers["Content-Length"]
    assert b"" == await head.read()


@pytest.mark.parametrize("path", ["/invoices/", "/deliveries"])
async def test_head_of_a_list_does_not_read_it(api, path):
    """HEAD of a list has the status and the type of GET, and no length: that is not known."""
    head, get = await api.head(path), await api.get(path)

    assert (get.status, get.content_type) == (head.status, head.content_type)
    assert "Content-Length" not in head.headers
    assert b"" == await head.read()


async def test_head_of_a_missing_invoice_is_404(api):
    """HEAD of an unknown invoice is 404, like GET."""
    assert 404 == (await api.head("/invoices/none")).status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b"{'id': 1}",
        b'{"id": 1,}',
        b'{"id": NaN}',
        b'{"id": Infinity}',
        b'{"id": 01}',
        b'{"id": "\\ud800"}',
        b'{"id": "\xff"}',
        b'{"id": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"id": "1"}',
        '{"id": "1"}'.encode("utf-16"),
        b"[" * 60000,
        b'{"a":' * 10000,
        b'{"id": "1"} {"id": "2"}',
        b"\x00",
        b'{"total": ' + b"9" * 5000 + b"}",
    ],
)
async def test_body_that_is_not_json_is_a_problem(api, body):
    """A body that is not valid JSON is an error of the caller, never a 500."""
    await problem_of(await api.post("/invoices/", data=body, headers=JSON), 400)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/vnd.api+json",
        "application/json; charset=foo",
        "application/json; charset=utf-16",
        "application/json; CHARSET=latin-1",
        'application/json; charset="utf-7"',
        ";;;",
        "é",
    ],
)
async def test_body_that_is_not_declared_as_json_is_a_problem(api, content_type):
    """A body is read only if it is declared as JSON in UTF-8."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    skip = ["Content-Type"] if content_type is None else []
    answer = await api.post("/invoices/", data=b"{}", headers=headers, skip_auto_headers=skip)

    await problem_of(answer, 415)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", 'Application/JSON; Charset="UTF-8"'],
)
async def test_json_in_utf_8_is_read(api, content_type):
    """Every correct declaration of JSON in UTF-8 is accepted."""
    body = b'{"id": "1", "customer": "J\xc3\xb6rg", "total": "1"}'
    answer = await api.post("/invoices/", data=body, headers={"Content-Type": content_type})

    assert 202 == answer.status


async def test_body_at_the_limit_is_read_and_above_it_refused(api):
    """The limit for bodies is exact, and the refusal names it."""
    body = b'{"id": "1", "customer": "c", "total": "1"}'
    largest = body + b" " * (64 * 1024 - len(body))

    assert 202 == (await api.post("/invoices/", data=largest, headers=JSON)).status
    document = await problem_of(
        await api.post("/invoices/", data=largest + b" ", headers=JSON), 413
    )
    assert "65536" in document["detail"]


async def test_details_of_an_unexpected_error_are_only_in_the_log(api, database, caplog):
    """A defect is a 500 without details; the log has the traceback."""
    database.fault = lambda _: ZeroDivisionError("secret")

    document = await problem_of(await api.post("/invoices/", json=INVOICE), 500)

    assert "secret" not in str(document)
    assert "secret" in caplog.text


@pytest.mark.parametrize("path", ["/invoices/", "/deliveries"])
async def test_unknown_cursor_is_a_field_error(api, path):
    """Both lists refuse an unknown cursor with the same message."""
    document = await problem_of(await api.get(f"{path}?after=x"), 422)
    expected = {
        "location": "query",
        "pointer": "/after",
        "message": "This cursor names no page.",
    }

    assert [expected] == document["errors"]


@pytest.mark.parametrize("number", range(3))
async def test_readiness_is_a_problem_once_a_loop_has_ended(api, service, clock, number):
    """A service whose collection or delivery loop has ended is not ready."""
    async with running_loops(service.loops, drain_seconds=PATIENCE_SECONDS) as failed:
        await clock.parked()
        service.loops[number].drain()
        await failed

        assert {"status": "ok"} == await (await api.get("/healthz")).json()
        await problem_of(await api.get("/readyz"), 503)


async def test_running_service_is_ready(api, service, clock):
    """The service is ready if the database answers and the loops run."""
    async with running_loops(service.loops, drain_seconds=PATIENCE_SECONDS):
        await clock.parked()

        assert {"status": "ok", "mail": "ok"} == await (await api.get("/readyz")).json()


async def test_redirects_are_not_problems(dependencies, aiohttp_client):
    """A redirect is not changed into a problem document."""
    app = make_application(dependencies)

    async def move(_request):
        raise web.HTTPFound("/healthz")

    app.router.add_get("/moved", move)
    api = await aiohttp_client(app)

    assert 302 == (await api.get("/moved", allow_redirects=False)).status


@pytest.mark.parametrize(
    ("expected", "path"),
    [
        ("no-store", "/invoices/"),
        ("no-store", "/none"),
        ("no-store", "/healthz"),
        ("no-store", "/api/docs"),
        ("no-cache", "/api/docs/static/swagger-ui.css"),
    ],
)
async def test_every_response_has_the_common_headers(api, expected, path):
    """No response names the version of the software, allows sniffing or is cached unchecked."""
    headers = (await api.get(path)).headers

    assert "invoices" == headers["Server"]
    assert "nosniff" == headers["X-Content-Type-Options"]
    assert expected == headers["Cache-Control"]
