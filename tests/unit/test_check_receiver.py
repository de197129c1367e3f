"""`invoices check-receiver`: it names the defect of a receiver, and passes sound ones."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from xml.etree import ElementTree

import orjson
import pytest
import trustme
from aiohttp import web
from click.testing import CliRunner

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.check_receiver import Progress
from service.cli.commands import main
from service.development import DEV_SECRET
from service.receiver import answer_checks, caller, conformance
from service.receiver.caller import Call
from service.receiver.checks import CHECKS
from service.receiver.conformance import Result, Status
from service.receiver.judging import Finding
from service.receiver.sample import make_receiver
from service.web.server import Server
from tests.processes import free_port
from tests.receivers import DEFECTS, SLOW_SECONDS, SOUND, HangsOnForgery, Slow, Sound

OTHER_SECRET = "whsec_c29tZSBvdGhlciBzZWNyZXQgb2Ygc29tZSBvbmU="


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch):
    """Answers are late after a second, and connections are cut at once."""
    monkeypatch.setenv("INVOICES_CALLBACK_TIMEOUT", "1s")
    monkeypatch.setattr(caller, "CUT_SECONDS", 0)


@asynccontextmanager
async def serving(app):
    """Serves *app* on this machine; yields its URL."""
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def check(url, *options):
    """The exit status and the output of the command."""
    # The command has an event loop of its own.
    command = ["check-receiver", url, *options]
    ended = await asyncio.to_thread(CliRunner().invoke, main, command)
    return ended.exit_code, ended.stdout or ended.stderr


async def check_as_json(url, *options):
    """The exit status and the result."""
    status, output = await check(url, "--json", *options)
    return status, orjson.loads(output)


def failed_in(result):
    """The names of the checks that failed."""
    return {one["name"] for one in result["checks"] if one["status"] == "failed"}


@pytest.mark.parametrize("name", SOUND)
async def test_sound_receiver_conforms(name):
    """A receiver that does what is documented passes, however it is written."""
    async with serving(SOUND[name]().application()) as url:
        status, result = await check_as_json(url)

    assert set() == failed_in(result), result
    assert (0, True, url) == (status, result["conforms"], result["url"])


async def test_sample_receiver_conforms():
    """The sample receiver passes every check."""
    server = Server(make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, lambda _: None))
    port = await server.start("127.0.0.1", 0)
    status, result = await check_as_json(f"http://127.0.0.1:{port}/below")
    await server.stop()

    assert (0, set()) == (status, failed_in(result))
    assert {"tls"} == {one["name"] for one in result["checks"] if one["status"] == "skipped"}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda one: one.__name__)
async def test_defect_is_named(defect, monkeypatch):
    """A receiver with one defect fails the checks about it, and no other."""
    if defect is Slow:
        monkeypatch.setattr(answer_checks, "TARGET_SECONDS", SLOW_SECONDS / 2)
    async with serving(defect().application()) as url:
        status, result = await check_as_json(url)

    assert DEFECTS[defect] == failed_in(result), [
        one for one in result["checks"] if one["status"] == "failed"
    ]
    assert (1, False) == (status, result["conforms"])
    for one in result["checks"]:
        if one["status"] == "failed":
            assert one["cause"].endswith("."), one
            assert one["mending"].endswith("."), one
            assert one["curl"], one


def test_every_check_has_a_receiver_that_fails_it():
    """The table of defects covers every check, but those that need a connection of their own."""
    covered = set().union(*DEFECTS.values())

    assert {"connection", "tls"} == {one.name for one in CHECKS} - covered


async def test_nothing_listens():
    """Where nothing listens, the connection fails and the rest is skipped."""
    status, result = await check_as_json(f"http://127.0.0.1:{free_port()}")

    assert (1, {"connection"}) == (status, failed_in(result))
    assert {"failed", "skipped"} == {one["status"] for one in result["checks"]}


@pytest.fixture
def authority(tmp_path, monkeypatch):
    """An authority that the system trusts, and one below it."""
    root = trustme.CA()
    root.cert_pem.write_to_path(tmp_path / "root.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    return root.create_child_ca()


@asynccontextmanager
async def serving_tls(certificate, chain):
    """Serves a sound receiver with *certificate* and its *chain*, in PEM; yields its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with certificate.private_key_pem.tempfile() as key, chain.tempfile() as pem:
        context.load_cert_chain(pem, key)
    runner = web.AppRunner(Sound().application(), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def whole_chain(certificate):
    """Everything that a server has to send."""
    return trustme.Blob(b"".join(one.bytes() for one in certificate.cert_chain_pems))


async def test_trusted_certificate_passes(authority):
    """A certificate with its whole chain, from a trusted authority, passes the check of TLS."""
    certificate = authority.issue_cert("127.0.0.1")
    async with serving_tls(certificate, whole_chain(certificate)) as url:
        status, result = await check_as_json(url)

    assert (0, set()) == (status, failed_in(result))
    assert {"passed"} == {one["status"] for one in result["checks"]}


@pytest.mark.parametrize("defect", ["own authority", "no chain", "another host"])
async def test_certificate_that_is_not_trusted_is_named(authority, defect):
    """An unknown authority, a missing chain and another host fail the check of TLS alone."""
    issuer = trustme.CA() if defect == "own authority" else authority
    certificate = issuer.issue_cert("10.0.0.1" if defect == "another host" else "127.0.0.1")
    chain = certificate.cert_chain_pems[0] if defect == "no chain" else whole_chain(certificate)
    async with serving_tls(certificate, chain) as url:
        status, result = await check_as_json(url)

    assert (1, {"tls"}) == (status, failed_in(result))
    (cause,) = [one["cause"] for one in result["checks"] if one["name"] == "tls"]
    assert "certificate" in cause


async def test_a_run_is_bounded(monkeypatch):
    """A receiver that leaves requests unanswered ends the run soon; what is left is skipped."""
    monkeypatch.setattr(conformance, "RUN_SECONDS", 1.5)
    async with serving(HangsOnForgery().application()) as url:
        status, result = await check_as_json(url)

    (skipped,) = {
        one["cause"]
        for one in result["checks"]
        if one["status"] == "skipped" and one["name"] != "tls"
    }
    assert (1, True) == (status, "wrong_signature" in failed_in(result))
    assert "the run has taken more than" in skipped


async def test_secret_of_the_receiver_is_given():
    """Without --secret the receiver has the public secret of the development mode."""
    app = make_receiver(INVOICE_NOTIFICATION, OTHER_SECRET, lambda _: None)
    async with serving(app) as url:
        without, result = await check_as_json(url)
        with_secret, _ = await check_as_json(url, "--secret", OTHER_SECRET)

    assert (1, 0) == (without, with_secret)
    (mending,) = [one["mending"] for one in result["checks"] if one["status"] == "failed"]
    assert "--secret" in mending


# Output


async def test_output_for_people_explains_a_failure():
    """The output has a line for each check, and cause, mending and curl of a failure."""
    async with serving(next(iter(DEFECTS))().application()) as url:
        _, output = await check(url)

    assert "FAILED  event_paid" in output
    assert "A correct event: the receiver answered 500 Internal Server Error.\n" in output
    assert "curl -i -X POST" in output
    assert "The receiver does not conform: 1 passed, 1 failed" in output


class Terminal(io.StringIO):
    """An output that is a terminal."""

    def isatty(self):
        return True


def test_running_check_is_shown_on_a_terminal(monkeypatch):
    """A terminal shows the name of the running check, and then its result in the same line."""
    monkeypatch.setattr("sys.stdout", Terminal())
    progress = Progress(is_printed=True)
    progress.begin("tls")
    running = sys.stdout.getvalue()
    progress.show(Result(name="tls", status=Status.PASSED, duration_ms=3))

    assert running.endswith("checking tls …")
    ended = sys.stdout.getvalue().removeprefix(running)
    assert ended.startswith("\r\x1b[Kpassed  tls ")


def test_nothing_of_a_receiver_reaches_the_terminal(capsys):
    """What a receiver answers is shown without control characters."""
    finding = Finding(
        cause="\x1b[2J.", mending="\x07.", call=Call(url="", method="", headers={}, body=b"\x9b")
    )
    failed = Result(
        name="a", status=Status.FAILED, duration_ms=3, cause="\x1b[2J.", finding=finding
    )
    Progress(is_printed=True).show(failed)

    assert [] == [one for one in capsys.readouterr().out if not one.isprintable() and one != "\n"]


async def test_curl_shows_the_failure(tmp_path):
    """The printed command sends the same request."""
    (defect,) = [one for one in DEFECTS if one.__name__ == "RefusesUnknownFields"]
    async with serving(defect().application()) as url:
        _, result = await check_as_json(url)
        (command,) = [one["curl"] for one in result["checks"] if one["status"] == "failed"]
        ended = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-c", f"{command} --silent --noproxy '*'"],
            capture_output=True,
            check=True,
            timeout=30,
        )

    assert ended.stdout.startswith(b"HTTP/1.1 400")


