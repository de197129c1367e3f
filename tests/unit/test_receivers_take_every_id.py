"""The receivers of the documentation accept every id of the API, and can fail on purpose."""

import asyncio
from contextlib import asynccontextmanager, closing
from dataclasses import asdict
from datetime import UTC, datetime

import orjson
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from schemas.fields import InvoiceId
from service.callbacks.exchange import Exchange, Message
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.commands import main
from service.cli.receiver import print_as_json, print_as_text
from service.delivery.egress import EgressPolicy
from service.delivery.sender import OutgoingRequest, Sender
from service.delivery.signing import Signer
from service.development import DEV_NETWORKS, DEV_SECRET
from service.errors import EvaluationError
from service.receiver.sample import Failure, Received, make_receiver
from service.web import server as server_module
from service.web.server import Server
from tests.printed import PAGE, PrintedReceiver

BODY = INVOICE_NOTIFICATION.render(INVOICE_NOTIFICATION.request_example)
OK = b'{"ok":true}'
IDS = [
    *("2expen51ve", "a{b}c", "{id}", "{", "sl/ash", "/", "/x", "x/", "a//b", "../../x", "..."),
    *(" a", "a b", "100%", "%", "%2F", "%252F", "%7B", "a+b", "a?b", "a#b", "a;b=c&d", ":", "@"),
    *(
        "é",
        "😀",
        "a\u2028b",
        "a\u00a0b",
        "\u202ea",
        "a\u0301",
        "\\",
        "'",
        '"',
        "<b>",
        "~-._",
        "é" * 200,
    ),
]


def url_of(base, id_):
    """The URL that the service calls for the invoice *id_*; None if the API refuses it."""
    message = Message(query={"callback_url": base}, body={"id": id_})
    try:
        return INVOICE_NOTIFICATION.url_for(Exchange("https://a.example/", "POST", message)).text
    except EvaluationError:
        return None


@asynccontextmanager
async def serving(app):
    """Serves *app* on this machine; yields a function that calls it as the service does."""
    server = Server(app)
    port = await server.start("127.0.0.1", 0)
    async with Sender(EgressPolicy(DEV_NETWORKS), timeout_seconds=5) as sender:

        async def call(id_="1", *, base="", changed=None):
            url = url_of(f"http://127.0.0.1:{port}{base}", id_)
            assert url is not None, id_
            event = {**INVOICE_NOTIFICATION.request_example, "invoice_id": id_}
            body = INVOICE_NOTIFICATION.render(event)
            headers = Signer((DEV_SECRET,)).headers("msg_1", datetime.now(UTC), body)
            given = {"Content-Type": "application/json", **headers, **(changed or {})}
            answer = await sender.send(OutgoingRequest(url, "POST", given, body))
            return answer.status_code, answer.body

        yield call
    await server.stop()


# Ids


@pytest.mark.parametrize("base", ["", "/", "//", "/base", "/a%20b%7Bc%7D/", "/invoices/1"])
async def test_sample_receiver_accepts_every_id_below_every_path(base):
    """An event for any id is acknowledged, and its path is shown as it was sent."""
    shown = []
    async with serving(make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, shown.append)) as call:
        answers = [await call(id_, base=base) for id_ in IDS]

    assert [(200, OK)] * len(IDS) == answers
    expected = [url_of(f"http://h{base}", id_).removeprefix("http://h") for id_ in IDS]
    assert expected == [one.path for one in shown]


async def test_printed_receiver_accepts_every_id(capsys):
    """The printed receiver reads the id that the API user has chosen."""
    for id_ in IDS:
        with closing(PrintedReceiver()) as printed:
            async with serving(printed.app) as call:
                status, body = await call(id_)

        assert (200, {"ok": True}) == (status, orjson.loads(body)), id_
        assert f"{id_} Invoice paid True\n" == capsys.readouterr().out


@given(id_=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
async def test_every_accepted_id_has_a_route(id_):
    """The sample receiver has a route for every id that the API accepts."""
    try:
        id_ = InvoiceId().deserialize(id_)
    except ValidationError:
        reject()
    async with serving(make_receiver(INVOICE_NOTIFICATION, None, lambda _: None)) as call:
        assert (200, OK) == await call(id_)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-signature": "nonsense"},
        {"webhook-signature": "v1,\u00e9"},
        {"webhook-signature": "v1,a"},
        {"webhook-timestamp": "soon"},
        {"webhook-id": "msg_2"},
    ],
)
async def test_printed_receiver_refuses_with_a_reason(changed):
    """A request that does not verify is answered 401 with the reason, and never 500."""
    with closing(PrintedReceiver()) as printed:
        async with serving(printed.app) as call:
            status, body = await call(changed=changed)

    assert 401 == status
    assert orjson.loads(body)["error"]


def test_printed_receivers_listen_on_loopback():
    """The printed receivers listen on loopback only."""
    text = PAGE.read_text(encoding="utf-8")

    assert 'web.run_app(app, host="127.0.0.1", port=9000, print=None)' in text
    assert 'app.listen(9000, "127.0.0.1");' in text


# Failures on purpose


