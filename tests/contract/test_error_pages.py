"""Errors below the paths of pages: what a browser shows is words and a way back, not JSON."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from service.api.application import make_application
from service.pages.console.serving import add_console
from service.pages.errors import WORDS, words_of
from service.pages.pay import add_pages
from service.web.bodies import BodyLimits
from service.web.hosts import make_host_check
from service.web.problems import PROBLEMS
from tests.pages import Page

LIMITS = BodyLimits()
TOO_LARGE = b"x" * (LIMITS.size + 1)


@pytest.fixture
async def client(aiohttp_client, assembled):
    """A client of the API and of all pages, in development mode."""
    service = assembled()
    checks = [make_host_check(["127.0.0.1"])]
    app = make_application(service.dependencies, checks=checks)
    add_console(app, service.console)
    add_pages(app, service.payments)
    return await aiohttp_client(app)


async def asked(client, method, path, **options):
    """The page that answers a request, and its answer."""
    answer = await client.request(method, path, allow_redirects=False, **options)
    return Page(await answer.text()), answer


@pytest.mark.parametrize("path", ["/console", "/console/deliveries", "/pay/abc", "/pay/abc/"])
@pytest.mark.parametrize(
    ("method", "options", "status"),
    [
        ("PUT", {}, 405),
        ("POST", {"data": TOO_LARGE}, 413),
        ("POST", {"data": b"x", "headers": {"Content-Encoding": "other"}}, 415),
        ("GET", {"headers": {"Host": "evil.example"}}, 421),
    ],
)
async def test_an_error_is_a_page(client, path, method, options, status):
    """Whatever is wrong with a request, a person reads what it is, and that nothing was done."""
    page, answer = await asked(client, method, path, **options)

    assert (status, "text/html") == (answer.status, answer.content_type)
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "Nothing was done." in page.words
    assert "{" not in page.words
    if "pay" not in path:
        assert any(one.endswith("/console/") for one in page.links)
    elif status != 421:
        assert "/pay/abc" in page.links


async def test_the_way_back_from_another_name_is_the_public_url(client):
    """A link below the name that is refused would be refused again."""
    page, _ = await asked(client, "GET", "/console/", headers={"Host": "evil.example"})

    assert "http://127.0.0.1:8080/console/" == page.links[-1]


@pytest.mark.parametrize("path", ["/pay", "/pay/", "/pay/abc/nothing/here"])
async def test_an_unknown_path_of_an_invoice_is_a_page(client, path):
    """A link that was cut off is answered in words."""
    page, answer = await asked(client, "GET", path)

    assert (404, "text/html") == (answer.status, answer.content_type)
    assert "It may be cut off" in page.words


async def test_a_page_keeps_the_headers_of_the_error(client):
    """The methods of a path are named as before, and what is too large ends the connection."""
    _, answer = await asked(client, "PUT", "/pay/abc")
    assert "GET, HEAD, OPTIONS, POST" == answer.headers["Allow"]
    _, answer = await asked(client, "POST", "/pay/abc", data=TOO_LARGE)
    assert "close" == answer.headers["Connection"]


async def test_a_defect_is_a_page(client, monkeypatch, caplog):
    """What is wrong is in the log; the page names nothing of it."""
    monkeypatch.setattr("service.pages.console.overview.chart_of", lambda _: 1 / 0)

    page, answer = await asked(client, "GET", "/console/overview")

    assert (500, "text/html") == (answer.status, answer.content_type)
    assert "ZeroDivision" not in page.words
    assert "request.failed" in caplog.messages


@pytest.mark.parametrize("path", ["/consoles", "/payments", "/invoices/1/none", "/"])
async def test_other_paths_stay_problems(client, path):
    """What programs ask is answered as before, also where a path begins in a similar way."""
    answer = await client.put(path)

    assert "application/problem+json" == answer.content_type


async def test_options_are_no_error(client):
    """They have the methods of a page, and no body."""
    answer = await client.options("/pay/abc")

    assert (204, b"") == (answer.status, await answer.read())


@pytest.mark.parametrize("path", ["/console/sign-in", "/pay/abc"])
@pytest.mark.parametrize(
    ("expected", "body", "status"), [("a-miracle", b"x", 417), ("100-continue", TOO_LARGE, 413)]
)
async def test_what_is_expected_before_a_body_is_answered_with_a_page(
    client, path, expected, body, status
):
    """A client that asks before it sends a body reads the same words."""
    headers = {"Expect": expected, "Content-Type": "text/plain"}

    page, answer = await asked(client, "POST", path, data=body, headers=headers)

    assert (status, "text/html") == (answer.status, answer.content_type)
    assert "Nothing was done." in page.words


async def test_a_body_that_does_not_arrive_is_a_page(aiohttp_client, service):
    """A form that is not complete in time is answered in words."""
    limits = BodyLimits(seconds=0.01)
    app = make_application(replace(service.dependencies, body_limits=limits))
    add_console(app, service.console)
    client = await aiohttp_client(app)
    answered = asyncio.Event()

    async def incomplete():
        yield b"key="
        await answered.wait()

    answer = await client.post("/console/sign-in", data=incomplete())
    answered.set()

    assert (408, "text/html") == (answer.status, answer.content_type)
    assert "did not arrive in time" in await answer.text()


def test_every_problem_has_words():
    """A status that a problem can have is not answered with its phrase alone."""
    by_pages = {401, 409, 422, 429}
    """Errors of handlers: the pages themselves answer them."""
    statuses = {int(status) for status, _, _ in PROBLEMS.values()} | {405, 417, 500}

    assert statuses - by_pages == set(WORDS)
    assert ("I'm a Teapot", "This is not possible. Nothing was done.") == words_of(418)
