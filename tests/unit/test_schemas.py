"""The schemas: which values their fields accept, and what they return."""

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
    """The value that *field* loads from *value*."""
    return Schema.from_dict({"it": field})().load({"it": value})["it"]


def refusal_of(field, value):
    """The messages of the field error for *value*."""
    with pytest.raises(ValidationError) as refusal:
        load(field, value)
    return refusal.value.messages["it"]


class TestInvoice:
    def test_invoice_loads_into_its_columns(self):
        """The total is loaded as minor units; missing fields are None."""
        expected = {
            "id": "2expen51ve",
            "title": "Expensive invoice",
            "customer": "Mr. Richie Rich",
            "customer_email": None,
            "total_minor": 999900,
            "currency": "USD",
            "locale": None,
        }

        assert expected == InvoiceRequestSchema().load({**EXAMPLE, "currency": "USD"})

    @pytest.mark.parametrize("currency", ["usd", None, 1, [], {}])
    def test_invalid_currency_is_one_field_error(self, currency):
        """An invalid currency gives no additional field error for the amount."""
        with pytest.raises(ValidationError) as refusal:
            InvoiceRequestSchema().load({**EXAMPLE, "currency": currency})

        assert ["currency"] == list(refusal.value.messages)

    def test_all_field_errors_are_reported(self):
        """A wrong amount does not hide the other field errors."""
        with pytest.raises(ValidationError) as refusal:
            InvoiceRequestSchema().load({"id": "", "total": "0.001", "currency": "USD", "new": 1})

        assert {"id", "total", "customer", "new"} == set(refusal.value.messages)


class TestEvent:
    @pytest.mark.parametrize("value", [0, 1, "true", "yes", "on", None, [], 1.0])
    def test_only_true_and_false_are_boolean(self, value):
        """Values that marshmallow converts to a boolean are refused."""
        assert refusal_of(StrictBoolean(), value)

    @pytest.mark.parametrize("answer", [{}, {"ok": False}, {"ok": 1}, {"ok": "true"}, {"ok": None}])
    def test_acknowledgement_needs_ok(self, answer):
        """Only `"ok": true` is an acknowledgement."""
        assert {"ok"} == set(InvoiceEventReceivedSchema().validate(answer))

    @pytest.mark.parametrize("schema", [InvoiceEventSchema, InvoiceEventReceivedSchema])
    def test_event_bodies_are_open(self, schema):
        """Unknown fields of an event or an acknowledgement are ignored."""
        known = {"description": "Invoice paid", "paid": True, "ok": True}
        wanted = {name: known[name] for name in schema().fields}

        assert wanted == schema().load({**known, "new": 1})


class TestText:
    @given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
    def test_text_is_kept_as_it_is(self, text):
        """Every text without control characters is kept unchanged."""
        assert text == load(Text(), text)

    @pytest.mark.parametrize("character", [*map(chr, [*range(32), *range(0x7F, 0xA0)])])
    def test_control_characters_are_refused(self, character):
        """A text with a control character is refused."""
        assert ["Must not hold control characters."] == refusal_of(Text(), f"a{character}b")

    @pytest.mark.parametrize("character", ["\ud800", "\udbff", "\udc00", "\udfff"])
    def test_single_surrogates_are_refused(self, character):
        """A single half of a surrogate pair is refused, because databases cannot store it."""
        (message,) = refusal_of(Text(), f"a{character}b")

        assert "surrogate" in message

    @pytest.mark.parametrize("id_", ["", ".", "..", "a\nb", "a" * 201, 1, None])
    def test_id_is_a_segment_of_a_path(self, id_):
        """An id that cannot be one path segment of a URL is refused."""
        assert refusal_of(InvoiceId(), id_)

    @pytest.mark.parametrize("id_", ["...", "a/b", "%2e", " ", "é", "a" * 200])
    def test_id_may_have_special_characters(self, id_):
        """Ids with slashes, percent signs and other special characters are accepted."""
        assert id_ == load(InvoiceId(), id_)

    @pytest.mark.parametrize("address", ["", "a", "a@", "@a", "a b@c.example", '"\x01"@c.example'])
    def test_invalid_email_address_is_refused(self, address):
        """An e-mail address without an @, or with blanks or control characters, is refused."""
        assert refusal_of(EmailAddress(), address)

    def test_address_may_have_a_tag(self):
        """An e-mail address with a plus is accepted."""
        assert "jo+declined@example.com" == load(EmailAddress(), "jo+declined@example.com")


