"""Runs the example of docs/architecture.md that adds a callback."""

from __future__ import annotations

import importlib.util
import json
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator
from standardwebhooks import Webhook

from service.api.application import OPERATIONS
from service.app.process import DEVELOPMENT
from service.app.running import running
from service.development import DEV_SECRET, for_development
from service.errors import DeclarationError
from service.settings import Settings
from tests.processes import receiving, until

ROOT = Path(__file__).parents[2]
EXPRESSION = "{$request.body#/notify}/parcels/{$request.path.number}"
SEEN = '{"seen": true}'


@pytest.fixture
def parcels(tmp_path):
    """The example of the page as a module in a file of its own."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^## Adding a callback\n.*?^```python\n(.*?)^```", page, re.M | re.S)
    file = tmp_path / "parcels.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("parcels", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(tmp_path):
    """A service with its own database and any free port, with short delays."""
    return for_development(
        Settings(
            port=0,
            database_url=f"sqlite:///{tmp_path}/invoices.db",
            sandbox_delay=timedelta(0),
            retry_schedule=(timedelta(milliseconds=50),),
        )
    )


class Api:
    """A client of the service."""

    def __init__(self, session):
        self.session = session

    async def send(self, number, **parcel):
        """Send a parcel, and return the status and the document of the response."""
        body = {"recipient": "Mr. Richie Rich", **parcel}
        async with self.session.post(f"/parcels/{number}", json=body) as answer:
            return answer.status, await answer.json()

    async def get(self, path):
        """The document at *path*."""
        async with self.session.get(path) as answer:
            assert 200 == answer.status, await answer.text()
            return await answer.json()

    async def settled(self, number):
        """The only delivery of a parcel, by its id, after it is settled."""

        async def find():
            (delivery,) = (await self.get(f"/invoices/{number}/deliveries"))["items"]
            return delivery["status"] != "pending" and await self.get(
                f"/deliveries/{delivery['id']}"
            )

        return await until(find)


@pytest.fixture
def serving(parcels, settings):
    """Runs the service of the example with a receiver."""

    @asynccontextmanager
    async def run():
        async with (
            parcels.serving(settings) as service,
            receiving() as receiver,
            aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session,
        ):
            yield Api(session), receiver

    return run


async def test_a_second_callback_is_in_the_document_of_the_receiver(serving):
    """The document of the receiver has the callback too, with its path, parameters and answers."""
    async with serving() as (api, _):
        document = await api.get("/api/docs/receiver.json")

    OpenAPIV30SpecValidator(document).validate()
    operation = document["paths"]["/parcels/{number}"]["put"]
    number, *_ = operation["parameters"]
    assert ("path", "number", "1Z999") == (number["in"], number["name"], number["example"])
    assert ["200", "401", "404", "410", "503"] == list(operation["responses"])
    assert "{notify}" == operation["servers"][0]["url"]
    assert "/invoices/{id}" in document["paths"]


async def test_a_second_callback_is_documented(serving):
    """The served document is valid, and contains the callback with its schemas and its answers."""
    async with serving() as (api, _):
        document = await api.get("/api/docs/openapi.json")

    OpenAPIV31SpecValidator(document).validate()
    operation = document["paths"]["/parcels/{number}"]["post"]
    promised = operation["callbacks"]["parcel_picked_up"][EXPRESSION]["put"]
    body = promised["requestBody"]["content"]["application/json"]
    assert {"$ref": "#/components/schemas/PickedUp"} == body["schema"]
    assert {"place": "Zürich"} == body["example"]
    answered = promised["responses"]["200"]["content"]["application/json"]
    assert {"$ref": "#/components/schemas/Seen"} == answered["schema"]
    assert promised["responses"]["404"]["description"].startswith("Dead:")
    assert "create_invoice" == document["paths"]["/invoices/"]["post"]["operationId"]


async def test_a_second_callback_is_delivered(serving):
    """The callback is signed and sent to the evaluated URL with the declared method and body."""
    async with serving() as (api, receiver):
        receiver.answer(text=SEEN)
        assert (202, {"number": "1Z 9"}) == await api.send("1Z%209", notify=f"{receiver.url}/api/")
        ((method, path, headers, body),) = await receiver.arrived.reaches(1)
        delivery = await api.settled("1Z%209")
        items = {one["id"]: one for one in (await api.get("/events"))["items"]}

    told = items[headers["webhook-id"]]
    assert ("parcel_picked_up", json.loads(body)) == (told["callback"], told["body"])
    assert ("PUT", "/api/parcels/1Z 9") == (method, path)
    assert {"place": "Zürich"} == json.loads(body)
    Webhook(DEV_SECRET).verify(body, headers)
    assert ("parcel_picked_up", f"{receiver.url}/api/parcels/1Z%209", "delivered") == (
        delivery["callback"],
        delivery["url"],
        delivery["status"],
    )
    assert (headers["webhook-id"], {"description": "Parcel picked up", "paid": False}) == (
        delivery["id"],
        delivery["event"],
    )
    assert [("delivered", 200, SEEN)] == [
        (one["outcome"], one["status_code"], one["response_body"]) for one in delivery["attempts"]
    ]


async def test_the_answer_to_a_second_callback_is_checked(serving):
    """An answer that only another callback accepts is invalid for this one, and causes a retry."""
    async with serving() as (api, receiver):
        receiver.answer(text='{"ok": true}')
        receiver.answer(text=SEEN)
        await api.send("1", notify=receiver.url)
        delivery = await api.settled("1")

    assert "delivered" == delivery["status"]
    assert ["invalid_answer", "delivered"] == [one["outcome"] for one in delivery["attempts"]]
    assert 'should be {"seen": true}' in delivery["attempts"][0]["detail"]


async def test_a_second_callback_has_its_own_answers(serving):
    """A 404 ends this callback; by default only a 410 does."""
    async with serving() as (api, receiver):
        receiver.answer(status=404)
        await api.send("1", notify=receiver.url)
        delivery = await api.settled("1")

    assert ("dead", "gone") == (delivery["status"], delivery["reason"])
    assert ["refused"] == [one["outcome"] for one in delivery["attempts"]]


async def test_each_callback_has_its_own_events(serving):
    """A collector fires the callback of invoices, which a parcel does not ask for."""
    async with serving() as (api, receiver):
        receiver.answer(text=SEEN)
        await api.send("1", notify=receiver.url)

        async def find():
            invoice = await api.get("/invoices/1")
            return invoice["status"] == "paid" and invoice["events"]

        events = await until(find)
        delivery = await api.settled("1")

    assert ["Invoice paid", "Parcel picked up"] == sorted(one["description"] for one in events)
    assert "Parcel picked up" == delivery["event"]["description"]
    assert 1 == len(receiver.arrived)


async def test_without_its_url_a_second_callback_is_not_sent(serving):
    """Without the optional URL no callback is sent, and the same request again changes nothing."""
    async with serving() as (api, receiver):
        for _ in range(2):
            assert (202, {"number": "1"}) == await api.send("1")
        deliveries = await api.get("/invoices/1/deliveries")

    assert [] == deliveries["items"]
    assert 0 == len(receiver.arrived)


async def test_the_url_of_a_second_callback_is_checked(serving):
    """An invalid callback URL is refused at its place in the request."""
    async with serving() as (api, _):
        status, problem = await api.send("1", notify="ftp://shop.example")

    assert 422 == status
    assert [("body", "/notify")] == [(one["location"], one["pointer"]) for one in problem["errors"]]


async def test_an_expression_with_an_undeclared_name_stops_the_start(parcels, settings):
    """A callback URL with an undeclared parameter is an error before the service starts."""
    wrong = replace(parcels.PICKED_UP, expression=EXPRESSION.replace("number", "nummer"))
    operation = replace(parcels.SEND_PARCEL, callbacks=(wrong,))

    with pytest.raises(DeclarationError, match=r"path parameter nummer.*Did you mean number\?"):
        async with running(settings, DEVELOPMENT, operations=(*OPERATIONS, operation)):
            pass
