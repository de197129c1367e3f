"""The service in different deployments: without settings, in a cluster, at several addresses."""

from __future__ import annotations

import stat

import aiohttp
import pytest

from service.database.sqlite import SqliteDatabase
from tests.acceptance.test_accounts import accounts, producing
from tests.processes import command

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path):
    """A database for this test, and no other settings."""
    return {"DATABASE_URL": f"sqlite:///{tmp_path}/invoices.db", "LOG_FORMAT": "json"}


async def test_it_starts_without_settings(settings, tmp_path):
    """The first start makes an account and an encryption key; the second start uses both."""
    file = tmp_path / "invoices.db.key"
    async with producing(settings) as production:
        key, _ = await production.shown()
        (warning,) = production.service.lines("encryption_key.made")
        assert 200 == await production.status_with(key)
        await production.stopped()
        made = file.read_bytes()

    assert str(file) == warning["file"]
    assert "warning" == warning["level"]
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert made.decode().strip() not in production.service.output.decode()

    async with producing(settings) as production:
        assert 200 == await production.status_with(key)
        assert [] == production.service.lines("encryption_key.made")
        assert (await accounts(settings, "rotate-secret", "default"))["secret"]
        assert "" == await production.stopped()
    assert made == file.read_bytes()


async def test_a_lost_key_file_stops_the_start(settings, tmp_path):
    """Without the key of its secrets the service does not start, and makes no new key."""
    file = tmp_path / "invoices.db.key"
    await command("accounts", "add", "acme", **settings)
    file.unlink()

    status, printed, errors = await command("serve", **settings)

    assert (2, "") == (status, printed)
    assert "INVOICES_ENCRYPTION_KEY is not set" in errors
    assert not file.exists()


async def test_it_starts_beside_a_service_of_its_name(settings):
    """The variables that Kubernetes sets for a service named `invoices` do not stop the start."""
    links = {
        "SERVICE_HOST": "10.96.0.12",
        "SERVICE_PORT": "8080",
        "SERVICE_PORT_HTTP": "8080",
        "PORT_8080_TCP": "tcp://10.96.0.12:8080",
        "PORT_8080_TCP_ADDR": "10.96.0.12",
    }
    async with producing({**settings, **links, "LOG_LEVEL": "debug"}) as production:
        (line,) = production.service.lines("settings.ignored")

    assert sorted(f"INVOICES_{name}" for name in links) == line["names"]
    assert "debug" == line["level"]


@pytest.mark.parametrize("hosts", ["127.0.0.1,::1", "::"])
async def test_it_listens_on_both_families(settings, hosts):
    """Several addresses can be set, and `::` listens on both families."""
    async with producing({**settings, "HOST": hosts}) as production, aiohttp.ClientSession() as ask:
        port = production.service.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            async with ask.get(f"http://{host}:{port}/healthz") as answer:
                assert 200 == answer.status
        (line,) = production.service.lines("service.started")

    assert hosts == line["host"]
    assert SqliteDatabase.product == line["database"]


async def test_an_unused_proxy_is_logged(settings, monkeypatch):
    """A line at the start says that HTTPS_PROXY has no effect, unless our proxy is set."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.internal:3128")
    for name in ("https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with producing(settings) as production:
        (line,) = production.service.lines("proxy.ignored")
    async with producing({**settings, "CALLBACK_PROXY": "http://127.0.0.1:1"}) as production:
        assert [] == production.service.lines("proxy.ignored")

    assert ["HTTPS_PROXY"] == line["names"]
    assert "INVOICES_CALLBACK_PROXY" in line["meaning"]
