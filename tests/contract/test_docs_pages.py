"""The pages at /api/docs: the document as JSON and YAML, Swagger UI, and the problem types."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest
import yaml

from service.app.documents import document_of
from service.settings import Settings
from service.web.problems import PROBLEMS


@pytest.fixture
def served_document(document):
    """The real document."""
    return document


async def test_document_is_served_as_json(api):
    """The served document equals the one that the command line prints."""
    answer = await api.get("/api/docs/openapi.json")

    assert 200 == answer.status
    assert "application/json" == answer.content_type
    assert document_of(Settings()) == await answer.json()


async def test_document_is_served_as_yaml(api):
    """The YAML document equals the JSON document and has no anchors or aliases."""
    answer = await api.get("/api/docs/openapi.yaml")
    text = await answer.text()

    assert "application/yaml" == answer.content_type
    assert document_of(Settings()) == yaml.safe_load(text)
    assert not re.search(r"[&*]id\d+", text)


@pytest.mark.parametrize("path", ["/api/docs", "/api/docs/"])
async def test_page_is_self_contained(api, path):
    """The page loads nothing from elsewhere and sends the document to no other server."""
    answer = await api.get(path)
    text = await answer.text()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)

    assert 200 == answer.status
    assert loaded
    loaded = [urljoin(path, url) for url in loaded]
    assert [] == [url for url in loaded if not url.startswith("/api/docs/")]
    assert "validatorUrl: null" in text.replace('"validatorUrl"', "validatorUrl")
    for url in loaded:
        assert 200 == (await api.get(url)).status, url


async def test_every_kind_of_problem_is_explained(api):
    """The page has an anchor for each problem type."""
    text = await (await api.get("/api/docs/problems")).text()

    assert [] == [name for _, name, _ in PROBLEMS.values() if f'id="{name}"' not in text]


@pytest.mark.parametrize("path", ["/api/docs/openapi.json/", "/api/docs/problems/"])
async def test_pages_work_with_the_trailing_slash(api, path):
    """Every path works with and without the trailing slash."""
    assert 200 == (await api.get(path)).status


@pytest.mark.parametrize(
    "path",
    [
        "/api/docs/static/../../../setup.cfg",
        "/api/docs/static/%2e%2e/%2e%2e",
        "/api/docs/static/%00",
    ],
)
async def test_files_outside_the_page_are_not_served(api, path):
    """A path cannot leave the folder of the page."""
    answer = await api.get(path)

    assert answer.status in {403, 404}
    assert "application/problem+json" == answer.content_type
