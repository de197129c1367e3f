"""
The checks of a conformance run, in their order: one table.

Each check sends its own requests and judges the answers, which is all that can be seen from
outside. A check that fails says what was sent and answered, and what to change.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import orjson

from service.receiver.answer_checks import (
    answer_body,
    answer_content_type,
    answer_size,
    answer_time,
)
from service.receiver.caller import Call
from service.receiver.check import OTHER_SECRET, Check, accepting, refusing
from service.receiver.connection_checks import connection, event_paid, keep_alive, tls
from service.receiver.judging import Run
from service.receiver.repetition_checks import (
    repeated_after_cut,
    repeated_at_once,
    repeated_event,
)
from service.receiver.requests import SIGNED, new_invoice_id

TOO_FAR = timedelta(minutes=6)
"""One minute more than the tolerance of Standard Webhooks."""


REFUNDED = {"paid": False, "description": "Payment refunded"}
"""A later event of an invoice that was paid."""


# --- Calls.


def _without(call: Call, header: str) -> Call:
    kept = {name: text for name, text in call.headers.items() if name != header}
    return replace(call, headers=kept)


def _renamed(call: Call, rename: Callable[[str], str]) -> Call:
    return replace(call, headers={rename(name): text for name, text in call.headers.items()})


def _changed(call: Call) -> Call:
    """*call* with another body than was signed, which is still JSON of the same fields."""
    # The last character of the first text.
    at = call.body.find(b'",') - 1
    other = b"x" if call.body[at : at + 1] == b"~" else b"~"
    return replace(call, body=call.body[:at] + other + call.body[at + 1 :])


def _cut_json(run: Run) -> Call:
    body = run.requests.event().body
    return run.requests.event(body=body[: len(body) // 2])


def _in_other_bytes(run: Run) -> Sequence[Call]:
    """Events in bytes that no other writer of JSON would make of them."""
    calls = []
    for option in (0, orjson.OPT_INDENT_2):
        invoice_id = new_invoice_id()
        fields = {**run.requests.fields(invoice_id), "description": "Счёт оплачен, danke schön"}
        body = orjson.dumps(fields, option=option)
        calls.append(run.requests.event(invoice_id=invoice_id, body=body))
    return calls


def _two_events(run: Run) -> Sequence[Call]:
    """Two events of one invoice, in their order."""
    invoice_id = new_invoice_id()
    return [run.requests.event(invoice_id=invoice_id, fields=of) for of in ({}, REFUNDED)]


def _in_turned_order(run: Run) -> Sequence[Call]:
    """The later event of an invoice before the earlier one, as after a redelivery."""
    invoice_id = new_invoice_id()
    later = run.requests.event(invoice_id=invoice_id, fields=REFUNDED)
    earlier = run.requests.event(invoice_id=invoice_id, ahead=-timedelta(minutes=1))
    return [later, earlier]


# --- Checks that are alike.


def with_id(name: str, subject: str, *ids: str) -> Check:
    """A check that events for invoices with odd *ids* arrive."""
    return accepting(
        name,
        f"An event for an invoice whose id has {subject}",
        "Let the route take one percent-encoded segment with any characters, and decode it once.",
        lambda run: [run.requests.event(invoice_id=one) for one in ids],
    )


def without_header(header: str) -> Check:
    """A check that a request without *header* is refused."""
    return refusing(
        f"without_{header}",
        f"A request without {header}",
        f"Refuse a request without {header}, with 401.",
        lambda run: _without(run.requests.event(), header),
    )


# --- The table.

VERIFY = "Verify the signature over id, timestamp and body before anything else, and answer 401."
COMPARE_TIME = (
    "Refuse a webhook-timestamp that differs from your clock by more than 300 seconds, with 401."
)

CHECKS = (
    Check("connection", connection, is_first=True),
    Check("tls", tls, is_first=True),
    Check("event_paid", event_paid, is_first=True),
    accepting(
        "event_not_paid",
        "An event with paid: false",
        "Accept every event: paid says whether the money is there.",
        lambda run: [
            run.requests.event(fields={"paid": False, "description": "Payment failed"}),
        ],
    ),
    accepting(
        "unknown_field",
        "An event with a field that is not declared",
        "Ignore fields that you do not know: more may be added.",
        lambda run: [run.requests.event(fields={"added_later": {"by": ["us"]}})],
    ),
    accepting(
        "body_bytes",
        "An event whose JSON has other blanks, or text that is not ASCII",
        "Verify the bytes of the body as they arrived, before you parse it.",
        _in_other_bytes,
    ),
    accepting(
        "chunked_body",
        "A body without Content-Length, in chunks",
        "Read the body to its end, whatever Content-Length says.",
        lambda run: [run.requests.event(is_chunked=True)],
    ),
    accepting(
        "header_case",
        "A request with header names in another case",
        "Compare the names of headers without case.",
        lambda run: [
            _renamed(run.requests.event(), str.upper),
            _renamed(run.requests.event(), lambda name: name.title().swapcase()),
        ],
    ),
    accepting(
        "two_signatures",
        "A request with two signatures, one of which is yours",
        "Split webhook-signature at its blanks, and accept a request if one signature matches.",
        lambda run: [
            run.requests.event(secrets=secrets)
            for secrets in (
                (run.requests.secret, OTHER_SECRET),
                (OTHER_SECRET, run.requests.secret),
            )
        ],
    ),
    refusing(
        "wrong_signature",
        "A request that another secret has signed",
        VERIFY,
        lambda run: run.requests.event(secrets=(OTHER_SECRET,)),
    ),
    refusing(
        "changed_byte",
        "A body of which one byte was changed after the signature",
        VERIFY,
        lambda run: _changed(run.requests.event()),
    ),
    *map(without_header, SIGNED),
    refusing(
        "timestamp_too_old",
        "A request whose timestamp is six minutes old",
        COMPARE_TIME,
        lambda run: run.requests.event(ahead=-TOO_FAR),
    ),
    refusing(
        "timestamp_ahead",
        "A request whose timestamp is six minutes ahead",
        COMPARE_TIME,
        lambda run: run.requests.event(ahead=TOO_FAR),
    ),
    refusing(
        "malformed_json",
        "A signed body that is not JSON",
        "Answer 400 to a body that you cannot read, so that nobody takes it for stored.",
        _cut_json,
    ),
    with_id("id_with_blank", "a blank", "test a b"),
    with_id("id_with_slash", "a slash", "test/a/b"),
    with_id("id_with_braces", "braces", "test{a}b"),
    with_id("id_not_ascii", "characters that are not ASCII", "test-é-日本-😀"),
    with_id("id_with_percent", "a percent sign", "test100%", "test%2Fa"),
    Check("repeated_event", repeated_event),
    Check("repeated_at_once", repeated_at_once),
    Check("repeated_after_cut", repeated_after_cut),
    accepting(
        "second_event",
        "A second event of the same invoice",
        "Recognise a repeated event by its webhook-id, and not by its invoice.",
        _two_events,
    ),
    accepting(
        "turned_order",
        "An event that comes after a later one of the same invoice",
        "Accept events in any order: a redelivery comes late.",
        _in_turned_order,
    ),
    Check("keep_alive", keep_alive),
    Check("answer_content_type", answer_content_type, is_last=True),
    Check("answer_body", answer_body, is_last=True),
    Check("answer_size", answer_size, is_last=True),
    Check("answer_time", answer_time, is_last=True),
)
