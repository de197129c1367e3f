"""
Takes the picture of the README: the Callbacks tab of the operation that accepts an invoice.

Run by `make screenshot`, from the root of the project.
"""

from __future__ import annotations

import sys
import tempfile
from base64 import b64decode
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.chromium import chromium
from tests.browser.docs_page import DocsPage
from tests.browser.served import served

PICTURE = Path(__file__).parents[2] / "docs" / "callbacks.png"

WINDOW = (940, 1400)
SCALE = 0.72
"""The scale of the picture: easy to read and small to download."""


def take_picture(page: DocsPage) -> bytes:
    """The operation as PNG: from its top to the example of the event."""
    page.browser.set_window_size(*WINDOW)
    operation = page.operation("invoices", "create_invoice")
    callbacks = page.open_callbacks(operation)
    # The form is closed.
    page.set_trying(operation, wanted=False)
    event = page.wait(lambda _: callbacks.find_element(By.CSS_SELECTOR, ".highlight-code"))
    return capture(page, operation, event)


def capture(page: DocsPage, first: WebElement, last: WebElement) -> bytes:
    """The page from the top of *first* to the bottom of *last*, as wide as *first*."""
    margin = 12
    top, bottom = first.rect, last.rect
    clip = {
        "x": top["x"] - margin,
        "y": top["y"] - margin,
        "width": top["width"] + 2 * margin,
        "height": bottom["y"] + bottom["height"] - top["y"] + 2 * margin,
        "scale": SCALE,
    }
    answer = page.browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
    )
    return b64decode(answer["data"])


def main() -> int:
    """Write the picture."""
    with tempfile.TemporaryDirectory(prefix="invoices-screenshot-") as name:
        folder = Path(name)
        with served(folder) as url, chromium(folder / "profile") as browser:
            PICTURE.write_bytes(take_picture(DocsPage(browser, url)))
    sys.stdout.write(f"{PICTURE}: {PICTURE.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
