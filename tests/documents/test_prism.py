"""The mock server Prism answers and sends callbacks as the document says."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from schemas.invoice import EXAMPLE
from service.callbacks.invoices import INVOICE_NOTIFICATION
from tests.documents import tools
from tests.processes import free_port

pytestmark = [pytest.mark.documents, pytest.mark.slow]

STARTING_SECONDS = 60


@pytest.fixture(scope="module", autouse=True)
def _without_proxy():
    """Prism listens on loopback, which no proxy reaches."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "127.0.0.1")
        yield


@pytest.fixture(scope="module")
def prism(document_file):
    """The URL of a Prism that serves the document and refuses invalid requests; it has no state."""
    port = free_port()
    command = [*tools.PRISM, "mock", "--errors", "--port", str(port), document_file]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + STARTING_SECONDS
            while ask(f"{url}/healthz") is None:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


@pytest.fixture
def receiver():
    """A receiver of callbacks: its URL, and the requests that it got."""
    arrived = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.put((self.path, json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"ok": true}')

        def log_message(self, *_):
            pass

    with closing(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        server.close = server.server_close
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", arrived
        server.shutdown()
        thread.join()


def ask(url, body=None):
    """Status and body of the response to a request; None if nothing listens."""
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    request = Request(url, json.dumps(body).encode() if body else None, headers)
    try:
        with urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)
    except (URLError, ConnectionError):
        return None


def test_prism_sends_the_callback_of_the_document(prism, receiver):
    """Prism accepts an invoice, and sends its callback with the documented path and body."""
    url, arrived = receiver

    status, body = ask(f"{prism}/invoices/?callback_url={url}", EXAMPLE)

    assert (True, {"msg": "Invoice received"}) == (status in {200, 202}, body)
    expected = (f"/invoices/{EXAMPLE['id']}", INVOICE_NOTIFICATION.request_example)
    assert expected == arrived.get(timeout=10)


@pytest.mark.parametrize("total", ["9999", "9999.00", 9999, 9999.5])
def test_prism_accepts_an_amount_as_text_and_as_number(prism, total):
    """Both forms of an amount are valid under the document."""
    assert {"msg": "Invoice received"} == ask(f"{prism}/invoices/", {**EXAMPLE, "total": total})[1]


@pytest.mark.parametrize("total", [True, "1e5", None, -1])
def test_prism_refuses_an_invalid_amount(prism, total):
    """An amount that the service refuses is invalid under the document too."""
    assert 422 == ask(f"{prism}/invoices/", {**EXAMPLE, "total": total})[0]
