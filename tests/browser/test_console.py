"""The console in a browser: live and without scripts, by keyboard, on a phone, for two accounts."""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from service.accounts.encryption import new_encryption_key
from tests.browser.axe import MODES, emulate, violations, violations_by_mode
from tests.browser.chromium import chromium
from tests.browser.served import PATIENCE_SECONDS, added_account, printed, served
from tests.browser.test_pay_page import fetched, press, words
from tests.browser.test_reading import PHONE

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TITLE = "<script>document.title='x'</script><b>bold</b> " + "long" * 40


class Receiver(BaseHTTPRequestHandler):
    """Acknowledges every event, but those of invoices that are called `bad`."""

    def do_POST(self):
        """Answer an event."""
        self.rfile.read(int(self.headers["Content-Length"]))
        is_bad = "bad" in self.path
        body = b"<script>document.title='y'</script>\n\x1b[31m" if is_bad else b'{"ok": true}'
        self.send_response(500 if is_bad else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def receiver_url():
    """The URL of a receiver on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def attempted(url):
    """The id of the first delivery of the list at *url*, once it had an attempt."""
    return next((one["id"] for one in fetched(url)["items"] if one["attempts"]), None)


@pytest.fixture
def send(service_url, receiver_url):
    """Sends an invoice, and waits for its first delivery to have an attempt; returns its id."""

    def make(id_):
        invoice = {"id": id_, "customer": "Mr. Richie Rich", "total": "9999", "title": TITLE}
        fetched(f"{service_url}/invoices/?callback_url={receiver_url}/{id_}", invoice)
        wait = WebDriverWait(None, PATIENCE_SECONDS, 0.05)
        return wait.until(lambda _: attempted(f"{service_url}/invoices/{id_}/deliveries"))

    return make


@pytest.fixture
def screens(service_url, receiver_url, send):
    """The URL of every screen, with a delivery that failed and one that did not."""
    bad, good = send("bad"), send("good")
    return [
        f"{service_url}/console{path.replace('{receiver}', receiver_url)}"
        for path in (
            "/",
            "/?q=none",
            "/deliveries",
            "/deliveries?status=pending&invoice_id=bad",
            "/deliveries/redeliver",
            f"/deliveries/{bad}",
            f"/deliveries/{good}",
            "/receivers",
            "/?q={receiver}",
            "/invoices",
            "/invoices/bad",
            "/overview",
            "/contract",
            "/none",
        )
    ]


def until(browser, condition):
    """Wait until *condition* is true of the page."""
    wait = WebDriverWait(browser, PATIENCE_SECONDS, 0.05, [WebDriverException])
    return wait.until(lambda _: condition())


def test_every_screen_is_accessible(browser, screens):
    """The axe rules find nothing on any screen, in either mode."""
    found = {}
    for url in screens:
        browser.get(url)
        found |= {(url, mode): one for mode, one in violations_by_mode(browser).items()}

    assert {(url, mode): [] for url in screens for mode in MODES} == found


def test_every_screen_fits_a_phone(browser, screens):
    """Nothing has to be scrolled sideways, and buttons are large enough for a thumb."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    for url in screens:
        browser.get(url)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        buttons = browser.find_elements(By.CSS_SELECTOR, "main button, nav a")
        assert PHONE["width"] == width, url
        assert [] == [one.text for one in buttons if one.size["height"] < 44], url


def test_dark_mode_is_dark(browser, service_url):
    """The pages follow the mode of the browser."""
    browser.get(f"{service_url}/console/")
    script = "return getComputedStyle(document.body).backgroundColor"
    emulate(browser, prefers_color_scheme="light")
    light = browser.execute_script(script)
    emulate(browser, prefers_color_scheme="dark")

    assert ("rgb(243, 245, 247)", "rgb(15, 19, 24)") == (light, browser.execute_script(script))


def test_nothing_is_blocked_and_nothing_else_is_loaded(browser, screens):
    """The policy allows what the pages use; no script of others runs, no other server hears."""
    for url in screens[:-1]:
        browser.get(url)
        assert "Invoices console" in browser.title
    console = [one["message"] for one in browser.get_log("browser") if "404" not in one["message"]]
    origin = re.match(r"https?://[^/]+", screens[0])[0]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    urls = [one["request"]["url"] for one in sent if one["documentURL"].startswith(origin)]

    assert [] == console
    assert any("console.js" in url for url in urls)
    assert [] == [url for url in urls if not url.startswith(f"{origin}/")]


@pytest.mark.parametrize("has_scripts", [True, False])
def test_a_delivery_is_found_and_attempted(browser, service_url, send, has_scripts):
    """From the search to the delivery, and with its button to another attempt."""
    id_ = send("bad")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not has_scripts})
    browser.get(f"{service_url}/console/")
    browser.find_element(By.ID, "q").send_keys(id_)
    press(browser, "Search")
    assert browser.current_url.endswith(f"/console/deliveries/{id_}")
    assert "The receiver answered 500." in words(browser)

    press(browser, "Attempt now")

    assert "It is attempted now." in words(browser)

    def has_a_second_attempt():
        if not has_scripts:
            browser.refresh()
        return browser.find_elements(By.ID, "attempt-2")

    assert until(browser, has_a_second_attempt)


