"""
A real browser in front of the real service.

A browser starts once for all tests, each of which has a tab of its own. Tests that only read the
documentation share a service; all others have one each.
"""

from __future__ import annotations

import shutil

import pytest

from tests.browser.chromium import NO_PROXY, chromium, missing, new_tab
from tests.browser.docs_page import DocsPage
from tests.browser.served import served


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch):
    """A service listens on loopback, which no proxy reaches."""
    monkeypatch.setenv(*NO_PROXY)


@pytest.fixture
def service_url(tmp_path, migrated, warm):
    """The URL of a service for this test alone."""
    with served(tmp_path, running=warm.running) as url:
        yield url


@pytest.fixture(scope="session")
def documentation_url(tmp_path_factory, new_database, warm):
    """The URL of a service whose documentation is only read."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copy(new_database, folder)
    with served(folder, running=warm.running) as url:
        yield url


@pytest.fixture(scope="session")
def shared_browser(tmp_path_factory):
    """The browser of all tests."""
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


@pytest.fixture
def browser(shared_browser):
    """A browser on an empty page."""
    with new_tab(shared_browser) as browser:
        yield browser


@pytest.fixture
def page(browser, documentation_url):
    """The documentation page in a browser, to be read."""
    return DocsPage(browser, documentation_url)


@pytest.fixture
def own_page(browser, service_url):
    """The documentation page of a service for this test alone, in a browser."""
    return DocsPage(browser, service_url)


def pytest_collection_modifyitems(items):
    """Skip the browser tests if there is no browser; in CI that is a failure."""
    reason = missing()
    for item in items:
        if reason and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))
