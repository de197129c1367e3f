"""No answer of any route is larger than 2 MiB, whatever is stored and whatever is sent."""

from __future__ import annotations

import asyncio
import shutil
from itertools import product

import orjson
import pytest
from sqlalchemy import insert

from service.database.sqlite import SqliteDatabase
from service.storage.history import BODIES_MAX
from service.storage.tables import attempts, deliveries, events, invoices, receivers
from tests.clock import START

LARGEST = 2 * 2**20
WIDE = "\N{REPLACEMENT CHARACTER}"
"""Three bytes of UTF-8: what an answer of 4096 bytes that are no text is stored as."""
DETAIL = WIDE * 400
BODY = WIDE * 4096
URL = "https://a.example/" + "%F0%9F%98%80" * 360
HEAD = "\n".join(f"X-{number:02}: " + WIDE * 40 for number in range(32))
SIGNATURES = " ".join(["v1," + "a" * 44] * 20)
TRANSMISSION = orjson.dumps(
    ["POST", {"webhook-signature": SIGNATURES}, "::1", [999] * 5, HEAD, "5XX"]
).decode()
INVOICE_COUNT = 201
DELIVERY_COUNT = 12
ATTEMPT_COUNT = 100
EVENT_COUNT = 110


def invoice_row(number):
    """An invoice whose texts are as long as they may be."""
    return {
        "account_id": "dev",
        "key": f"{number:032x}",
        "id": f"{number:04}" + "\N{GRINNING FACE}" * 196,
        "title": "\\" * 500,
        "customer": "\N{GRINNING FACE}" * 500,
        "customer_email": "a" * 254,
        "total_minor": 10**12,
        "currency": "USD",
        "callback_url": "https://a.example/" + "a" * 2030,
        "decimals": 2,
        "status": "payment_failed",
        "created_at": START,
        "event_count": EVENT_COUNT,
        "lease_token": 1,
        "request_id": "r",
    }


def delivery_row(number, invoice_number, sequence):
    """A dead delivery with the longest URL."""
    return {
        "account_id": "dev",
        "id": f"msg_{number:032x}",
        "invoice_key": f"{invoice_number:032x}",
        "sequence": sequence,
        "callback": "invoice_notification",
        "url": URL,
        "origin": "https://a.example:443",
        "body": b"{}",
        "status": "dead",
        "reason": "exhausted",
        "attempt_count": ATTEMPT_COUNT,
        "failure_count": ATTEMPT_COUNT,
        "created_at": START,
        "due_at": START,
        "settled_at": START,
        "lease_token": 1,
        "cause": "redelivery",
    }


def receiver_row(number):
    """A receiver with the longest URL and the longest reason."""
    return {
        "receiver": f"dev https://a.example/{number:04}{'a' * 2000}",
        "origin": "https://a.example:443",
        "failing_since": START,
        "reason": WIDE * 500,
    }


def attempt_row(number, attempt_number):
    """An attempt with the longest answer."""
    return {
        "account_id": "dev",
        "delivery_id": f"msg_{number:032x}",
        "number": attempt_number,
        "started_at": START,
        "duration_ms": 10**6,
        "status_code": 500,
        "outcome": "invalid_answer",
        "detail": DETAIL,
        "response_body": BODY,
        "cause": "redelivery",
        "transmission": TRANSMISSION if attempt_number > ATTEMPT_COUNT - BODIES_MAX else None,
    }


