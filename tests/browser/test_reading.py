"""The documentation page is readable on a phone, in dark mode, and with a keyboard."""

from __future__ import annotations

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tests.browser.axe import emulate, found_by_axe
from tests.browser.docs_page import DocsPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
SERIOUS = {"serious", "critical"}


@pytest.mark.parametrize("view", ["api", "receiver"])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_is_accessible(unfolded, mode, view):
    """The axe rules find no violation of WCAG 2 in contrast, names and roles."""
    page, _ = unfolded(view)
    emulate(page.browser, prefers_color_scheme=mode)
    found = found_by_axe(page.browser)

    violations = {
        one["id"]: [node["target"] for node in one["nodes"]]
        for one in found["violations"]
        if one["impact"] in SERIOUS
    }
    assert {} == violations


def test_dark_mode_is_dark(unfolded):
    """In dark mode the text is light on a dark background; in light mode it is not."""
    page, _ = unfolded()
    script = "return getComputedStyle(document.body).backgroundColor"
    emulate(page.browser, prefers_color_scheme="light")
    light = page.browser.execute_script(script)
    emulate(page.browser, prefers_color_scheme="dark")

    assert "rgb(255, 255, 255)" == light
    assert "rgb(20, 24, 31)" == page.browser.execute_script(script)


@pytest.mark.parametrize("view", ["api", "receiver"])
def test_the_page_fits_a_phone(browser, documentation_url, view):
    """The page needs no horizontal scrolling, even with expanded operations."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    DocsPage(browser, documentation_url, view).unfold(view)

    width = browser.execute_script("return document.documentElement.scrollWidth")

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


def test_a_callback_has_no_form(unfolded):
    """A callback is described; it has no input fields, because users do not send it."""
    _, callbacks = unfolded()
    fields = callbacks.find_elements(By.CSS_SELECTOR, "input, textarea")

    assert [] == [one for one in fields if one.is_displayed()]
    assert "webhook-signature" in callbacks.text
    assert [] == callbacks.find_elements(By.CSS_SELECTOR, ".execute, .try-out__btn")