def test_a_receiver_is_paused_and_its_delivery_cancelled(browser, service_url, send):
    """Without scripts: pause a receiver, see that its delivery waits for that, and cancel it."""
    id_ = send("bad")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(f"{service_url}/console/receivers")
    assert "failing" in words(browser)
    press(browser, "Pause")
    assert "It is paused" in words(browser)
    browser.get(f"{service_url}/console/deliveries/{id_}")
    assert "paused by hand" in words(browser)
    browser.find_element(By.XPATH, "//summary[contains(., 'Cancel')]").click()

    press(browser, "Cancel the delivery")

    assert "It was cancelled" in words(browser)
    browser.get(f"{service_url}/console/receivers")
    press(browser, "Resume")
    assert "It is resumed" in words(browser)


def test_the_dead_are_redelivered_after_a_question(browser, service_url, send):
    """Without scripts: the list leads to a page that says how many there are."""
    send("good")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(f"{service_url}/console/deliveries?status=dead")
    browser.find_element(By.PARTIAL_LINK_TEXT, "Redeliver all").click()

    assert "No dead delivery matches." in words(browser)


def test_a_list_is_live(browser, service_url, send):
    """What happens appears without loading; what somebody types and holds stays."""
    send("first")
    browser.get(f"{service_url}/console/deliveries")
    until(browser, lambda: "This page is live." in words(browser))
    field = browser.find_element(By.ID, "invoice_id")
    field.send_keys("half")
    row = browser.find_element(By.CSS_SELECTOR, "tbody tr")

    id_ = send("second")

    until(browser, lambda: browser.find_elements(By.ID, f"row-{id_}"))
    assert ("half", field) == (field.get_attribute("value"), browser.switch_to.active_element)
    # The same element as before: only what has changed was replaced.
    assert row.is_displayed()
    said = browser.find_element(By.CSS_SELECTOR, "[aria-live=polite]")
    until(browser, lambda: "2 delivered" in said.get_attribute("textContent"))


def test_a_live_page_can_be_paused(browser, service_url, send):
    """A button stops the changes, and another press goes on with them."""
    send("first")
    browser.get(f"{service_url}/console/deliveries")
    until(browser, lambda: "This page is live." in words(browser))
    button = browser.find_element(By.CSS_SELECTOR, "[data-live-button]")
    button.click()
    assert "This page does not change now." in words(browser)

    id_ = send("second")
    assert [] == browser.find_elements(By.ID, f"row-{id_}")
    button.click()

    assert until(browser, lambda: browser.find_elements(By.ID, f"row-{id_}"))


