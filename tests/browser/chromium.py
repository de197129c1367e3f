"""Chromium of the distribution, without a window and without other network traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
)

BLANK = {"session.restore_on_startup": 4, "session.startup_urls": ["about:blank"]}
"""Preferences for a blank first page: the one of Chromium takes a third of the time of a start."""


def missing() -> str | None:
    """The programs that are missing on this machine; None if all are there."""
    absent = [str(path) for path in (BROWSER, DRIVER) if not path.exists()]
    return f"{' and '.join(absent)} missing" if absent else None


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser with an empty profile, which logs its console and its network."""
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", BLANK)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield browser
    finally:
        browser.quit()
