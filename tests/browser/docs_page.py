"""The actions of a person on the documentation page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from service.callbacks.invoices import INVOICE_NOTIFICATION

PATIENCE_SECONDS = 30

VIEWS = {"api": "", "receiver": "/?view=receiver"}
"""The two documents, and where they are shown."""

Found = TypeVar("Found")


class DocsPage:
    """Swagger UI at /api/docs; every action waits for the elements that it needs."""

    def __init__(self, browser: Chrome, service_url: str, view: str = "api") -> None:
        self.browser = browser
        browser.get(f"{service_url}/api/docs{VIEWS[view]}")

    def show_receiver(self) -> WebElement:
        """Switch to the document of the receiver, and return its callback, expanded."""
        self.wait(lambda page: page.find_element(By.LINK_TEXT, "Your receiver")).click()
        return self.receiver()

    def receiver(self) -> WebElement:
        """The callback in the document of the receiver, expanded."""
        return self.operation("callbacks", INVOICE_NOTIFICATION.name)

    def unfold(self, view: str) -> WebElement:
        """The callback of an invoice in this view, with everything around it expanded."""
        if view == "receiver":
            return self.receiver()
        return self.open_callbacks(self.operation("invoices", "create_invoice"))

    def operation(self, tag: str, operation_id: str) -> WebElement:
        """The operation, expanded."""
        found = self.wait(
            lambda browser: browser.find_element(By.ID, f"operations-{tag}-{operation_id}")
        )
        if "is-open" not in (found.get_attribute("class") or ""):
            found.find_element(By.CSS_SELECTOR, ".opblock-summary-control").click()
        self.wait(lambda _: found.find_element(By.CSS_SELECTOR, ".responses-inner"))
        return found

    def open_callbacks(self, operation: WebElement) -> WebElement:
        """Click the Callbacks tab of *operation*, expand its callback, and return the content."""
        tabs = operation.find_elements(By.CSS_SELECTOR, ".tab-item")
        (tab,) = [tab for tab in tabs if "Callbacks" in tab.text]
        tab.click()
        found = self.wait(lambda _: operation.find_element(By.CSS_SELECTOR, ".callbacks-container"))
        self.wait(lambda _: found.find_element(By.CSS_SELECTOR, ".opblock-summary-control")).click()
        self.wait(lambda _: found.find_element(By.CSS_SELECTOR, ".responses-inner"))
        return found

    def try_out(self, operation: WebElement, **parameters: str) -> str:
        """Execute *operation* with its example and these *parameters*, and return the status."""
        self.set_trying(operation, wanted=True)
        for name, value in parameters.items():
            field = self.wait(
                lambda _, name=name: operation.find_element(
                    By.CSS_SELECTOR, f"tr[data-param-name='{name}'] input"
                )
            )
            field.send_keys(Keys.CONTROL, "a")
            # Swagger UI reads the text after a pause, or when the field loses the focus.
            field.send_keys(value, Keys.TAB)
        execute = operation.find_element(By.CSS_SELECTOR, ".btn.execute")
        self.browser.execute_script("arguments[0].click()", execute)
        status = ".live-responses-table .response .response-col_status"
        return self.wait(
            lambda _: operation.find_element(By.CSS_SELECTOR, status).text.partition("\n")[0]
        )

    def authorize(self, key: str) -> None:
        """Press Authorize, enter *key*, and close the dialog."""
        self.wait(lambda page: page.find_element(By.CSS_SELECTOR, ".btn.authorize")).click()
        dialog = self.wait(lambda page: page.find_element(By.CSS_SELECTOR, ".dialog-ux"))
        dialog.find_element(By.CSS_SELECTOR, "input").send_keys(key)
        dialog.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        # The dialog shows a text after the key is stored.
        self.wait(lambda _: "Logout" in dialog.text)
        dialog.find_element(By.CSS_SELECTOR, ".btn-done").click()

    def set_trying(self, operation: WebElement, *, wanted: bool) -> None:
        """Switch *operation* between documentation and its form."""
        (button,) = operation.find_elements(
            By.CSS_SELECTOR, ":scope > div > .opblock-body > .opblock-section .try-out__btn"
        )
        if ("cancel" in (button.get_attribute("class") or "")) is not wanted:
            button.click()

    def requested_urls(self) -> list[str]:
        """Every URL that the page requested, answered or not."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")
        ]
        urls = [
            entry["params"]["request"]["url"]
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        ]
        # The start page of Chromium and images inside of style sheets cause no network traffic.
        return [url for url in urls if not url.startswith(("chrome:", "data:", "blob:"))]

    def wait(self, condition: Callable[[Chrome], Found]) -> Found:
        """Wait until *condition* finds something, and return it."""
        return WebDriverWait(self.browser, PATIENCE_SECONDS, poll_frequency=0.05).until(condition)
