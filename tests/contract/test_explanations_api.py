"""`GET …/why` and `POST /deliveries/{id}/cancel`, as an API user sees them."""

from __future__ import annotations

import logging

import pytest

from schemas.explanation import NEXT_STEPS, VERDICTS, EvidenceSchema
from service.domain.states import DeadReason, DeliveryStatus
from tests.clock import START
from tests.rows import (
    ONE,
    SECOND,
    add_delivery,
    add_two_events,
    delivered,
    failed,
    lease_delivery,
)
from tests.samples import samples_of


@pytest.mark.parametrize("path", ["/deliveries/msg_1/why", "/invoices/1/why/"])
async def test_a_failed_delivery_is_explained(api, store, path):
    """The delivery and its invoice have the same explanation: verdict, evidence, next, do."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    await store.settle(failed(leased, due_at=START + 300 * SECOND))
    attempt = {
        "number": 1,
        "started_at": "2026-01-31T12:00:00.000Z",
        "duration_ms": 12,
        "status_code": 500,
        "outcome": "refused",
        "detail": None,
        "response_body": '{"ok": true}',
    }
    expected = {
        "verdict": "refused",
        "sentence": "Your receiver refused the event: it answered 500. That was attempt 1; the "
        "next one follows by itself.",
        "evidence": {
            "delivery_id": "msg_1",
            "invoice_id": "1",
            "url": f"{ONE}/invoices/1",
            "event": "Invoice paid",
            "created_at": "2026-01-31T12:00:00.000Z",
            "attempt_count": 1,
            "attempt": attempt,
            "until": "2026-01-31T12:05:00.000Z",
        },
        "next": {"what": "attempt", "at": "2026-01-31T12:05:00.000Z"},
        "do": "Look at the answer and at the log of your receiver.",
    }

    answer = await api.get(path)

    assert 200 == answer.status
    assert expected == await answer.json()


async def test_an_explanation_without_a_delivery(api):
    """What is not known is left out of the evidence; what does not happen is null."""
    await api.post("/invoices/", json={"id": "1", "customer": "c", "total": "1"})

    shown = await (await api.get("/invoices/1/why")).json()

    assert "no_callback_url" == shown["verdict"]
    assert {"invoice_id", "invoice_status"} == shown["evidence"].keys()
    assert None is shown["next"]


async def test_all_evidence_is_declared(api, store):
    """Every fact of the evidence stands in the document."""
    await add_two_events(store)
    seen = set()
    for id_ in ("msg_1a", "msg_1b"):
        seen |= set((await (await api.get(f"/deliveries/{id_}/why")).json())["evidence"])
    facts = await store.history.facts_of_delivery("dev", "msg_1b")

    assert facts.earlier is not None
    assert "earlier_delivery_id" in seen
    assert seen <= set(EvidenceSchema().fields)


@pytest.mark.parametrize("path", ["/deliveries/msg_9/why", "/invoices/9/why"])
async def test_unknown_ids_are_not_found(api, path):
    """An unknown id is 404."""
    answer = await api.get(path)

    assert 404 == answer.status
    assert "/api/docs/problems#not-found" == (await answer.json())["type"]


@pytest.mark.parametrize("path", ["/deliveries/%00/why", "/invoices/../why", "/invoices/%0a/why"])
async def test_invalid_ids_are_refused(api, path):
    """An id that cannot exist is refused, or leads to no path."""
    assert (await api.get(path)).status in {404, 422}


@pytest.mark.parametrize(
    "path", ["/deliveries/{id}/why", "/invoices/{id}/why"], ids=["delivery", "invoice"]
)
def test_the_verdicts_are_a_closed_list_in_the_document(document, path):
    """The document lists every verdict and every next step, and no others."""
    operation = document["paths"][path]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    schemas = document["components"]["schemas"]
    properties = schemas[schema["$ref"].rpartition("/")[2]]["properties"]

    assert list(VERDICTS) == properties["verdict"]["enum"]
    assert all(f"`{verdict}`: " in properties["verdict"]["description"] for verdict in VERDICTS)
    assert list(NEXT_STEPS) == schemas["NextStep"]["properties"]["what"]["enum"]


# Cancelling


@pytest.mark.parametrize("form", ["", "/"])
async def test_a_pending_delivery_is_cancelled(api, store, metrics, caplog, form):
    """The response is 200 with the dead delivery; it is counted and logged once."""
    await add_delivery(store)

    with caplog.at_level(logging.INFO, "invoices.api"):
        answers = [await api.post(f"/deliveries/msg_1/cancel{form}") for _ in range(2)]

    assert [200, 200] == [one.status for one in answers]
    first, second = [await one.json() for one in answers]
    assert first == second
    assert ("dead", "cancelled", None) == (first["status"], first["reason"], first["waiting_for"])
    counted = 'invoices_deliveries_settled_total{reason="cancelled",status="dead"}'
    assert 1 == samples_of(metrics)[counted]
    (record,) = [one for one in caplog.records if one.getMessage() == "delivery.cancelled"]
    assert "msg_1" == record.fields["delivery_id"]


@pytest.mark.parametrize(
    ("expected", "reason"),
    [("is delivered: only", None), ("is dead, with the reason gone: only", DeadReason.GONE)],
)
async def test_an_ended_delivery_is_a_conflict(api, store, expected, reason):
    """A delivery that has ended otherwise is 409, with how it ended."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    dead = reason and failed(leased, status=DeliveryStatus.DEAD, reason=reason)
    await store.settle(dead or delivered(leased))

    answer = await api.post("/deliveries/msg_1/cancel")

    assert 409 == answer.status
    assert expected in (await answer.json())["detail"]


async def test_a_cancelled_delivery_says_so_and_can_be_redelivered(api, store):
    """Its explanation is `cancelled`; a redelivery makes it pending again."""
    await add_delivery(store)
    await api.post("/deliveries/msg_1/cancel")

    explained = await (await api.get("/deliveries/msg_1/why")).json()
    redelivered = await api.post("/deliveries/msg_1/redeliver")

    assert ("cancelled", None) == (explained["verdict"], explained["next"])
    assert "redeliver" in explained["do"]
    assert (202, "pending") == (redelivered.status, (await redelivered.json())["status"])


async def test_cancelling_an_unknown_delivery_is_not_found(api):
    """An unknown delivery is 404."""
    assert 404 == (await api.post("/deliveries/msg_9/cancel")).status
