"""The documentation page as a person sees it, in Chromium."""

from __future__ import annotations

import json
from urllib.request import urlopen

import pytest
from selenium.webdriver.common.by import By

from service.callbacks.invoices import INVOICE_NOTIFICATION
from tests.browser.docs_page import DocsPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def texts(element, selector):
    """The text of each part of *element* that matches *selector*."""
    return [one.text for one in element.find_elements(By.CSS_SELECTOR, selector)]


def test_the_page_uses_no_other_host(own_page, service_url):
    """The page requests no other host, and the browser logs no error."""
    own_page.operation("invoices", "create_invoice")

    asked = own_page.requested_urls()
    foreign = [url for url in asked if not url.startswith(f"{service_url}/")]

    assert f"{service_url}/api/docs/openapi.json" in asked
    assert [] == foreign
    assert [] == own_page.browser.get_log("browser")


def test_page_is_swagger_ui_5_of_openapi_3_1(unfolded):
    """The page shows the OpenAPI 3.1 document; an older Swagger UI would show a blank page."""
    page, _ = unfolded()

    version = page.browser.execute_script("return versions.swaggerUI.version")
    badges = texts(page.browser, ".info .version")

    assert "5" == version.partition(".")[0]
    assert "OAS 3.1" in badges


def test_every_operation_is_shown(unfolded, documentation_url):
    """Each operation of the document is on the page."""
    page, _ = unfolded()
    with urlopen(f"{documentation_url}/api/docs/openapi.json") as answer:
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


def test_the_callbacks_tab_documents_the_callback(unfolded):
    """The Callbacks tab shows the URL, the body and the answers of the callback."""
    page, callbacks = unfolded()

    page.wait(lambda _: texts(callbacks, ".opblock-summary-path"))
    (path,) = callbacks.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")
    examples = [json.loads(text) for text in texts(callbacks, ".highlight-code")]

    assert [INVOICE_NOTIFICATION.name] == texts(callbacks, "h2")
    # Swagger UI breaks long paths with characters of zero width.
    assert INVOICE_NOTIFICATION.expression == path.text.replace("\u200b", "")
    assert [INVOICE_NOTIFICATION.request_example, INVOICE_NOTIFICATION.response_example] == examples


def test_the_document_of_the_receiver_is_the_other_view(page):
    """The link "Your receiver" shows the operation to build, with its parameters and answers."""
    operation = page.show_receiver()
    examples = [json.loads(text) for text in texts(operation, ".highlight-code")]
    names = texts(operation, ".parameter__name")

    assert "OAS 3.0" in texts(page.browser, ".info .version")
    assert ["/invoices/{id}"] == [
        text.replace("\u200b", "") for text in texts(operation, ".opblock-summary-path")
    ]
    assert [INVOICE_NOTIFICATION.request_example, INVOICE_NOTIFICATION.response_example] == examples
    assert [] == [name for name in ("id", "webhook-signature") if not named(name, names)]
    assert ["200", "401", "410", "503"] == texts(
        operation, ".responses-table tbody .response-col_status"
    )
    assert "Your receiver · invoices" == page.browser.title


def named(name, texts):
    """Whether one of *texts* is about the parameter *name*."""
    return any(text.split("\n")[0].rstrip(" *") == name for text in texts)


def test_the_view_of_the_receiver_uses_no_other_host(browser, service_url):
    """The other view requests no other host either, and the browser logs no error."""
    page = DocsPage(browser, service_url, "receiver")
    page.receiver()

    asked = page.requested_urls()
    assert f"{service_url}/api/docs/receiver.json" in asked
    assert [] == [url for url in asked if not url.startswith(f"{service_url}/")]
    assert [] == browser.get_log("browser")


def test_the_receiver_cannot_be_tried_out(unfolded):
    """Only the service can sign a callback, so the page offers no form for it."""
    _, operation = unfolded("receiver")

    assert [] == operation.find_elements(By.CSS_SELECTOR, ".execute, .try-out__btn")
    fields = operation.find_elements(By.CSS_SELECTOR, ".parameters input, textarea")
    assert [] == [one for one in fields if one.is_displayed()]


def test_both_views_link_to_each_other(browser, documentation_url):
    """From the view of the receiver a link leads back to the API."""
    page = DocsPage(browser, documentation_url, "receiver")
    page.receiver()
    current = page.browser.find_elements(By.CSS_SELECTOR, "[aria-current=page]")
    assert ["Your receiver"] == [one.text for one in current]

    page.browser.find_element(By.LINK_TEXT, "API").click()

    page.operation("invoices", "create_invoice")


def test_an_invoice_can_be_sent_from_the_page(own_page, service_url):
    """The example of the page can be executed, and the invoice is accepted."""
    operation = own_page.operation("invoices", "create_invoice")

    status = own_page.try_out(operation, callback_url="http://127.0.0.1:9")

    assert "202" == status
    with urlopen(f"{service_url}/invoices/2expen51ve") as answer:
        assert "http://127.0.0.1:9" == json.load(answer)["callback_url"]


def test_the_page_works_under_its_content_security_policy(own_page):
    """Reading, expanding and executing violate no rule of the Content-Security-Policy."""
    operation = own_page.operation("invoices", "create_invoice")
    own_page.try_out(operation, callback_url="http://127.0.0.1:9")
    own_page.open_callbacks(operation)

    assert [] == own_page.browser.get_log("browser")


def test_the_policy_blocks_foreign_scripts_and_requests(page):
    """An inserted script does not run, and no request goes to another host."""
    page.wait(lambda browser: browser.find_elements(By.CSS_SELECTOR, ".opblock"))
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
        # Each line of the log is returned once.
        refused.extend(line["message"] for line in browser.get_log("browser"))
        return all(any(rule in line for line in refused) for rule in ("script-src", "img-src"))

    page.wait(are_both_refused)
    assert page.browser.execute_script("return window.smuggled") is None
