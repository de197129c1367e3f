"""The documentation page at addresses that the service does not know."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.browser.docs_page import DocsPage
from tests.browser.served import served

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PREFIX = "/billing"


@contextmanager
def removing_prefix():
    """A proxy that removes the prefix: its URL, and a function that sets its target."""
    leads_to = []

    class Proxy(BaseHTTPRequestHandler):
        def _forward(self):
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            onward = HTTPConnection(urlsplit(leads_to[0]).netloc)
            path = self.path.removeprefix(PREFIX)
            onward.request(self.command, path, body, dict(self.headers))
            answer = onward.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            onward.close()

        do_GET = do_POST = _forward  # noqa: N815 -- names of http.server

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{PREFIX}", leads_to.append
    server.shutdown()
    server.server_close()


def check(browser, url):
    """Execute an operation on the page at *url*, and show the other view."""
    page = DocsPage(browser, url)
    operation = page.operation("invoices", "create_invoice")

    assert "202" == page.try_out(operation, callback_url="http://127.0.0.1:9")
    page.show_receiver()
    asked = page.requested_urls()
    # A browser requests a favicon by itself if a page does not name one in time.
    assert [] == [one for one in asked if not one.startswith(f"{url}/")]
    assert [] == page.browser.get_log("browser")


def test_operations_can_be_executed_at_another_host_name(browser, service_url):
    """Execute works at localhost, although the URL of the service is at 127.0.0.1."""
    check(browser, service_url.replace("127.0.0.1", "localhost"))


def test_operations_can_be_executed_behind_a_prefix(browser, tmp_path, migrated, warm):
    """Behind a proxy that removes a prefix the page is shown, and Execute works."""
    with (
        removing_prefix() as (proxy_url, lead_to),
        served(tmp_path, public_url=proxy_url, running=warm.running) as url,
    ):
        lead_to(url)
        check(browser, proxy_url)
