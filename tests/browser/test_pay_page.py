"""The hosted invoice in a browser: on a phone, in the dark, on paper, without scripts."""

from __future__ import annotations

import base64
import json
import re
from urllib.request import Request, urlopen

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.axe import MODES, emulate, violations_by_mode
from tests.browser.test_reading import PHONE
from tests.clock import PATIENCE_SECONDS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

INVOICE = {
    "id": "2expen51ve",
    "title": "Expensive invoice <script>document.title='x'</script> חשבונית 🎉 " + "long" * 40,
    "customer": "Mr. Richie Rich +never",
    "total": "9999",
    "locale": "de-CH",
}


def fetched(url, body=None):
    """The JSON at *url*."""
    data = json.dumps(body).encode() if body else None
    request = Request(url, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.fixture
def browser(browser, service_url):
    """A browser on the page of an invoice that is not paid by itself."""
    fetched(f"{service_url}/invoices/", INVOICE)
    browser.get(fetched(f"{service_url}/invoices/2expen51ve")["payment_url"])
    return browser


@pytest.fixture
def status(service_url):
    """Reads the state of the invoice, and the `paid` of its events."""

    def read():
        found = fetched(f"{service_url}/invoices/2expen51ve")
        return found["status"], [one["paid"] for one in found["events"]]

    return read


def press(browser, label):
    """Press the button *label*, and wait until another page is shown."""
    page = browser.find_element(By.TAG_NAME, "html")
    buttons = browser.find_elements(By.TAG_NAME, "button")
    (button,) = [one for one in buttons if one.text == label]
    button.click()
    # Between two pages, the driver answers with one error or another.
    wait = WebDriverWait(browser, PATIENCE_SECONDS, 0.05, [WebDriverException])
    wait.until(staleness_of(page))


def words(browser):
    """The text that is seen."""
    return browser.find_element(By.TAG_NAME, "body").text


def test_a_customer_declines_and_then_pays(browser, status):
    """The button leads to the sandbox, a decline back to the invoice, and paying ends it."""
    assert "SANDBOX" in words(browser)
    press(browser, "Pay")
    press(browser, "Decline")
    assert "has failed" in words(browser)
    assert ("payment_failed", [False]) == status()

    press(browser, "Try again")
    press(browser, "Pay")

    assert "Paid. Thank you." in words(browser)
    assert [] == browser.find_elements(By.TAG_NAME, "button")
    assert ("paid", [False, True]) == status()


def test_the_page_works_without_scripts(browser, status):
    """With scripts turned off, everything is as before: there are none."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.refresh()
    press(browser, "Pay")
    press(browser, "Pay")

    assert "Paid. Thank you." in words(browser)
    assert ("paid", [True]) == status()


def test_nothing_is_blocked_and_nothing_else_is_loaded(browser):
    """The policy allows what the page uses; no other server hears of it, and no script runs."""
    press(browser, "Pay")
    console = [entry["message"] for entry in browser.get_log("browser")]
    origin = re.match(r"https?://[^/]+", browser.current_url)[0]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    # The browser's own first page is not ours.
    urls = [one["request"]["url"] for one in sent if one["documentURL"].startswith(origin)]

    assert [] == [one for one in console if "favicon" not in one]
    assert urls
    assert [] == [url for url in urls if not url.startswith(f"{origin}/")]
    assert browser.title == "Invoice 2expen51ve"


@pytest.mark.parametrize("page", ["invoice", "sandbox"])
def test_the_page_is_accessible(browser, page):
    """The axe rules find no violation on either page, in either mode."""
    if page == "sandbox":
        press(browser, "Pay")

    assert {mode: [] for mode in MODES} == violations_by_mode(browser)


@pytest.mark.parametrize("page", ["invoice", "sandbox"])
def test_the_page_fits_a_phone(browser, page):
    """Nothing has to be scrolled sideways, and the button is large enough for a thumb."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.refresh()
    if page == "sandbox":
        press(browser, "Pay")

    assert PHONE["width"] == browser.execute_script("return document.documentElement.scrollWidth")
    (button, *_) = browser.find_elements(By.TAG_NAME, "button")
    assert button.size["height"] >= 44


def test_dark_mode_is_dark(browser):
    """The page follows the mode of the browser."""
    script = "return getComputedStyle(document.querySelector('main')).backgroundColor"
    emulate(browser, prefers_color_scheme="light")
    light = browser.execute_script(script)
    emulate(browser, prefers_color_scheme="dark")

    assert "rgb(255, 255, 255)" == light
    assert "rgb(26, 32, 40)" == browser.execute_script(script)


def test_paper_has_the_invoice_alone(browser):
    """Printed from dark mode, the page is black on white, one sheet, and has no button."""
    emulate(browser, prefers_color_scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    (button,) = browser.find_elements(By.TAG_NAME, "button")
    script = "return getComputedStyle(document.querySelector('main'))[arguments[0]]"

    assert not button.is_displayed()
    assert "rgb(255, 255, 255)" == browser.execute_script(script, "backgroundColor")
    assert "rgb(0, 0, 0)" == browser.execute_script(script, "color")
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert 1 == len(re.findall(rb"/Type\s*/Page\b", printed))