async def test_result_as_junit(tmp_path):
    """--junit writes a test suite, into a file or to the output."""
    file = tmp_path / "result.xml"
    async with serving(next(iter(DEFECTS))().application()) as url:
        status, _ = await check(url, "--junit", str(file))
        _, output = await check(url, "--junit")

    for text in (file.read_text(encoding="utf-8"), output):
        suite = ElementTree.fromstring(text)
        assert "testsuite" == suite.tag
        assert (str(len(CHECKS)), "1") == (suite.get("tests"), suite.get("failures"))
        assert ["event_paid"] == [
            one.get("name") for one in suite if one.find("failure") is not None
        ]
    assert 1 == status


# Wrong usage


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("must begin with http:// or https://", ["localhost:9000"]),
        ("must not have a query", ["https://a.example/?a=b"]),
        ("must begin with http:// or https://", ["ftp://a.example"]),
        ("A signing secret is 'whsec_'", ["http://127.0.0.1:9000", "--secret", "whsec_a"]),
        ("--allow-private", ["http://10.0.0.1"]),
        ("--allow-private", ["http://169.254.169.254", "--allow-private"]),
        ("Missing argument 'URL'", []),
    ],
)
def test_wrong_usage_is_refused(words, arguments):
    """Wrong usage ends with exit status 2 and a message, before anything is sent."""
    ended = CliRunner().invoke(main, ["check-receiver", *arguments])

    assert (2, True) == (ended.exit_code, words in ended.stderr), ended.stderr


async def test_name_that_leads_to_a_private_address_is_not_called(monkeypatch):
    """A name is called only where its addresses may be: loopback has to be in the URL."""
    called = []

    async def receive(_request):
        called.append(1)
        return web.json_response({"ok": True})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receive)
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, port, *more, **options: look_up("127.0.0.1", port)
    )
    async with serving(app) as url:
        named = url.replace("127.0.0.1", "a.example")
        status, result = await check_as_json(named)
        before = len(called)
        await check_as_json(named, "--allow-private")

    assert (1, {"connection"}) == (status, failed_in(result))
    assert (0, True) == (before, bool(called))
