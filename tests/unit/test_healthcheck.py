"""The health check of the image finds the service on every address that it listens on."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from service.cli.healthcheck import is_alive, main
from service.settings import Settings

ROOT = Path(__file__).parents[2]


class Healthz(BaseHTTPRequestHandler):
    """Answers `/healthz`."""

    status = 200

    def do_GET(self):
        """Answer with the status, if the path is right."""
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_arguments):
        """Write nothing."""


@pytest.fixture
def serve():
    """Serves `/healthz` at an address, and returns the port."""
    servers = []

    def serve_(host="127.0.0.1", status=200):
        class Server(HTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        server = Server((host, 0), type("Handler", (Healthz,), {"status": status}))
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        servers.append(server)
        return server.server_port

    yield serve_
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("0.0.0.0",), ("::",), ("::1", "127.0.0.1")])
def test_a_service_is_found_on_its_addresses(serve, hosts):
    """For a wildcard address the check calls loopback; one address that answers is enough."""
    assert is_alive(Settings(host=hosts, port=serve()))


def test_a_service_that_answers_with_an_error_is_not_alive(serve):
    """Every status except 200 is a failure."""
    assert not is_alive(Settings(port=serve(status=503)))


def test_no_service_is_not_alive():
    """If nothing listens, the check fails at once."""
    assert not is_alive(Settings(host=("127.0.0.1", "::1"), port=1))


def test_no_proxy_is_used(serve, monkeypatch):
    """The check calls the service directly, whatever proxy the environment names."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert is_alive(Settings(port=serve()))


def test_service_links_are_not_read_as_a_port(serve, monkeypatch):
    """The check ignores service links, as the service does."""
    monkeypatch.setenv("INVOICES_HOST", "127.0.0.1")
    monkeypatch.setenv("INVOICES_PORT", str(serve()))
    monkeypatch.setenv("INVOICES_SERVICE_PORT", "1")

    assert 0 == main()


def test_wrong_settings_are_reported(monkeypatch, capsys):
    """With wrong settings the check fails and prints the reason."""
    monkeypatch.setenv("INVOICES_PORT", "http")

    assert 1 == main()
    assert "INVOICES_PORT" in capsys.readouterr().err


def test_the_image_uses_the_health_check():
    """The Dockerfile calls the module; no file of the volume can replace one of its modules."""
    assert (
        'CMD ["python", "-P", "-m", "service.cli.healthcheck"]' in (ROOT / "Dockerfile").read_text()
    )
