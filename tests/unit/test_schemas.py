"""The wire contract: what the fields take, and what they give."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError, fields

from schemas.answer import AnswerSchema
from schemas.event import InvoiceEventReceivedSchema, InvoiceEventSchema
from schemas.fields import EmailAddress, Instant, InvoiceId, StrictBoolean, Text, WholeNumber
from schemas.invoice import EXAMPLE, InvoiceRequestSchema


def load(field, value):
    """What *field* makes of *value*."""
    return Schema.from_dict({"it": field})().load({"it": value})["it"]


def refusal_of(field, value):
    """What *field* says against *value*."""
    with pytest.raises(ValidationError) as refusal:
        load(field, value)
    return refusal.value.messages["it"]


class TestInvoice:
    def test_invoice_loads_into_its_columns(self):
        """The total becomes minor units; what was left out is None."""
        expected = {
            "id": "2expen51ve",
            "title": "Expensive invoice",
            "customer": "Mr. Richie Rich",
            "customer_email": None,
            "total_minor": 999900,
            "currency": "USD",
        }

        assert expected == InvoiceRequestSchema().load({**EXAMPLE, "currency": "USD"})

    @pytest.mark.parametrize("currency", ["usd", None, 1, [], {}])
    def test_currency_alone_is_blamed_for_itself(self, currency):
        """An amount is not wrong because its currency is."""
        with pytest.raises(ValidationError) as refusal:
            InvoiceRequestSchema().load({**EXAMPLE, "currency": currency})

        assert ["currency"] == list(refusal.value.messages)

    def test_all_mistakes_are_told(self):
        """Amount and currency rules do not hide what else is wrong."""
        with pytest.raises(ValidationError) as refusal:
            InvoiceRequestSchema().load({"id": "", "total": "0.001", "currency": "USD", "new": 1})

        assert {"id", "total", "customer", "new"} == set(refusal.value.messages)


class TestEvent:
    @pytest.mark.parametrize("value", [0, 1, "true", "yes", "on", None, [], 1.0])
    def test_only_true_and_false_are_boolean(self, value):
        """What marshmallow takes for a boolean is none in JSON."""
        assert refusal_of(StrictBoolean(), value)

    @pytest.mark.parametrize("answer", [{}, {"ok": False}, {"ok": 1}, {"ok": "true"}, {"ok": None}])
    def test_acknowledgement_says_ok(self, answer):
        """Only a true `ok` acknowledges."""
        assert {"ok"} == set(InvoiceEventReceivedSchema().validate(answer))

    @pytest.mark.parametrize("schema", [InvoiceEventSchema, InvoiceEventReceivedSchema])
    def test_event_bodies_are_open(self, schema):
        """A field that is added one day is ignored by those who do not know it."""
        known = {"description": "Invoice paid", "paid": True, "ok": True}
        wanted = {name: known[name] for name in schema().fields}

        assert wanted == schema().load({**known, "new": 1})


class TestText:
    @given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
    def test_text_is_kept_as_it_is(self, text):
        """Every character that is one stays what it was."""
        assert text == load(Text(), text)

    @pytest.mark.parametrize("character", [*map(chr, [*range(32), *range(0x7F, 0xA0)])])
    def test_control_characters_are_refused(self, character):
        """What ends lines, strings and terminals early is not text."""
        assert ["Must not hold control characters."] == refusal_of(Text(), f"a{character}b")

    @pytest.mark.parametrize("character", ["\ud800", "\udbff", "\udc00", "\udfff"])
    def test_half_characters_are_refused(self, character):
        """Half of a surrogate pair is no character, and no database stores it."""
        (message,) = refusal_of(Text(), f"a{character}b")

        assert "surrogate" in message

    @pytest.mark.parametrize("id_", ["", ".", "..", "a\nb", "a" * 201, 1, None])
    def test_id_is_a_segment_of_a_path(self, id_):
        """An id that a URL cannot carry as one segment is refused."""
        assert refusal_of(InvoiceId(), id_)

    @pytest.mark.parametrize("id_", ["...", "a/b", "%2e", " ", "é", "a" * 200])
    def test_id_may_be_almost_anything(self, id_):
        """Quoting carries everything else."""
        assert id_ == load(InvoiceId(), id_)

    @pytest.mark.parametrize("address", ["", "a", "a@", "@a", "a b@c.example", '"\x01"@c.example'])
    def test_what_is_no_address_is_refused(self, address):
        """An e-mail address is one line and has an @."""
        assert refusal_of(EmailAddress(), address)

    def test_address_may_have_a_tag(self):
        """The part after a plus is the sandbox's tag."""
        assert "jo+declined@example.com" == load(EmailAddress(), "jo+declined@example.com")


class TestNumbers:
    @pytest.mark.parametrize("text", ["1_0", " 1", "1 ", "１", "1.0", "", "+1", "0x1", "9" * 5000])
    def test_number_is_ascii_digits(self, text):
        """What int() takes and people do not write is refused."""
        assert ["Not a valid integer."] == refusal_of(WholeNumber(), text)

    @pytest.mark.parametrize(("expected", "text"), [(0, "0"), (50, "50"), (-1, "-1"), (7, 7)])
    def test_number_is_read(self, expected, text):
        """Digits make a number; its range is for validators."""
        assert expected == load(WholeNumber(), text)


class TestInstant:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00Z"),
            (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T13:00:00+01:00"),
            (datetime(2026, 1, 31, 12, 0, 0, 500000, UTC), "2026-01-31T12:00:00.5Z"),
        ],
    )
    def test_any_offset_is_taken(self, expected, text):
        """An instant is the same wherever it is written down."""
        assert expected == load(Instant(), text)

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-31",
            "2026-01-31T12:00:00",
            "12:00",
            "now",
            "",
            "2026-13-01T00:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
        ],
    )
    def test_what_is_no_instant_is_refused(self, text):
        """Without an offset, or outside of the calendar, nobody knows when that is."""
        assert refusal_of(Instant(), text)

    def test_instant_is_given_in_utc_to_the_millisecond(self):
        """What is answered looks the same everywhere."""
        at = datetime(2026, 1, 31, 13, 0, 0, 1999, timezone(timedelta(hours=1)))

        assert {"it": "2026-01-31T12:00:00.001Z"} == Schema.from_dict({"it": Instant()})().dump(
            {"it": at}
        )


def test_answers_have_all_their_fields():
    """A field of an answer is required in the document unless it says that it is optional."""

    class SomeSchema(AnswerSchema):
        always = fields.String()
        sometimes = fields.String(metadata={"optional": True})

    assert {"always": True, "sometimes": False} == {
        name: field.required for name, field in SomeSchema().fields.items()
    }


def test_a_number_with_more_digits_than_a_double_is_refused():
    """What may have been another number before it was parsed is refused, and a string is taken."""
    with pytest.raises(ValidationError, match="send it as a string"):
        InvoiceRequestSchema().load(
            {"id": "1", "customer": "Jo", "total": 999999999999.9998, "currency": "CLF"}
        )
