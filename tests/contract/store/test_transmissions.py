"""What was sent in an attempt and what came back is kept for the newest attempts."""

from __future__ import annotations

from dataclasses import replace

from service.domain.delivery import Transmission
from service.storage import history
from service.storage.transmissions import UNKNOWN
from tests.clock import START
from tests.rows import (
    ONE,
    SECOND,
    add_delivery,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
)

HEADERS = {
    "webhook-id": "msg_1",
    "webhook-timestamp": str(int(START.timestamp())),
    "webhook-signature": "v1,abc",
    "webhook-attempt": "1",
    "User-Agent": "invoices/1",
}
MADE = Transmission(
    method="POST",
    headers=HEADERS,
    address="93.184.216.34",
    phases=(15, 25, None, 1, 30),
    answer_head="Content-Type: application/json\nX-Odd: \N{SNOWMAN}",
    rule="2XX",
)


async def settled(store, made):
    """The one attempt of a delivery with that transmission, as it is told."""
    await add_delivery(store)
    attempt = replace(delivered(await lease_delivery(store)), transmission=made)
    assert await store.settle(attempt)
    (shown,) = (await store.history.find_delivery("dev", "msg_1"))["attempts"]
    return {name: shown[name] for name in UNKNOWN}


async def test_all_of_a_transmission_is_told(store):
    """Request, address, phases, headers of the answer and rule are told as they were."""
    assert {
        "request": {"method": "POST", "url": f"{ONE}/invoices/1", "headers": HEADERS},
        "address": "93.184.216.34",
        "phases_ms": {"name": 1.5, "connect": 2.5, "tls": None, "send": 0.1, "wait": 3.0},
        "response_headers": {"Content-Type": "application/json", "X-Odd": "\N{SNOWMAN}"},
        "rule": "2XX",
    } == await settled(store, MADE)


async def test_headers_keep_their_order(store):
    """The headers are told in the order in which they were sent."""
    shown = await settled(store, MADE)

    assert list(HEADERS) == list(shown["request"]["headers"])


async def test_without_a_connection_only_the_request_is_told(store):
    """An attempt without a connection has neither address nor phases nor an answer."""
    made = Transmission(method="POST", headers=HEADERS)
    shown = await settled(store, made)

    assert HEADERS == shown.pop("request")["headers"]
    assert dict.fromkeys(("address", "phases_ms", "response_headers", "rule")) == shown


async def test_what_is_not_known_is_not_told(store):
    """Of an attempt without a transmission, nothing of it is told."""
    assert UNKNOWN == await settled(store, None)


async def test_the_newest_attempts_keep_their_transmission(store, monkeypatch):
    """As many attempts keep it as keep the body of their answer; older ones lose it for good."""
    monkeypatch.setattr(history, "BODIES_MAX", 2)
    await add_delivery(store)
    for second in range(4):
        (leased,) = await lease_deliveries(store, now=START + second * SECOND)
        attempt = failed(leased, due_at=START + (second + 1) * SECOND)
        # The answer had no body.
        await store.settle(replace(attempt, transmission=MADE, response_body=None))

    monkeypatch.setattr(history, "BODIES_MAX", 10)
    shown = await store.history.find_delivery("dev", "msg_1")

    assert [None, None, "2XX", "2XX"] == [one["rule"] for one in shown["attempts"]]
