"""Behind a proxy that removes a prefix: every link is below the path of the public URL."""

from dataclasses import replace
from urllib.parse import urljoin, urlsplit

import pytest
from aiohttp import web

from service.api.application import make_application
from service.app.documents import document_of
from service.settings import Settings
from tests.clock import START, ManualClock
from tests.fakes import WatchedMemory, WatchedStore, assembled

PUBLIC_URL = "https://example.com/billing"
INVOICE = {"id": "2expen51ve", "customer": "Mr. Richie Rich", "total": "9999"}
PAGES = ("/api/docs", "/api/docs/")


def an_application(public_url):
    """The service in development mode, with this public URL."""
    settings = {"public_url": public_url, "callback_require_https": False}
    service = assembled(WatchedStore(WatchedMemory()), clock=ManualClock(START), **settings)
    document = document_of(Settings(**settings), is_development=True)
    return make_application(replace(service.dependencies, document=document))


@pytest.fixture
async def behind_proxy(aiohttp_client):
    """A client behind a proxy that serves the service below /billing, and nothing else."""
    proxy = web.Application()
    proxy.add_subapp("/billing", an_application(PUBLIC_URL))
    return await aiohttp_client(proxy)


@pytest.fixture(params=["http://127.0.0.1:8080", "https://example.com/"])
async def without_prefix(aiohttp_client, request):
    """A client of a service whose public URL has no path."""
    return await aiohttp_client(an_application(request.param.rstrip("/")))