def test_without_scripts_nothing_says_that_it_is_live(browser, service_url):
    """The bar of a live page is shown by the script alone."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(f"{service_url}/console/deliveries")

    assert not browser.find_element(By.CSS_SELECTOR, "[data-live-state]").is_displayed()


def test_a_text_is_copied(browser, service_url, send):
    """A button copies what is sent; without scripts the text is there to be selected."""
    id_ = send("bad")
    browser.get(f"{service_url}/console/deliveries/{id_}")
    buttons = browser.find_elements(By.CSS_SELECTOR, "[data-copy]")
    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    buttons[-1].click()

    assert until(browser, lambda: buttons[-1].text == "Copied")
    script = "navigator.clipboard.readText().then(arguments[0])"
    assert '"invoice_id":"bad"' in browser.execute_async_script(script)


def test_everything_is_reached_by_keyboard(browser, service_url, send):
    """The first Tab offers to skip to the content; then come the entries of the navigation."""
    id_ = send("bad")
    browser.get(f"{service_url}/console/")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert ("Skip to the content", True) == (skip.text, skip.is_displayed())
    seen = []
    for _ in range(6):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(browser.switch_to.active_element.text)
    assert ["Search", "Deliveries"] == seen[1:3]
    skip.send_keys(Keys.ENTER)
    browser.find_element(By.ID, "q").send_keys(id_, Keys.ENTER)
    until(browser, lambda: id_ in browser.title)
    button = next(
        one for one in browser.find_elements(By.TAG_NAME, "button") if one.text == "Attempt now"
    )
    button.send_keys(Keys.SPACE)

    assert until(browser, lambda: "It is attempted now." in words(browser))


# Signing in


@pytest.fixture
def two_accounts(tmp_path, migrated, warm):
    """A service that asks for keys: its URL, its encryption key, and the keys of two accounts."""
    key = new_encryption_key()
    keys = [added_account(tmp_path, encryption_key=key, name=name) for name in ("ann", "ben")]
    with served(tmp_path, encryption_key=key, running=warm.running) as url:
        yield url, key, keys


def sign_in(browser, url, key):
    """Type the key of an account."""
    browser.get(f"{url}/console/invoices")
    browser.find_element(By.ID, "key").send_keys(key)
    press(browser, "Sign in")


def test_two_accounts_sign_in_beside_each_other(tmp_path, browser, two_accounts):
    """Each sees its own account, in a browser of its own; a wrong key is said to be wrong."""
    url, _, (ann, ben) = two_accounts
    of_ann = browser
    with chromium(tmp_path / "ben") as of_ben:
        sign_in(of_ann, url, "inv_wrong")
        assert "not, or no longer, the key" in words(of_ann)
        assert [] == violations(of_ann)
        sign_in(of_ann, url, ann)
        sign_in(of_ben, url, ben)
        accounts = {one.find_element(By.CSS_SELECTOR, ".who code").text for one in (of_ann, of_ben)}
        assert 2 == len(accounts)
        assert of_ann.current_url == f"{url}/console/invoices"
        (cookie,) = of_ann.get_cookies()
        assert (True, "Strict", False) == (
            cookie["httpOnly"],
            cookie["sameSite"],
            cookie["secure"],
        )
        assert "" == of_ann.execute_script("return document.cookie")

        press(of_ann, "Sign out")

        assert [] == of_ann.get_cookies()
        of_ann.get(f"{url}/console/overview")
        assert "Key of your account" in words(of_ann)
        of_ben.refresh()
        assert "Sign out" in words(of_ben)


def test_the_operator_signs_in_with_a_link(tmp_path, browser, two_accounts):
    """The link shows a button, and then the accounts; it does not work again."""
    url, key, _ = two_accounts
    link = printed(tmp_path, key, "console-link", "--operator", INVOICES_PUBLIC_URL=url).strip()
    browser.get(link)
    assert [] == violations(browser)
    press(browser, "Sign in")
    assert {"ann", "ben"} <= set(words(browser).split())
    assert [] == violations(browser)
    browser.find_element(By.LINK_TEXT, "ben").click()
    assert "Why did it not come?" in words(browser)
    browser.find_element(By.LINK_TEXT, "Deliveries").click()
    assert "account=acct_" in browser.current_url
    press(browser, "Filter")
    assert "account=acct_" in browser.current_url
    browser.get(link)
    assert "does not work any more" in words(browser)
