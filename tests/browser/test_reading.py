"""The documentation page is readable on a phone, in dark mode, and with a keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AXE = Path(__file__).parents[1] / "documents/node_modules/axe-core/axe.min.js"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
SERIOUS = {"serious", "critical"}


def unfolded(page, view="api"):
    """The callback of an invoice in one of the views, with everything around it expanded."""
    if view == "receiver":
        return page.show_receiver()
    return page.open_callbacks(page.operation("invoices", "create_invoice"))


def set_mode(page, mode):
    """Set the preferred mode of the browser to *mode*, `light` or `dark`."""
    features = [{"name": "prefers-color-scheme", "value": mode}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.mark.parametrize("view", ["api", "receiver"])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_is_accessible(page, mode, view):
    """The axe rules find no violation of WCAG 2 in contrast, names and roles."""
    assert AXE.exists(), "`make test` installs what tests/documents/package.json names"
    set_mode(page, mode)
    unfolded(page, view)
    page.browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = page.browser.execute_async_script("axe.run().then(arguments[0])")

    violations = {
        one["id"]: [node["target"] for node in one["nodes"]]
        for one in found["violations"]
        if one["impact"] in SERIOUS
    }
    assert {} == violations
    assert "color-contrast" in {one["id"] for one in found["passes"]}


def test_dark_mode_is_dark(page):
    """In dark mode the text is light on a dark background; in light mode it is not."""
    script = "return getComputedStyle(document.body).backgroundColor"
    set_mode(page, "light")
    light = page.browser.execute_script(script)
    set_mode(page, "dark")

    assert "rgb(255, 255, 255)" == light
    assert "rgb(20, 24, 31)" == page.browser.execute_script(script)


@pytest.mark.parametrize("view", ["api", "receiver"])
def test_the_page_fits_a_phone(page, view):
    """The page needs no horizontal scrolling, even with expanded operations."""
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    page.browser.refresh()
    unfolded(page, view)

    width = page.browser.execute_script("return document.documentElement.scrollWidth")

    assert PHONE["width"] == width


def test_operations_are_collapsed_at_first(page):
    """The page begins with a list of the operations."""
    page.wait(lambda browser: browser.find_elements(By.CSS_SELECTOR, ".opblock"))

    assert [] == page.browser.find_elements(By.CSS_SELECTOR, ".opblock.is-open")
    assert page.browser.execute_script("return document.documentElement.scrollHeight") < 3000


def test_callbacks_are_reached_with_the_keyboard(page):
    """Tab focuses the Callbacks tab, and Enter opens it."""
    operation = page.operation("invoices", "create_invoice")
    operation.find_element(By.CSS_SELECTOR, ".opblock-summary-control").send_keys(Keys.NULL)
    for _ in range(10):
        focused = page.browser.switch_to.active_element
        if "tab-item" in (focused.get_attribute("class") or "") and "Callbacks" in focused.text:
            break
        focused.send_keys(Keys.TAB)
    focused.send_keys(Keys.ENTER)

    page.wait(lambda _: operation.find_elements(By.CSS_SELECTOR, ".callbacks-container .opblock"))


def test_a_callback_has_no_form(page):
    """A callback is described; it has no input fields, because users do not send it."""
    callbacks = unfolded(page)
    fields = callbacks.find_elements(By.CSS_SELECTOR, "input, textarea")

    assert [] == [one for one in fields if one.is_displayed()]
    assert "webhook-signature" in callbacks.text
    assert [] == callbacks.find_elements(By.CSS_SELECTOR, ".execute, .try-out__btn")
