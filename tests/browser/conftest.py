"""
A real browser in front of the real service.

A browser starts once for all tests, which one process of a run takes; each test has a tab of its
own. Tests that only read the documentation share a service; all others have one each.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import cache

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


@pytest.fixture(scope="session")
def _unfolded_pages(shared_browser, documentation_url):
    """Opens a view in a tab that stays, with the callback of an invoice unfolded."""
    with ExitStack() as tabs:

        @cache
        def opened(view):
            browser = tabs.enter_context(new_tab(shared_browser))
            page = DocsPage(browser, documentation_url, view)
            return page, page.unfold(view), browser.current_window_handle

        yield opened


@pytest.fixture
def unfolded(_unfolded_pages, shared_browser):
    """
    Shows a view with the callback of an invoice unfolded: the page, and the callback.

    Loading and unfolding takes seconds, so tests share the page: they look at it, and do not use
    it. What they emulate ends with the test.
    """
    current = shared_browser.current_window_handle

    def show(view="api"):
        page, callback, tab = _unfolded_pages(view)
        shared_browser.switch_to.window(tab)
        shared_browser.execute_cdp_cmd("Page.bringToFront", {})
        return page, callback

    yield show
    shared_browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    shared_browser.switch_to.window(current)


def pytest_collection_modifyitems(items):
    """Skip the browser tests if there is no browser; in CI that is a failure."""
    reason = missing()
    for item in items:
        if reason and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))