class TestNumbers:
    @pytest.mark.parametrize("text", ["1_0", " 1", "1 ", "１", "1.0", "", "+1", "0x1", "9" * 5000])
    def test_number_is_ascii_digits(self, text):
        """Notations that only int() accepts are refused."""
        assert ["Not a valid integer."] == refusal_of(WholeNumber(), text)

    @pytest.mark.parametrize(("expected", "text"), [(0, "0"), (50, "50"), (-1, "-1"), (7, 7)])
    def test_number_is_read(self, expected, text):
        """A text of ASCII digits is loaded as an integer."""
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
    def test_any_offset_is_accepted(self, expected, text):
        """An instant with any offset is loaded and converted to UTC."""
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
    def test_invalid_instant_is_refused(self, text):
        """An instant without an offset, or outside of the calendar, is refused."""
        assert refusal_of(Instant(), text)

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-31T12:00:00Z\0",
            "2026-01-31\U0001f60012:00:00Z",
            "2026-01-31x12:00:00Z",
            "2026-W05-6T12:00:00Z",
            "20260131T120000Z",
            "2026-01-31T12:00:00+01:00:30",
            "2026-01-31T12:00:00.Z",
            "٢٠٢٦-01-31T12:00:00Z",
        ],
    )
    def test_only_the_form_of_the_standard_is_accepted(self, text):
        """What the parser of Python takes besides is refused: it differs between versions."""
        assert ["Must be an instant such as 2026-01-31T12:00:00Z."] == refusal_of(Instant(), text)

    @pytest.mark.parametrize(
        "text", ["2016-12-31T23:59:60Z", "2017-01-01T00:59:60.5+01:00", "2016-12-31t23:59:60z"]
    )
    def test_a_leap_second_is_the_second_behind_it(self, text):
        """RFC 3339 has leap seconds, and computers have none."""
        assert datetime(2017, 1, 1, tzinfo=UTC) == load(Instant(), text)

    @pytest.mark.parametrize("text", ["2016-12-31T12:00:60Z", "2016-12-31T23:59:61Z"])
    def test_there_are_leap_seconds_at_the_end_of_a_day_alone(self, text):
        """Another second 60, or a second 61, is refused."""
        assert refusal_of(Instant(), text)

    @pytest.mark.parametrize(
        "text", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:60Z"]
    )
    def test_an_instant_that_is_beyond_the_calendar_in_utc_is_refused(self, text):
        """The message names the years that can be compared."""
        assert ["Must be in the years 1 to 9999 in UTC."] == refusal_of(Instant(), text)

    def test_instant_is_dumped_in_utc_with_milliseconds(self):
        """Instants in responses are in UTC with milliseconds."""
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
    """A number with more digits than a double is refused; as a string it is accepted."""
    with pytest.raises(ValidationError, match="send it as a string"):
        InvoiceRequestSchema().load(
            {"id": "1", "customer": "Jo", "total": 999999999999.9998, "currency": "CLF"}
        )


class TestLocale:
    """The locale of an invoice."""

    @pytest.mark.parametrize(
        ("given", "loaded"),
        [
            ("de-CH", "de-CH"),
            ("de-ch", "de-CH"),
            ("ar", "ar"),
            ("zh-TW", "zh-TW"),
            ("zh-hant-tw", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("en-US", "en-US"),
        ],
    )
    def test_known_tag_is_loaded_as_it_is_usually_written(self, given, loaded):
        """A BCP 47 tag may be written in any case, and need not name a script."""
        assert loaded == InvoiceRequestSchema().load(self.invoice(given))["locale"]

    @pytest.mark.parametrize("given", ["en", "EN", None])
    def test_default_is_the_same_as_none(self, given):
        """An invoice that names the default has the same content as one that names none."""
        assert None is InvoiceRequestSchema().load(self.invoice(given))["locale"]

    @pytest.mark.parametrize(
        "given",
        ["", "xx", "en_US", "en-ZZ", "english", "de-CH\n", "d\u00e9", "../en", "a" * 600, 1],
    )
    def test_unknown_tag_is_refused(self, given):
        """What is no tag, or no tag of a known language and region, is a field error."""
        with pytest.raises(ValidationError) as refusal:
            InvoiceRequestSchema().load(self.invoice(given))

        assert ["locale"] == list(refusal.value.messages)

    def invoice(self, locale):
        """The body of a request with *locale*."""
        return {**EXAMPLE, "currency": "USD", "locale": locale}


class TestEmailAddress:
    """The e-mail address of a customer."""

    @pytest.mark.parametrize(
        "address",
        [
            "jo@example.com",
            "jo+tag@example.com",
            "jö@example.com",
            "jo@bücher.example",
            '"a"@x.example',
        ],
    )
    def test_one_address_is_loaded(self, address):
        """Addresses beyond ASCII are addresses too."""
        assert address == InvoiceRequestSchema().load(self.invoice(address))["customer_email"]

    @pytest.mark.parametrize(
        "address",
        [
            *("a@b.example, c@d.example", "a@b.example,c@d.example", "a@b.example;c@d.example"),
            *('"a@b, c"@d.example', "Jo <a@b.example>", "<a@b.example>", "a@b@c.example", "jo"),
            *("a@b.example\r\nBcc: c@d.example", "a\n@b.example", '"a\rb"@c.example'),
            *("a@b.example\u2028", "a@exa\u202emple.com", "a\u200b@b.example", "a b@c.example"),
        ],
    )
    def test_anything_else_is_refused(self, address):
        """Two addresses, a name, a line break or an invisible character are a field error."""
        with pytest.raises(ValidationError) as refusal:
            InvoiceRequestSchema().load(self.invoice(address))

        assert ["customer_email"] == list(refusal.value.messages)

    def invoice(self, address):
        """The body of a request with *address*."""
        return {**EXAMPLE, "currency": "USD", "customer_email": address}
