"""Chromium of the distribution, without a window and without other network traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pytest import MonkeyPatch
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

BROWSER = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the sandbox of Chromium needs privileges that containers lack.
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1100,1400",
    # No page runs for so long that optimized code repays its compilation.
    "--js-flags=--no-opt",
)

BLANK = {"session.restore_on_startup": 4, "session.startup_urls": ["about:blank"]}
"""Preferences for a blank first page: the one of Chromium takes a third of the time of a start."""


NO_PROXY = ("no_proxy", "127.0.0.1,localhost")
"""The variable for programs that listen on loopback, which no proxy reaches, such as the driver."""

LOGS = ("browser", "performance")


def missing() -> str | None:
    """The programs that are missing on this machine; None if all are there."""
    absent = [str(path) for path in (BROWSER, DRIVER) if not path.exists()]
    return f"{' and '.join(absent)} missing" if absent else None


@contextmanager
def new_tab(browser: Chrome) -> Iterator[Chrome]:
    """
    *browser* in a tab of its own, with empty logs.

    Starting a browser takes seconds, and a tab takes milliseconds. What pages have stored, cookies
    and permissions are removed with the tab, and so is what a test has emulated. The HTTP cache
    stays: a service for one test has an address of its own, of which nothing is cached.
    """
    before, current = browser.window_handles, browser.current_window_handle
    browser.switch_to.new_window("tab")
    own = browser.current_window_handle
    for kind in LOGS:
        browser.get_log(kind)
    try:
        yield browser
    finally:
        browser.switch_to.window(own)
        _forget(browser)
        for tab in set(browser.window_handles).difference(before):
            browser.switch_to.window(tab)
            browser.close()
        browser.switch_to.window(current)


def _forget(browser: Chrome) -> None:
    page = urlsplit(browser.current_url)
    stored = {"origin": f"{page.scheme}://{page.netloc}", "storageTypes": "all"}
    browser.execute_cdp_cmd("Storage.clearDataForOrigin", stored)
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.execute_cdp_cmd("Browser.resetPermissions", {})


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser with an empty profile, which logs its console and its network."""
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", BLANK)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(LOGS, "ALL"))
    with _without_proxy():
        browser = Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield browser
    finally:
        with _without_proxy():
            browser.quit()


@contextmanager
def _without_proxy() -> Iterator[None]:
    # The driver is asked to start and to stop at a URL.
    with MonkeyPatch.context() as patch:
        patch.setenv(*NO_PROXY)
        yield