def fill(tx):
    """Insert a page of invoices and deliveries, and one invoice with many of everything."""
    numbers = range(1, INVOICE_COUNT + 1)
    own = range(1001, 1001 + DELIVERY_COUNT)
    places = product(numbers, range(1, EVENT_COUNT + 1))
    tx.execute(insert(invoices), [invoice_row(number) for number in numbers])
    event = {"account_id": "dev", "paid": False, "collector": "sandbox", "at": START}
    event["description"] = "d" * 300
    tx.execute(
        insert(events),
        [{**event, "invoice_key": f"{key:032x}", "sequence": number} for key, number in places],
    )
    tx.execute(
        insert(deliveries),
        [delivery_row(number, number, 1) for number in numbers]
        + [delivery_row(number, 1, number - 999) for number in own],
    )
    tx.execute(insert(attempts), [attempt_row(number, ATTEMPT_COUNT) for number in numbers])
    tx.execute(insert(receivers), [receiver_row(number) for number in numbers])
    made = product(own, range(1, ATTEMPT_COUNT + 1))
    tx.execute(insert(attempts), [attempt_row(*numbers) for numbers in made])


@pytest.fixture(scope="module")
def new_database(new_database, tmp_path_factory):
    """The file of a database with the largest rows that there can be; tests copy it."""
    path = shutil.copy(new_database, tmp_path_factory.mktemp("largest"))

    async def fill_it():
        database = SqliteDatabase(f"sqlite:///{path}")
        await database.write(fill)
        await database.close()

    asyncio.run(fill_it())
    return path


ONE = invoice_row(1)["id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/invoices/?limit=200"),
        ("GET", f"/invoices/{ONE}"),
        ("GET", f"/invoices/?id={ONE}"),
        ("GET", f"/invoices/{ONE}/deliveries?limit=200"),
        ("GET", "/deliveries?limit=200"),
        ("GET", f"/deliveries/msg_{1001:032x}"),
        ("GET", f"/deliveries/msg_{1001:032x}/why"),
        ("GET", f"/invoices/{ONE}/why"),
        ("GET", "/receivers/?limit=200"),
        ("POST", f"/deliveries/msg_{1001:032x}/redeliver"),
        ("POST", f"/invoices/{ONE}/void"),
        ("GET", "/events?limit=200"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
    ],
)
async def test_the_largest_answer_of_a_route_is_bounded(api, method, path):
    """The answer with the largest rows is complete JSON or text of 2 MiB at most."""
    answer = await api.request(method, path)
    body = await answer.read()

    assert answer.status in {200, 202}
    assert len(body) <= LARGEST


@pytest.mark.parametrize(
    ("expected", "path"),
    [
        (INVOICE_COUNT, "/invoices/"),
        (INVOICE_COUNT + DELIVERY_COUNT, "/deliveries"),
        (DELIVERY_COUNT + 1, f"/invoices/{ONE}/deliveries"),
    ],
)
async def test_pages_that_are_cut_lead_to_every_item(api, expected, path):
    """A page that ends because it is large has a cursor; the pages have every item once."""
    seen, params = [], {"limit": "200"}
    while params:
        page = await (await api.get(path, params=params)).json()
        seen += [one["id"] for one in page["items"]]
        params = page["next"] and {"limit": "200", "after": page["next"]}

    assert (expected, expected) == (len(seen), len(set(seen)))
    assert sorted(seen, reverse=True) == seen


@pytest.mark.parametrize("path", ["/openapi.json", "/openapi.yaml", "", "/problems"])
async def test_documents_are_bounded(api, path):
    """The documents and pages are smaller than 2 MiB."""
    assert len(await (await api.get(f"/api/docs{path}")).read()) <= LARGEST


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/invoices/", {"\0" * 1000 + str(number): 1 for number in range(10)}),
        ("POST", "/invoices/", {"customer": "\0" * 10_000}),
        ("POST", "/deliveries/redeliver", {"origin": "\0" * 10_000}),
        ("GET", "/invoices/?" + "&".join(f"{'%00' * 100}{n}=1" for n in range(20)), None),
        ("GET", "/" + "%01" * 2000, None),
    ],
)
async def test_the_largest_problem_is_bounded(api, method, path, body):
    """A problem document does not repeat what was sent at any length."""
    answer = await api.request(method, path, json=body)

    assert answer.status in {400, 404, 422}
    assert len(await answer.read()) <= LARGEST
