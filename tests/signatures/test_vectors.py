"""The vectors for receivers: the official libraries agree with each of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import standardwebhooks.webhooks
from standardwebhooks import Webhook, WebhookVerificationError

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.receiver.vectors import vectors_document

VECTORS = vectors_document(INVOICE_NOTIFICATION)["vectors"]
BY_NAME = {one["name"]: one for one in VECTORS}


@pytest.mark.parametrize("name", BY_NAME)
def test_python_agrees(name, monkeypatch):
    """The official library of Python accepts the valid vectors and refuses the others."""
    vector = BY_NAME[name]

    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(vector["now"], tz or UTC)

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Frozen)
    try:
        Webhook(vector["secret"]).verify(
            bytes.fromhex(vector["body_hex"]), vector["headers"], json_parse=False
        )
        is_accepted = True
    except (WebhookVerificationError, ValueError):
        is_accepted = False

    assert vector["valid"] is is_accepted


def test_javascript_agrees(node):
    """The official library of JavaScript accepts the valid vectors and refuses the others."""
    printed = node.run("verify_at.js", map(json.dumps, VECTORS))

    assert {one["name"]: one["valid"] for one in VECTORS} == dict(
        zip(BY_NAME, map(json.loads, printed), strict=True)
    )


def test_vectors_say_what_they_are_about():
    """Names are unique, every vector has a reason, and there are some of each verdict."""
    assert len(VECTORS) == len(BY_NAME)
    assert all(one["reason"].endswith(".") for one in VECTORS)
    assert {True: 12, False: 19} == {
        verdict: sum(one["valid"] is verdict for one in VECTORS) for verdict in (True, False)
    }


def test_only_the_time_decides_the_vectors_about_time():
    """A vector about time differs from the first one by its clock alone."""
    about_time = [one for one in VECTORS if one["is_about_time"]]

    assert {True: 2, False: 2} == {
        verdict: sum(one["valid"] is verdict for one in about_time) for verdict in (True, False)
    }
    for one in about_time:
        assert (VECTORS[0]["headers"], VECTORS[0]["body_hex"]) == (one["headers"], one["body_hex"])
        assert VECTORS[0]["now"] != one["now"]
    assert {VECTORS[0]["now"]} == {one["now"] for one in VECTORS if not one["is_about_time"]}


def test_vectors_are_always_the_same():
    """The vectors depend on nothing but the declaration."""
    assert vectors_document(INVOICE_NOTIFICATION) == vectors_document(INVOICE_NOTIFICATION)