async def test_the_location_of_an_invoice_is_found(behind_proxy):
    """`Location` leads to the invoice through the proxy."""
    answer = await behind_proxy.post("/billing/invoices/", json=INVOICE)

    assert 202 == answer.status, await answer.text()
    assert "/billing/invoices/2expen51ve" == answer.headers["Location"]
    assert 200 == (await behind_proxy.get(answer.headers["Location"])).status
    again = await behind_proxy.post("/billing/invoices/", json=INVOICE)
    assert (200, answer.headers["Location"]) == (again.status, again.headers["Location"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/invoices/none", 404), ("POST", "/invoices/", 415), ("GET", "/invoices/?x=1", 422)],
)
async def test_the_type_of_a_problem_is_found(behind_proxy, method, path, status):
    """The type of every problem document is a link that works through the proxy."""
    answer = await behind_proxy.request(method, f"/billing{path}")
    kind = (await answer.json())["type"]

    assert status == answer.status
    assert kind.startswith("/billing/api/docs/problems#")
    page = await (await behind_proxy.get(kind)).text()
    assert f'id="{urlsplit(kind).fragment}"' in page


async def test_a_request_with_expect_has_the_same_types(behind_proxy):
    """A refusal before the body is sent has a working link too."""
    headers = {"Expect": "100-continue", "Content-Length": "999999999"}
    answer = await behind_proxy.post("/billing/invoices/", headers=headers)

    assert 413 == answer.status
    assert (await answer.json())["type"].startswith("/billing/")


async def test_an_unknown_path_names_the_documentation(behind_proxy):
    """The 404 of an unknown path has the public URL of the documentation."""
    detail = (await (await behind_proxy.get("/billing/nothing")).json())["detail"]

    assert "Nothing is served at this path. /billing/api/docs describes the API." == detail


@pytest.mark.parametrize(
    "path", ["/billing", "/billing/", "/billing/invoices/", "/billing/healthz"]
)
async def test_a_proxy_that_keeps_the_prefix_is_told(aiohttp_client, path):
    """The 404 says what is wrong with the proxy; a path that only begins alike is any other."""
    direct = await aiohttp_client(an_application(PUBLIC_URL))
    problem = await (await direct.get(path)).json()
    other = await (await direct.get("/billings")).json()

    assert (404, 404) == (problem["status"], other["status"])
    assert "must remove it" in problem["detail"]
    assert "/billing, the path of INVOICES_PUBLIC_URL" in problem["detail"]
    assert "Nothing is served" in other["detail"]


@pytest.mark.parametrize("path", PAGES)
async def test_the_page_loads_its_files(behind_proxy, path):
    """All files that the page loads, the document included, are below the prefix."""
    text = await (await behind_proxy.get(f"/billing{path}")).text()

    loaded = [urljoin(f"/billing{path}", one) for one in loaded_by(text)]
    assert len(loaded) > 4
    assert [] == [one for one in loaded if not one.startswith("/billing/api/docs/")]
    assert {200} == {(await behind_proxy.get(one)).status for one in loaded}


@pytest.mark.parametrize("path", PAGES)
async def test_the_page_loads_its_files_without_the_proxy(aiohttp_client, path):
    """The page works if the service is called directly."""
    direct = await aiohttp_client(an_application(PUBLIC_URL))
    text = await (await direct.get(path)).text()

    loaded = [urljoin(path, one) for one in loaded_by(text)]
    assert {200} == {(await direct.get(one)).status for one in loaded}


def loaded_by(page):
    """The URLs in *page*."""
    parts = page.replace('url: "', 'src="').split('src="')[1:] + page.split('href="')[1:]
    return [part.partition('"')[0] for part in parts]


async def test_the_first_server_is_below_the_prefix(behind_proxy):
    """The server of the document, relative to it, is the service behind the proxy."""
    url = "/billing/api/docs/openapi.json"
    document = await (await behind_proxy.get(url)).json()
    servers = [one["url"] for one in document["servers"]]

    assert ["/billing", PUBLIC_URL] == servers
    server = urljoin(f"https://example.com{url}", servers[0])
    assert "https://example.com/billing" == server


async def test_the_document_shows_links_below_the_prefix(behind_proxy):
    """Location and problem types in the examples equal those in responses."""
    document = await (await behind_proxy.get("/billing/api/docs/openapi.json")).json()
    answers = document["paths"]["/invoices/"]["post"]["responses"]
    example = answers["422"]["content"]["application/problem+json"]["example"]

    assert "/billing/invoices/2expen51ve" == answers["202"]["headers"]["Location"]["example"]
    assert "/billing/api/docs/problems#invalid-input" == example["type"]


async def test_without_a_prefix_links_begin_at_the_root(without_prefix):
    """A public URL without a path changes no link."""
    accepted = await without_prefix.post("/invoices/", json=INVOICE)
    missing = await (await without_prefix.get("/invoices/none")).json()
    document = await (await without_prefix.get("/api/docs/openapi.json")).json()

    assert "/invoices/2expen51ve" == accepted.headers["Location"]
    assert "/api/docs/problems#not-found" == missing["type"]
    assert "/" == document["servers"][0]["url"]


# Cross-origin access to the documents


@pytest.mark.parametrize("path", ["/api/docs/openapi.json", "/api/docs/openapi.yaml"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_documents_are_readable_from_other_origins(without_prefix, path, slash):
    """Pages of other origins may fetch the documents."""
    headers = {"Origin": "https://editor.example"}
    answer = await without_prefix.get(path + slash, headers=headers)

    assert 200 == answer.status
    assert "*" == answer.headers["Access-Control-Allow-Origin"]


@pytest.mark.parametrize(
    "path",
    ["/invoices/", "/invoices/none", "/deliveries", "/api/docs", "/api/docs/problems", "/healthz"],
)
async def test_other_responses_are_not_readable_from_other_origins(without_prefix, path):
    """Pages of other origins cannot read responses of the API."""
    answer = await without_prefix.get(path, headers={"Origin": "https://editor.example"})

    assert "Access-Control-Allow-Origin" not in answer.headers


# Development mode


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer secret",
        "Bearer inv_qf3kq2vd_wrong",
        "Basic bWU6YUBi",
        "Digest x",
    ],
)
async def test_in_development_any_authorization_is_accepted(without_prefix, authorization):
    """In development mode a request with any Authorization header is accepted without a key."""
    headers = {} if authorization is None else {"Authorization": authorization}

    assert 200 == (await without_prefix.get("/invoices/", headers=headers)).status


def test_in_development_the_document_says_that_a_key_is_optional():
    """The document asks for a key, except in development mode."""
    assert [{"key": []}] == document_of(Settings())["security"]
    assert [{}, {"key": []}] == document_of(Settings(), is_development=True)["security"]