@pytest.mark.parametrize(
    ("expected", "failure"),
    [
        ([200, 200, 200, 200], Failure()),
        ([500, 500, 500, 500], Failure(status_code=500)),
        ([410, 410, 410, 410], Failure(status_code=410)),
        ([204, 204, 204, 204], Failure(status_code=204)),
        ([201, 201, 201, 201], Failure(status_code=201)),
        ([500, 500, 200, 200], Failure(first=2)),
        ([503, 200, 200, 200], Failure(first=1, status_code=503)),
        ([200, 200, 200, 200], Failure(first=0, status_code=503)),
    ],
)
async def test_receiver_fails_as_requested(expected, failure):
    """The first requests of an event fail, or all of them, and the output has the sent status."""
    shown = []
    app = make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, shown.append, failure)
    async with serving(app) as call:
        statuses = [(await call())[0] for _ in range(4)]

    assert expected == statuses == [one.status_code for one in shown]


async def test_failures_are_counted_for_each_event():
    """The number of failures is counted for each event separately."""
    app = make_receiver(INVOICE_NOTIFICATION, None, lambda _: None, Failure(first=1))
    async with serving(app) as call:
        events = [{"webhook-id": f"msg_{number}"} for number in (1, 2, 1, 2)]
        statuses = [(await call(changed=event))[0] for event in events]

    assert [500, 500, 200, 200] == statuses


async def test_wrong_signature_does_not_count_as_a_failure():
    """A request with a wrong signature is answered 401, and does not count as a failure."""
    app = make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, lambda _: None, Failure(first=1))
    async with serving(app) as call:
        wrong = {"webhook-signature": "v1,a"}
        statuses = [(await call(changed=one))[0] for one in (wrong, wrong, None, None)]

    assert [401, 401, 500, 200] == statuses


async def test_a_delayed_callback_is_shown_at_once(monkeypatch):
    """A callback is shown before its delayed answer is sent."""
    # The answer would be sent long after the end of the test.
    monkeypatch.setattr(server_module, "FINISH_SECONDS", 0.01)
    shown = []
    app = make_receiver(INVOICE_NOTIFICATION, None, shown.append, Failure(delay_seconds=30))
    server = Server(app)
    port = await server.start("127.0.0.1", 0)
    async with Sender(EgressPolicy(DEV_NETWORKS), timeout_seconds=0.5) as sender:
        url = f"http://127.0.0.1:{port}/invoices/2expen51ve"
        answer = await sender.send(OutgoingRequest(url, "POST", {"webhook-id": "msg_1"}, BODY))
    await server.stop()

    assert "timeout" == answer.outcome
    assert [(200, 30)] == [(one.status_code, one.delay_seconds) for one in shown]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("is not in the range 200<=x<=599", ["--answer", "100"]),
        ("is not in the range 200<=x<=599", ["--answer", "600"]),
        ("is not a valid integer range", ["--answer", "never"]),
        ("is not in the range x>=0", ["--fail-first", "-1"]),
        ("is not a duration such as 500ms, 15s", ["--delay", "soon"]),
        ("is not a duration such as 500ms, 15s", ["--delay", "20"]),
        ("is not a duration such as 500ms, 15s", ["--delay", "-1s"]),
    ],
)
def test_invalid_options_are_refused(words, options):
    """Invalid options end with exit status 2 and a message, before a port is opened."""
    refused = CliRunner().invoke(main, ["receiver", *options])

    assert (2, True) == (refused.exit_code, words in refused.stderr), refused.stderr


# Output


def received(**changes):
    """A received callback."""
    usual = {
        "path": "/invoices/a%2Fb",
        "webhook_id": "msg_1",
        "body": "{}",
        "signature": "verified",
        "status_code": 200,
        "answer": '{"ok":true}',
    }
    return Received(**{**usual, **changes})


def test_delay_is_shown(capsys):
    """The output has the delay of the answer."""
    print_as_text(received(delay_seconds=20))

    assert 'answered    200 {"ok":true} after 20 s\n' in capsys.readouterr().out


def test_control_characters_are_not_printed(capsys):
    """The output of a received request has no control characters."""
    print_as_text(received(body="\x1b[2J\x07", webhook_id="\x9b1A\u202e"))

    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert "\N{REPLACEMENT CHARACTER}[2J" in printed


def test_control_characters_are_escaped_in_json(capsys):
    """A line of JSON has the same text, without a character that a terminal would obey."""
    sent = received(body="\x1b[2J\x07", webhook_id="\x9b1A\u202e", path="/\x7f\U000e0001é")
    print_as_json(sent)

    printed = capsys.readouterr().out.removesuffix("\n")
    assert printed.isprintable()
    assert asdict(sent) == orjson.loads(printed)


async def test_bytes_that_are_not_utf_8_are_shown(capsys):
    """A request with a header in Latin-1 is printed and answered."""
    shown = []
    server = Server(make_receiver(INVOICE_NOTIFICATION, None, shown.append))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /invoices/2expen51ve HTTP/1.1\r\nHost: h\r\n")
    head = b"webhook-id: \xe4\r\nConnection: close\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    answer = await reader.read()
    writer.close()
    await server.stop()
    for one in shown:
        print_as_json(one)
        print_as_text(one)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert "?" == orjson.loads(capsys.readouterr().out.splitlines()[0])["webhook_id"]
