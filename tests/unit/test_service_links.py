"""Variables that Kubernetes and Docker set for a service named `invoices`, and similar names."""

import os

import pytest

from service.errors import SettingsError
from service.settings import Settings, read_settings, service_links

KUBERNETES = {
    "INVOICES_SERVICE_HOST": "10.96.0.12",
    "INVOICES_SERVICE_PORT": "8080",
    "INVOICES_SERVICE_PORT_HTTP": "8080",
    "INVOICES_SERVICE_PORT_HTTP_METRICS": "9090",
    "INVOICES_PORT": "tcp://10.96.0.12:8080",
    "INVOICES_PORT_8080_TCP": "tcp://10.96.0.12:8080",
    "INVOICES_PORT_8080_TCP_PROTO": "tcp",
    "INVOICES_PORT_8080_TCP_PORT": "8080",
    "INVOICES_PORT_8080_TCP_ADDR": "10.96.0.12",
}
NEIGHBOURS = {
    "INVOICES_DB_SERVICE_HOST": "fd00::12",
    "INVOICES_DB_SERVICE_PORT": "5432",
    "INVOICES_DB_PORT": "tcp://[fd00::12]:5432",
    "INVOICES_DB_PORT_5432_TCP_ADDR": "fd00::12",
    "INVOICES_DNS_PORT_53_UDP": "udp://10.96.0.13:53",
    "INVOICES_PORT_132_SCTP_PROTO": "sctp",
}
DOCKER = {
    "INVOICES_NAME": "/receiver/invoices",
    "INVOICES_ENV_PATH": "/usr/bin",
    "INVOICES_ENV_MOTD": "two\nlines",
}
LINKS = {**KUBERNETES, **NEIGHBOURS, **DOCKER}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without settings; returns a function that sets some."""
    for name in [name for name in os.environ if name.startswith("INVOICES_")]:
        monkeypatch.delenv(name)

    def set_(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_


@pytest.mark.parametrize("links", [KUBERNETES, NEIGHBOURS, DOCKER])
def test_service_links_change_nothing(environment, links):
    """Service links of a service with the same name do not change the settings."""
    environment(links)

    assert Settings(log_format=(read := read_settings()).log_format) == read


@pytest.mark.parametrize("name", sorted(LINKS))
def test_each_service_link_is_named_for_the_log(environment, name):
    """Every ignored service link is listed for the log."""
    environment({name: LINKS[name]})

    assert [name] == service_links()


def test_a_port_number_is_not_a_link(environment):
    """INVOICES_PORT counts as a link only if its value has the form of a link."""
    environment({**KUBERNETES, "INVOICES_PORT": "9000"})

    assert 9000 == read_settings().port


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("INVOICES_PORT", "8080/tcp"),
        ("INVOICES_PORT", "http://10.96.0.12:8080"),
        ("INVOICES_PORT_8080", "tcp://10.96.0.12:8080"),
        ("INVOICES_PORT_HTTP_TCP", "tcp://10.96.0.12:8080"),
        ("INVOICES_PORTS", "8080"),
        ("INVOICES_SERVICE", "10.96.0.12"),
        ("INVOICES_HOST_PORT", "8080"),
        ("INVOICES_NAME", "invoices"),
    ],
)
def test_a_name_that_resembles_a_link_is_an_error(environment, name, text):
    """A misspelt setting is not ignored as a service link."""
    environment({name: text})

    with pytest.raises(SettingsError) as refusal:
        read_settings()
    assert str(refusal.value).startswith(f"{name}: ")
