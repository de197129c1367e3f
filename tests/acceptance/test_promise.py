"""The requests on the wire agree with the callback in the served OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import aiohttp
import pytest
from openapi_schema_validator import OAS31Validator
from standardwebhooks import Webhook

from service.app.process import DEVELOPMENT
from service.app.running import running
from service.development import DEV_SECRET, for_development
from service.settings import Settings
from tests.fakes import Journal

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STANDARD_HTTP = {
    "host",
    "accept",
    "accept-encoding",
    "content-length",
    "content-type",
    "user-agent",
}
"""Headers of any request with a body, which a document does not have to declare."""

PROMISES = {
    "Delivered": ("delivered", None),
    "Not delivered": ("pending", None),
    "Dead": ("dead", "gone"),
}
"""First words of an answer in the document -> status and reason of the delivery after it."""

HOLD = timedelta(hours=10)
"""The hold that receivers ask for with Retry-After: longer than any delay of the schedule."""


@dataclass
class Arrived:
    """One request with its exact bytes."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class RawReceiver:
    """A receiver that keeps the bytes of every request and always gives the same answer."""

    status: int = 200
    answer: bytes = b'{"ok": true}'
    retry_after: timedelta | None = None
    arrived: list[Arrived] = field(default_factory=list)
    url: str = ""

    async def receive(self, reader, writer):
        """Read one request, answer it and close the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = [tuple(one.split(": ", 1)) for one in rest]
        length = next(int(text) for name, text in headers if name.lower() == "content-length")
        self.arrived.append(Arrived(line, headers, await reader.readexactly(length)))
        answer = [f"HTTP/1.1 {self.status} X", f"Content-Length: {len(self.answer)}"]
        if self.retry_after:
            answer.append(f"Retry-After: {self.retry_after.total_seconds():.0f}")
        writer.write("\r\n".join([*answer, "Connection: close", "", ""]).encode() + self.answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(receiver):
    """Make *receiver* listen on a port of its own."""
    server = await asyncio.start_server(receiver.receive, "127.0.0.1", 0)
    async with server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield receiver


class Settled(logging.Handler):
    """The recorded attempts, as they are logged."""

    def __init__(self):
        super().__init__()
        self.journal = Journal()

    def emit(self, record):
        """Keep the line of an attempt."""
        if "attempt.settled" == record.msg:
            self.journal.add(record.fields)


@pytest.fixture
def settled():
    """The recorded attempts so far."""
    handler, log = Settled(), logging.getLogger("invoices")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.journal
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def settings(tmp_path):
    """Development settings with a schedule whose second attempt is not due during a test."""
    return replace(
        for_development(Settings()),
        port=0,
        database_url=f"sqlite:///{tmp_path}/invoices.db",
        sandbox_delay=timedelta(0),
        retry_schedule=(timedelta(hours=1),),
    )


class Served:
    """A running service: its document, and the deliveries of its invoices."""

    def __init__(self, session, settled, document):
        self._session = session
        self._settled = settled
        self.document = document
        callbacks = document["paths"]["/invoices/"]["post"]["callbacks"]
        ((self.expression, item),) = callbacks["invoice_notification"].items()
        ((self.method, self.operation),) = item.items()

    async def deliver(self, receivers, headers=None):
        """Send an invoice to each of *receivers*; return the deliveries after one attempt each."""
        for id_, receiver in receivers.items():
            invoice = {"id": id_, "customer": "Mr. Richie Rich", "total": "9999"}
            params = {"callback_url": receiver.url}
            async with self._session.post(
                "/invoices/", json=invoice, params=params, headers=headers
            ) as response:
                assert 202 == response.status
        await self._settled.reaches(len(receivers))
        return {id_: await self._delivery_of(id_) for id_ in receivers}

    async def _delivery_of(self, id_):
        async with self._session.get(f"/invoices/{id_}/deliveries") as response:
            (delivery,) = (await response.json())["items"]
        return delivery

    def errors(self, schema, instance):
        """The errors of *instance* against a schema of the document."""
        whole = {**schema, "components": self.document["components"]}
        return [error.message for error in OAS31Validator(whole).iter_errors(instance)]


@asynccontextmanager
async def serving(settings, settled):
    """A service in this process, which is called over its socket."""
    async with (
        running(settings, DEVELOPMENT) as service,
        aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session,
    ):
        async with session.get("/api/docs/openapi.json") as response:
            document = await response.json()
        yield Served(session, settled, document)


@pytest.mark.parametrize("sent", [{}, {"traceparent": TRACEPARENT}], ids=["plain", "traced"])
async def test_a_request_is_as_the_document_declares(settings, settled, sent):
    """Request line, headers and body on the wire are as declared, without additions."""
    async with serving(settings, settled) as served, receiving(RawReceiver()) as receiver:
        await served.deliver({"2expen51ve": receiver}, sent)
    (arrived,) = receiver.arrived
    headers = {name.lower(): text for name, text in arrived.headers}
    declared = {one["name"]: one for one in served.operation["parameters"]}
    ((content_type, content),) = served.operation["requestBody"]["content"].items()
    body = json.loads(arrived.body)
    path = served.expression.replace("{$request.query.callback_url}", "").replace(
        "{$request.body#/id}", "2expen51ve"
    )

    assert f"{served.method.upper()} {path} HTTP/1.1" == arrived.line
    assert len(headers) == len(arrived.headers)
    assert set() == set(headers) - set(declared) - STANDARD_HTTP
    assert set() == {name for name, one in declared.items() if one["required"]} - set(headers)
    assert sent.get("traceparent") == headers.get("traceparent")
    for name in set(declared) & set(headers):
        assert [] == served.errors(declared[name]["schema"], headers[name]), name
    assert content_type == headers["content-type"]
    assert [] == served.errors(content["schema"], body)
    assert list(content["example"]) == list(body)
    Webhook(DEV_SECRET).verify(arrived.body, headers)


def rows_of(responses):
    """The answers of the document, by status or by class: `default` has a line for each class."""
    rows = {}
    for statuses, row in responses.items():
        if statuses == "default":
            for digit, words in re.findall(r"`(\d)xx`: ([^\n]+)", row["description"]):
                rows[f"{digit}XX"] = {**row, "description": words}
        elif "Every other 2xx counts too" in row["description"]:
            rows["2XX"] = row
        else:
            rows[statuses] = row
    return rows


def receivers_of(statuses, row):
    """A receiver for each answer of *row*, with its first and its last status, by invoice id."""
    content = row.get("content", {}).get("application/json", {})
    answer = json.dumps(content.get("example", {"ok": True})).encode()
    hold = HOLD if "Retry-After" in row.get("headers", {}) else None
    first, last = (int(statuses.replace("XX", digits)) for digits in ("00", "99"))
    return {
        f"{statuses}-{status}-{at}": RawReceiver(status, answer, retry_after)
        for status in (first, last)
        for at, retry_after in enumerate((None, hold))
    }


def promise_of(row):
    """The status and the reason of the delivery that the document states for an answer."""
    (words,) = [words for words in PROMISES if row["description"].startswith(words)]
    return PROMISES[words]


async def test_every_answer_has_the_result_that_the_document_states(settings, settled):
    """A receiver that gives a declared answer causes the documented status and reason."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(settings, settled))
        rows = rows_of(served.operation["responses"])
        assert {"2XX", "3XX", "4XX", "410", "5XX"} == set(rows)
        receivers = {}
        for statuses, row in rows.items():
            receivers |= receivers_of(statuses, row)
        for receiver in receivers.values():
            await stack.enter_async_context(receiving(receiver))
        deliveries = await served.deliver(receivers)

    promised = {id_: promise_of(rows[id_.partition("-")[0]]) for id_ in receivers}
    assert promised == {id_: (one["status"], one["reason"]) for id_, one in deliveries.items()}
    for id_, delivery in deliveries.items():
        (attempt,) = delivery["attempts"]
        assert receivers[id_].status == attempt["status_code"]
        assert (delivery["due_at"] is not None) is ("pending" == delivery["status"]), id_
        if delivery["due_at"]:
            delay = datetime.fromisoformat(delivery["due_at"]) - datetime.fromisoformat(
                attempt["started_at"]
            )
            assert (receivers[id_].retry_after or timedelta(0)) <= delay, id_
            assert (delay >= HOLD) is (receivers[id_].retry_after is not None), id_


@pytest.mark.parametrize(
    ("contract", "promise", "status"),
    [
        ("strict", "if the body is as declared; if not, the event is sent again", "pending"),
        ("lenient", "with any body", "delivered"),
    ],
)
async def test_another_body_has_the_result_that_the_document_states(
    settings, settled, contract, promise, status
):
    """The document describes the configured contract, and the service applies it."""
    settings = replace(settings, receiver_contract=contract)
    receiver = RawReceiver(200, b"<html>for sale</html>", HOLD)
    async with serving(settings, settled) as served, receiving(receiver):
        delivery = (await served.deliver({"1": receiver}))["1"]

    assert promise in served.operation["responses"]["200"]["description"]
    assert status == delivery["status"]
