"""The documentation page as a person sees it, in a real Chromium."""

from __future__ import annotations

import json
from urllib.request import urlopen

import pytest
from selenium.webdriver.common.by import By

from service.callbacks.invoices import INVOICE_NOTIFICATION

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def texts(element, selector):
    """What stands in each part of *element* that fits *selector*."""
    return [one.text for one in element.find_elements(By.CSS_SELECTOR, selector)]


def test_page_asks_nobody_else(page, service_url):
    """The documentation needs no other host, and the browser has nothing to complain about."""
    page.operation("invoices", "create_invoice")

    asked = page.requested_urls()
    foreign = [url for url in asked if not url.startswith(f"{service_url}/")]

    assert f"{service_url}/api/docs/openapi.json" in asked
    assert [] == foreign
    assert [] == page.browser.get_log("browser")


def test_page_is_swagger_ui_5_of_openapi_3_1(page):
    """What is shown is the OpenAPI 3.1 document; an older Swagger UI would show a blank page."""
    page.operation("invoices", "create_invoice")

    version = page.browser.execute_script("return versions.swaggerUI.version")
    badges = texts(page.browser, ".info .version")

    assert "5" == version.partition(".")[0]
    assert "OAS 3.1" in badges


def test_every_operation_is_shown(page, service_url):
    """Each operation of the document has its place on the page."""
    page.operation("invoices", "create_invoice")
    with urlopen(f"{service_url}/api/docs/openapi.json") as answer:
        document = json.load(answer)

    declared = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    shown = {
        (
            one.find_element(By.CSS_SELECTOR, ".opblock-summary-method").text,
            one.find_element(By.CSS_SELECTOR, ".opblock-summary-path").get_attribute("data-path"),
        )
        for one in page.browser.find_elements(By.CSS_SELECTOR, ".operation-tag-content > span > *")
    }

    assert declared == shown


def test_callbacks_tab_shows_the_promise(page):
    """A click on Callbacks shows where the receiver is called, with what, and what it answers."""
    operation = page.operation("invoices", "create_invoice")

    callbacks = page.open_callbacks(operation)
    page.wait(lambda _: texts(callbacks, ".opblock-summary-path"))
    (path,) = callbacks.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")
    examples = [json.loads(text) for text in texts(callbacks, ".highlight-code")]

    assert [INVOICE_NOTIFICATION.name] == texts(callbacks, "h2")
    # Swagger UI breaks long paths with characters that have no width.
    assert INVOICE_NOTIFICATION.expression == path.text.replace("\u200b", "")
    assert [INVOICE_NOTIFICATION.request_example, INVOICE_NOTIFICATION.response_example] == examples


def test_an_invoice_can_be_sent_from_the_page(page, service_url):
    """The example of the page, executed from the page, is an accepted invoice."""
    operation = page.operation("invoices", "create_invoice")

    status = page.try_out(operation, callback_url="http://127.0.0.1:9")

    assert "202" == status
    with urlopen(f"{service_url}/invoices/2expen51ve") as answer:
        assert "http://127.0.0.1:9" == json.load(answer)["callback_url"]


def test_everything_works_under_the_policy_of_the_page(page):
    """Reading, unfolding and sending break no rule of the page's Content-Security-Policy."""
    operation = page.operation("invoices", "create_invoice")
    page.try_out(operation, callback_url="http://127.0.0.1:9")
    page.open_callbacks(operation)

    assert [] == page.browser.get_log("browser")


def test_policy_stops_what_a_page_could_be_made_to_do(page):
    """A script that somebody smuggles in does not run, and nothing is sent to another host."""
    page.operation("invoices", "create_invoice")
    page.browser.execute_script(
        """
        const script = document.createElement("script");
        script.textContent = "window.smuggled = true";
        document.body.append(script);
        new Image().src = "http://localhost:9/stolen";
        """
    )

    refused = []

    def are_both_refused(browser):
        # Each line of the log is told once.
        refused.extend(line["message"] for line in browser.get_log("browser"))
        return all(any(rule in line for line in refused) for rule in ("script-src", "img-src"))

    page.wait(are_both_refused)
    assert page.browser.execute_script("return window.smuggled") is None
