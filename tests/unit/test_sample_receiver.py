"""The sample receiver: it behaves as the document demands, and shows the callbacks."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import orjson
import pytest
from standardwebhooks import Webhook
from yarl import URL

from service.callbacks.answers import AnswerRule, Meaning
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.development import DEV_SECRET
from service.receiver import sample
from service.receiver.sample import Failure, make_receiver

BODY = INVOICE_NOTIFICATION.render(INVOICE_NOTIFICATION.request_example)


def signed(body=BODY, *, secret=DEV_SECRET, at=None):
    """The signed headers of a callback with *body*."""
    at = at or datetime.now(UTC)
    return {
        "Content-Type": "application/json",
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, body.decode()),
    }


@pytest.fixture
def shown():
    """The callbacks that the receiver has shown."""
    return []


@pytest.fixture
async def receiver(aiohttp_client, shown):
    """A receiver that knows the development secret."""
    return await aiohttp_client(make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, shown.append))


PATH = f"/invoices/{INVOICE_NOTIFICATION.request_example['invoice_id']}"


@pytest.mark.parametrize("path", [PATH, f"/a/b{PATH}"])
async def test_callback_is_acknowledged_as_declared(receiver, shown, path):
    """A signed event is acknowledged as declared, below any path."""
    answer = await receiver.post(path, data=BODY, headers=signed())

    assert 200 == answer.status
    assert dict(INVOICE_NOTIFICATION.response_example) == await answer.json()
    assert INVOICE_NOTIFICATION.read_answer(await answer.read())
    assert [("verified", 200, "msg_1", BODY.decode())] == [
        (one.signature, one.status_code, one.webhook_id, one.body) for one in shown
    ]


async def test_repeated_event_is_recognised(receiver, shown):
    """An event that was processed is answered in the same way again, and shown as repeated."""
    for headers in (signed(), signed(), {}):
        await receiver.post(PATH, data=BODY, headers={**headers, "webhook-id": "msg_1"})

    expected = [(200, False), (200, True), (401, False)]
    assert expected == [(one.status_code, one.is_repeated) for one in shown]


@pytest.mark.parametrize("failure", [BrokenPipeError, OSError(errno.ENOSPC, "full")])
async def test_a_callback_that_cannot_be_shown_is_answered(aiohttp_client, failure):
    """The receiver goes on where `| head` has closed its output, or a disk is full."""

    def show(_received):
        raise failure

    receiver = await aiohttp_client(make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, show))
    answer = await receiver.post(PATH, data=BODY, headers=signed())

    assert (200, {"ok": True}) == (answer.status, await answer.json())


async def test_event_that_was_not_accepted_is_not_repeated(aiohttp_client, shown):
    """An event that failed on purpose is processed when it comes again."""
    app = make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, shown.append, Failure(first=1))
    receiver = await aiohttp_client(app)
    for _ in range(3):
        await receiver.post(PATH, data=BODY, headers=signed())

    expected = [(500, False), (200, False), (200, True)]
    assert expected == [(one.status_code, one.is_repeated) for one in shown]


async def test_the_memory_of_the_sample_is_bounded(aiohttp_client, shown, monkeypatch):
    """The sample forgets the oldest events that it has processed."""
    monkeypatch.setattr(sample, "REMEMBERED_COUNT", 2)
    receiver = await aiohttp_client(make_receiver(INVOICE_NOTIFICATION, None, shown.append))
    for number in (1, 2, 3, 3, 1):
        headers = {"webhook-id": f"msg_{number}"}
        await receiver.post(PATH, data=BODY, headers=headers)

    assert [False, False, False, True, False] == [one.is_repeated for one in shown]


@pytest.mark.parametrize("path", ["/invoices/2", "/invoices/2expen51ve%20", "/invoices/%2F"])
async def test_an_event_of_another_invoice_is_refused(receiver, shown, path):
    """A signed event that arrives at the path of another invoice is answered 400."""
    answer = await receiver.post(path, data=BODY, headers=signed())

    assert 400 == answer.status
    assert "invoice_id" in (await answer.json())["error"]
    assert [("verified", 400)] == [(one.signature, one.status_code) for one in shown]


async def test_an_id_that_is_escaped_in_the_path_is_the_same(receiver):
    """The id of the path is compared without its percent-encoding."""
    event = {**INVOICE_NOTIFICATION.request_example, "invoice_id": "x/y %2F"}
    body = INVOICE_NOTIFICATION.render(event)
    path = "/invoices/" + quote("x/y %2F", safe="")

    assert (
        200
        == (await receiver.post(URL(path, encoded=True), data=body, headers=signed(body))).status
    )


async def test_acknowledgement_is_the_declared_one(aiohttp_client, shown):
    """The status of the acknowledgement is the one of the declaration."""
    answers = (
        AnswerRule("202", Meaning.DELIVERED, ""),
        AnswerRule("2XX", Meaning.RETRY, ""),
        *INVOICE_NOTIFICATION.answers[1:],
    )
    callback = replace(INVOICE_NOTIFICATION, answers=answers)
    receiver = await aiohttp_client(make_receiver(callback, DEV_SECRET, shown.append))

    assert 202 == (await receiver.post(PATH, data=BODY, headers=signed())).status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(secret="whsec_" + "b3RoZXIgc2VjcmV0IG90aGVyIHNlY3JldA=="),
        signed(body=b'{"description":"Invoice paid","paid":false}'),
        signed(at=datetime.now(UTC) - timedelta(hours=1)),
        {**signed(), "webhook-id": "msg_2"},
        {**signed(), "webhook-timestamp": "nonsense"},
        {**signed(), "webhook-signature": "nonsense"},
        {**signed(), "webhook-signature": "v1,\u00e9"},
    ],
)
async def test_wrong_signature_is_refused(receiver, shown, headers):
    """A wrong signature is answered 401, and the reason is shown."""
    answer = await receiver.post(PATH, data=BODY, headers=headers)

    assert 401 == answer.status
    assert (await answer.json())["error"].startswith("not verified: ")
    assert shown[0].signature.startswith("not verified: ")


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b'{"paid": true}', b'{"description": 1}']
)
async def test_body_that_is_not_declared_is_refused(receiver, body):
    """A signed body that is not an event is answered 400."""
    answer = await receiver.post(PATH, data=body, headers=signed(body))

    assert 400 == answer.status


async def test_field_that_is_not_declared_is_ignored(receiver):
    """An undeclared field of an event is ignored."""
    body = orjson.dumps({**INVOICE_NOTIFICATION.request_example, "new": 1})

    assert 200 == (await receiver.post(PATH, data=body, headers=signed(body))).status


async def test_a_test_event_is_acknowledged(receiver):
    """An event with `test` is one like any other, with or without an invoice of that id."""
    event = {**INVOICE_NOTIFICATION.request_example, "invoice_id": "test_1", "test": True}
    body = orjson.dumps(event)

    answer = await receiver.post("/invoices/test_1", data=body, headers=signed(body))

    assert (200, {"ok": True}) == (answer.status, await answer.json())


async def test_without_a_secret_no_signature_is_checked(aiohttp_client, shown):
    """A receiver without a secret accepts events, and shows that it did not check them."""
    receiver = await aiohttp_client(make_receiver(INVOICE_NOTIFICATION, None, shown.append))

    assert 200 == (await receiver.post(PATH, data=BODY)).status
    assert "not checked" == shown[0].signature


@pytest.mark.parametrize(
    ("status", "method", "path"), [(404, "POST", "/"), (405, "GET", "/invoices/1")]
)
async def test_only_the_declared_operation_is_served(receiver, shown, status, method, path):
    """Other paths and methods than the declared ones are refused."""
    assert status == (await receiver.request(method, path)).status
    assert [] == shown


async def test_large_body_is_refused(receiver):
    """A body larger than any event is refused."""
    answer = await receiver.post(PATH, data=b" " * 70_000, headers=signed())

    assert 413 == answer.status
