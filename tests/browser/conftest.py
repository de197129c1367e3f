"""A real browser in front of the real service."""

from __future__ import annotations

import pytest

from tests.browser.chromium import chromium, missing
from tests.browser.docs_page import DocsPage
from tests.browser.served import served


@pytest.fixture
def service_url(tmp_path, monkeypatch, migrated, warm):
    """The URL of a service for this test alone."""
    # Service and driver listen on loopback, which no proxy reaches.
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with served(tmp_path, running=warm.running) as url:
        yield url


@pytest.fixture
def page(tmp_path, service_url):
    """The documentation page of that service, in a browser."""
    with chromium(tmp_path / "profile") as browser:
        yield DocsPage(browser, service_url)


def pytest_collection_modifyitems(items):
    """Skip the browser tests if there is no browser; in CI that is a failure."""
    reason = missing()
    for item in items:
        if reason and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))
