"""The declaration of a callback: its URL, headers, body and answers, and how they are checked."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import InvoiceEventReceivedSchema, InvoiceEventSchema
from service.callbacks.answers import AnswerRule, Meaning
from service.callbacks.declaration import Callback, DeclaredOperation, InvalidAnswer
from service.callbacks.exchange import Exchange, Message
from service.callbacks.headers import STANDARD_HEADERS, CallbackHeader
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.domain.outcomes import AttemptOutcome
from service.errors import DeclarationError, EvaluationError, ExpressionError
from service.receiver.address import address_of

LEADING = "{$request.query.callback_url}"
BOTH = "{$request.query.callback_url}/invoices/{$request.body#/id}"


def a_callback(expression: str) -> Callback:
    """The invoice notification with another URL expression."""
    return dataclasses.replace(INVOICE_NOTIFICATION, expression=expression)


def an_exchange(callback_url: str | None = None, **body: object) -> Exchange:
    """A request with *callback_url*, if any, and the properties of its JSON body."""
    query = {} if callback_url is None else {"callback_url": callback_url}
    return Exchange("https://api.example/invoices/", "POST", Message(query=query, body=body))


class TestUrl:
    @pytest.mark.parametrize(
        ("expected", "callback_url", "id_"),
        [
            ("https://r.example/invoices/2expen51ve", "https://r.example", "2expen51ve"),
            ("https://r.example/invoices/2expen51ve", "https://r.example/", "2expen51ve"),
            ("https://r.example//invoices/1", "https://r.example//", "1"),
            ("https://r.example/a/invoices/1", "https://r.example/a/", "1"),
            ("HTTPS://R.Example:443/A/../b/invoices/1", "HTTPS://R.Example:443/A/../b", "1"),
            ("https://r.example/%2e%2E/invoices/1", "https://r.example/%2e%2E", "1"),
            ("https://r.example/invoices/a%2Fb", "https://r.example", "a/b"),
            ("https://r.example/invoices/..%2F..%2Fx", "https://r.example", "../../x"),
            ("https://r.example/invoices/%252e%252e", "https://r.example", "%2e%2e"),
            ("https://r.example/invoices/a%3Fb%23c", "https://r.example", "a?b#c"),
            ("https://r.example/invoices/a%20b%2Bc", "https://r.example", "a b+c"),
            ("https://r.example/invoices/%C3%A9%F0%9F%98%80", "https://r.example", "é😀"),
            ("https://r.example/invoices/-._~", "https://r.example", "-._~"),
            ("https://r.example/invoices/...", "https://r.example", "..."),
            ("https://r.example/invoices/%00%0D%0A", "https://r.example", "\x00\r\n"),
            ("https://r.example/invoices/%21%24%26%27%28%29%2A", "https://r.example", "!$&'()*"),
            ("https://r.example/invoices/7", "https://r.example", 7),
            ("https://r.example/invoices/-7", "https://r.example", -7),
            ("https://r.example/invoices/1.5", "https://r.example", 1.5),
            ("https://r.example/invoices/1e%2B30", "https://r.example", 1e30),
            ("https://r.example/invoices/true", "https://r.example", True),
            ("https://r.example/invoices/false", "https://r.example", False),
        ],
    )
    def test_leading_value_is_verbatim_and_others_are_encoded(
        self, expected: str, callback_url: str, id_: object
    ) -> None:
        """The leading URL is kept verbatim; all other values are percent-encoded."""
        url = INVOICE_NOTIFICATION.url_for(an_exchange(callback_url, id=id_))

        assert url is not None
        assert expected == url.text

    @pytest.mark.parametrize(
        ("expected", "expression", "body"),
        [
            ("http://n.example?t=1&e=", "http://n.example?t={$request.body#/a}&e=", {"a": 1}),
            ("http://n.example/?t=", "http://n.example/?t={$request.body#/a}", {"a": ""}),
            ("http://n.example/?t=..", "http://n.example/?t={$request.body#/a}", {"a": ".."}),
            (
                "http://n.example/x?a=&b=.",
                "http://n.example/x?a={$request.body#/a}&b={$request.body#/b}",
                {"a": "", "b": "."},
            ),
            ("http://n.example/POST", "http://n.example/{$method}", {}),
            ("http://a.example/x", "http://{$request.body#/a}/x", {"a": "a.example"}),
            ("http://n.example/.a", "http://n.example/.{$request.body#/a}", {"a": "a"}),
            (
                "http://n.example/https%3A%2F%2Fapi.example%2Finvoices%2F",
                "http://n.example/{$url}",
                {},
            ),
        ],
    )
    def test_a_url_may_begin_with_literal_text(
        self, expected: str, expression: str, body: dict[str, Any]
    ) -> None:
        """After literal text every value is percent-encoded; in a query it may be empty."""
        url = a_callback(expression).url_for(an_exchange(**body))

        assert url is not None
        assert expected == url.text

    @pytest.mark.parametrize("expression", [LEADING, "$request.query.callback_url"])
    def test_an_expression_of_the_url_alone_keeps_its_query(self, expression: str) -> None:
        """If nothing follows the leading URL, it is kept with its query."""
        text = "https://r.example/a/?token=x&b=%20"

        url = a_callback(expression).url_for(an_exchange(text))

        assert url is not None
        assert text == url.text

    @pytest.mark.parametrize(
        ("expression", "exchange"),
        [
            (BOTH, an_exchange(id="1")),
            (BOTH, an_exchange()),
            ("{$request.body#/url}", an_exchange()),
            ("{$request.body#/url}", Exchange("https://a.example", "POST", Message())),
            ("{$response.header.location}", an_exchange()),
        ],
    )
    def test_without_the_leading_value_there_is_no_call(
        self, expression: str, exchange: Exchange
    ) -> None:
        """Without a callback URL there is no call, even if other values are missing."""
        assert a_callback(expression).url_for(exchange) is None

    @pytest.mark.parametrize(
        ("expected", "expression", "exchange"),
        [
            ("URL is empty", BOTH, an_exchange("", id="1")),
            ("http:// or https://", BOTH, an_exchange("r.example", id="1")),
            ("http:// or https://", LEADING, an_exchange("/relative")),
            ("user name", BOTH, an_exchange("https://u:p@r.example", id="1")),
            ("query (?)", BOTH, an_exchange("https://r.example/?a=b", id="1")),
            ("query (?)", BOTH, an_exchange("https://r.example?", id="1")),
            ("fragment (#)", BOTH, an_exchange("https://r.example/#a", id="1")),
            ("fragment (#)", LEADING, an_exchange("https://r.example/#a")),
            ("query (?)", LEADING + "{$request.body#/id}", an_exchange("https://r.e/?", id="1")),
            ("character 19", BOTH, an_exchange("https://r.example/ ", id="1")),
            ("character 19", BOTH, an_exchange("https://r.example/\ud800", id="1")),
            ("longer than", BOTH, an_exchange("https://r.example/" + "a" * 7981, id="1")),
            ("user name", LEADING + "@evil.example/", an_exchange("https://r.example")),
        ],
    )
    def test_an_unusable_leading_value_is_named(
        self, expected: str, expression: str, exchange: Exchange
    ) -> None:
        """The error for an unusable URL names the parameter that it comes from."""
        with pytest.raises(EvaluationError) as failure:
            a_callback(expression).url_for(exchange)

        assert "$request.query.callback_url" == failure.value.expression
        assert expected in failure.value.reason
        assert not failure.value.is_absent

    @pytest.mark.parametrize(
        ("expected", "value"),
        [
            ("null", None),
            ("a boolean", True),
            ("a number", 5),
            ("a number", 5.5),
            ("an array", []),
            ("an object", {}),
        ],
    )
    def test_a_leading_value_is_a_string(self, expected: str, value: object) -> None:
        """A leading value that is not a string is refused, null included."""
        with pytest.raises(EvaluationError) as failure:
            a_callback("{$request.body#/url}/x").url_for(an_exchange(url=value))

        assert f"must be a string that holds a URL, not {expected}" == failure.value.reason
        assert not failure.value.is_absent

    @pytest.mark.parametrize(
        ("expected", "body"),
        [
            ("was not sent", {}),
            ("must not be empty", {"id": ""}),
            ('must not be "."', {"id": "."}),
            ('must not be ".."', {"id": ".."}),
            ("not null", {"id": None}),
            ("not an array", {"id": ["a"]}),
            ("not an object", {"id": {"a": 1}}),
            ("not a number that JSON has", {"id": float("nan")}),
            ("not a number that JSON has", {"id": float("inf")}),
            ("not a number that JSON has", {"id": 10**5000}),
            ("half of a surrogate pair", {"id": "a\ud800"}),
        ],
    )
    def test_a_value_that_is_not_a_path_segment_is_refused(
        self, expected: str, body: dict[str, Any]
    ) -> None:
        """A value that is not one path segment is refused, and the error names it."""
        with pytest.raises(EvaluationError) as failure:
            INVOICE_NOTIFICATION.url_for(an_exchange("https://r.example", **body))

        assert "$request.body#/id" == failure.value.expression
        assert expected in failure.value.reason

    def test_a_missing_value_fails_in_a_query_as_well(self) -> None:
        """A missing value is an error in a query too, although an empty one is valid there."""
        with pytest.raises(EvaluationError):
            a_callback("http://n.example/?t={$request.body#/a}").url_for(an_exchange())

    def test_a_literal_beginning_is_named_as_a_whole(self) -> None:
        """If the URL begins with literal text, the error names the whole expression."""
        expression = "ftp://n.example/{$method}"

        with pytest.raises(EvaluationError) as failure:
            a_callback(expression).url_for(an_exchange())

        assert expression == failure.value.expression

    @pytest.mark.parametrize(
        ("named", "expression", "exchange"),
        [
            (
                "$request.query.callback_url",
                LEADING + "./{$request.body#/a}",
                an_exchange("https://r.example/.", a="x"),
            ),
            (
                "$request.query.callback_url",
                LEADING + "e/x",
                an_exchange("https://r.example/%2"),
            ),
            (
                "$request.body#/a",
                "https://r.example/%2{$request.body#/a}/x",
                an_exchange(a="e"),
            ),
            (
                "$request.body#/a",
                "https://r.example/%2{$request.body#/a}.",
                an_exchange(a="E"),
            ),
        ],
        ids=["dots", "broken-triplet", "encoded", "encoded-and-dot"],
    )
    def test_combined_parts_do_not_make_dot_segments(
        self, named: str, expression: str, exchange: Exchange
    ) -> None:
        """Two parts together never make the path segment "." or ".."."""
        with pytest.raises(EvaluationError) as failure:
            a_callback(expression).url_for(exchange)

        assert named == failure.value.expression

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
    def test_an_id_is_always_one_segment(self, id_: str) -> None:
        """No id adds a path segment, a query or a fragment, or changes the origin."""
        try:
            url = INVOICE_NOTIFICATION.url_for(an_exchange("https://r.example/base", id=id_))
        except EvaluationError:
            assert id_ in ("", ".", "..")
            return

        assert url is not None
        assert "https://r.example:443" == url.origin
        assert ["https:", "", "r.example", "base", "invoices"] == url.text.split("/")[:-1]
        assert "?" not in url.text
        assert "#" not in url.text

    @given(
        st.text(st.characters(exclude_categories=()))
        | st.text(":/?#@.%[]a1").map("http://".__add__),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text("a./%é\ud800"),
            lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(), values),
        ),
    )
    def test_any_values_make_a_url_or_an_evaluation_error(
        self, callback_url: str, id_: object
    ) -> None:
        """Any value gives a URL that is valid, or is refused with a reason."""
        try:
            url = INVOICE_NOTIFICATION.url_for(an_exchange(callback_url, id=id_))
        except EvaluationError as failure:
            assert failure.reason
            return

        assert url is not None
        assert url.text.startswith(callback_url.removesuffix("/") + "/invoices/")


class TestDeclaration:
    def test_an_invalid_expression_fails_at_its_declaration(self) -> None:
        """An invalid expression raises an error when the callback is declared."""
        with pytest.raises(ExpressionError) as refusal:
            a_callback("{$callback_url}/invoices/{$request.body.id}")

        assert 2 == refusal.value.position

    DECLARED = DeclaredOperation(
        query=frozenset({"callback_url", "Mixed"}),
        headers=frozenset({"x-tag"}),
        path=frozenset({"id"}),
        body=frozenset({"id", "title", "a/b"}),
    )

    @pytest.mark.parametrize(
        "expression",
        [
            BOTH,
            "$request.body",
            "{$request.query.Mixed}",
            "{$request.header.X-Tag}",
            "{$request.header.Accept}{$request.header.content-type}",
            "{$request.path.id}",
            "{$request.body#/id/deeper/0}",
            "{$request.body#/a~1b}",
            "{$url}{$method}",
            "https://n.example/",
        ],
    )
    def test_declared_names_may_be_used(self, expression: str) -> None:
        """An expression may use declared parameters, the URL, the method and common headers."""
        callback = a_callback(expression)

        callback.check(self.DECLARED)

        assert [] == callback.undeclared(self.DECLARED)

    @pytest.mark.parametrize(
        "expression",
        ["$statusCode", "$response.body#/id", "$response.header.location", "$response.query.a"],
    )
    def test_values_of_the_response_cannot_be_used(self, expression: str) -> None:
        """An expression for the response is refused: the URL is evaluated before it exists."""
        with pytest.raises(DeclarationError, match="is not known yet"):
            a_callback(f"{{$url}}/{{{expression}}}").check(self.DECLARED)

    @pytest.mark.parametrize("expression", ["/invoices/{$request.body#/id}", "ftp://h/", ""])
    def test_a_callback_begins_with_a_value_or_a_scheme(self, expression: str) -> None:
        """The expression of a callback must begin with a value or with http:// or https://."""
        with pytest.raises(DeclarationError, match="begins with neither"):
            a_callback(expression).check(self.DECLARED)

    @pytest.mark.parametrize(
        ("expression", "name", "suggestion"),
        [
            ("{$request.query.callbackurl}", "query parameter callbackurl", "callback_url"),
            ("{$request.query.mixed}", "query parameter mixed", "Mixed"),
            ("{$request.query.zzz}", "query parameter zzz", None),
            ("{$request.query.id}", "query parameter id", None),
            ("{$request.header.X-Tags}", "header x-tags", "x-tag"),
            ("{$request.path.ids}", "path parameter ids", "id"),
            ("{$request.body#/titel}", "request body property titel", "title"),
            ("{$request.body#/}", "request body property ", None),
        ],
    )
    def test_undeclared_names_are_reported_with_the_nearest(
        self, expression: str, name: str, suggestion: str | None
    ) -> None:
        """A name that the operation does not declare is reported, and the nearest suggested."""
        (sentence,) = a_callback(expression).undeclared(self.DECLARED)

        assert f"the {name}" in sentence
        assert (f"Did you mean {suggestion}?" in sentence) is (suggestion is not None)

    def test_an_operation_without_a_body_has_no_properties(self) -> None:
        """An expression for the body is refused if the operation has no body."""
        for expression in ("$request.body", "$request.body#/id"):
            assert 1 == len(a_callback(expression).undeclared(DeclaredOperation()))

    def test_everything_undeclared_is_reported_at_once(self) -> None:
        """The error names the callback and all undeclared names."""
        with pytest.raises(DeclarationError) as refusal:
            INVOICE_NOTIFICATION.check(DeclaredOperation(body=frozenset({"ids"})))

        assert "invoice_notification" in str(refusal.value)
        assert "callback_url" in str(refusal.value)
        assert "Did you mean ids?" in str(refusal.value)


ANOTHER = Callback(
    name="order_shipped",
    expression="{$request.body#/url}",
    method="put",
    request=InvoiceEventSchema,
    response=InvoiceEventReceivedSchema,
    summary="An order was shipped",
    description="Sent once.",
)
NOTHING_DELIVERS = tuple(AnswerRule(f"{digit}XX", Meaning.RETRY, "") for digit in "2345")


class TestHeaders:
    VALUES: ClassVar = {one.name.title(): one.example for one in INVOICE_NOTIFICATION.headers}

    def test_a_callback_has_the_headers_of_standard_webhooks(self) -> None:
        """A declaration without headers has the headers of the signature."""
        names = {one.name for one in ANOTHER.headers if one.is_required}

        assert STANDARD_HEADERS == ANOTHER.headers
        assert {"webhook-id", "webhook-timestamp", "webhook-signature"} <= names

    def test_only_declared_headers_are_sent(self) -> None:
        """Values of undeclared headers are left out, and names are not case-sensitive."""
        assert self.VALUES == INVOICE_NOTIFICATION.select_headers({**self.VALUES, "X-Other": "1"})
        assert {one.name for one in STANDARD_HEADERS} == {
            name.lower() for name in ANOTHER.select_headers(self.VALUES)
        }

    @pytest.mark.parametrize("value", [{}, {"Traceparent": None}], ids=["missing", "none"])
    def test_an_optional_header_may_have_no_value(self, value: dict[str, None]) -> None:
        """An optional header without a value is left out."""
        values = {name: text for name, text in self.VALUES.items() if name != "Traceparent"}

        assert values == INVOICE_NOTIFICATION.select_headers({**values, **value})

    @pytest.mark.parametrize("name", ["Webhook-Id", "Invoices-Collector"])
    def test_a_required_header_must_have_a_value(self, name: str) -> None:
        """A missing value of a required header raises an error."""
        with pytest.raises(DeclarationError, match=name.lower()):
            INVOICE_NOTIFICATION.select_headers({**self.VALUES, name: None})

    def test_names_are_declared_in_lower_case(self) -> None:
        """A header name with capitals is refused in a declaration."""
        with pytest.raises(DeclarationError, match="X-Tag"):
            CallbackHeader("X-Tag", "", "")

    @pytest.mark.parametrize("header", INVOICE_NOTIFICATION.headers, ids=lambda one: one.name)
    def test_examples_match_their_patterns(self, header: CallbackHeader) -> None:
        """The example of a header matches its pattern."""
        assert re.search(header.pattern or "", header.example)


class TestBodyAndAnswer:
    def test_an_event_always_has_the_same_body(self) -> None:
        """The body is compact JSON in the order of the schema, whatever else the event holds."""
        expected = b'{"description":"Invoice paid","paid":true,"invoice_id":"1"}'
        events: list[dict[str, Any]] = [
            {"description": "Invoice paid", "paid": True, "invoice_id": "1"},
            {"invoice_id": "1", "paid": True, "description": "Invoice paid", "more": object()},
        ]

        assert [expected, expected] == [INVOICE_NOTIFICATION.render(event) for event in events]

    def test_an_event_may_be_any_object(self) -> None:
        """The schema selects the attributes of an event that are sent."""
        event = SimpleNamespace(description="Invoice paid", paid=True, invoice_id="1", at=None)

        expected = b'{"description":"Invoice paid","paid":true,"invoice_id":"1"}'
        assert expected == INVOICE_NOTIFICATION.render(event)

    def test_a_field_that_repeats_the_path_is_declared(self) -> None:
        """A field that the body does not have cannot repeat a parameter of the path."""
        with pytest.raises(DeclarationError, match="nobody"):
            dataclasses.replace(INVOICE_NOTIFICATION, path_fields={"id": "nobody"})

    def test_the_body_repeats_every_parameter_of_the_path(self) -> None:
        """What the signature does not cover is in the body too."""
        assert set(re.findall("{(.*?)}", address_of(INVOICE_NOTIFICATION).path)) == set(
            INVOICE_NOTIFICATION.path_fields
        )

    @pytest.mark.parametrize(
        "body",
        [
            b'{"ok": true}',
            b' {"ok":true}\n',
            b'{"more": [1], "ok": true}',
            b'\xef\xbb\xbf{"ok": true}',
        ],
    )
    def test_an_acknowledgement_is_read(self, body: bytes) -> None:
        """A declared body is an acknowledgement; undeclared fields are ignored."""
        assert {"ok": True} == INVOICE_NOTIFICATION.read_answer(body)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"ok",
            b"<html>parked</html>",
            b"null",
            b"true",
            b"[]",
            b'[{"ok": true}]',
            b"{}",
            b'{"ok": false}',
            b'{"ok": null}',
            b'{"ok": 1}',
            b'{"ok": 1.0}',
            b'{"ok": "true"}',
            b'{"ok": "yes"}',
            b'{"ok": [true]}',
            b'{"OK": true}',
            b'{"ok": true} {"ok": true}',
            b"{'ok': true}",
            '{"ok": true}'.encode("utf-16"),
            b'{"ok": true, "a": "\xff"}',
            b'{"ok": true, "a": NaN}',
            b'{"ok": true, "a": "\\ud800"}',
            b"[" * 100_000,
            b'{"ok": ' + b"1" * 5000 + b"}",
        ],
        ids=lambda body: repr(body[:20]),
    )
    def test_another_body_is_not_an_acknowledgement(self, body: bytes) -> None:
        """A body that differs from the declaration is refused; the message shows both."""
        with pytest.raises(InvalidAnswer) as refusal:
            INVOICE_NOTIFICATION.read_answer(body)

        assert str(refusal.value).startswith('the body of the answer should be {"ok": true}, but ')

    def test_the_message_shows_the_beginning_of_the_body(self) -> None:
        """The message contains only the beginning of a long body."""
        with pytest.raises(InvalidAnswer) as refusal:
            INVOICE_NOTIFICATION.read_answer(b"<html>" + b"x" * 5000)

        assert "but begins with <html>xxx" in str(refusal.value)
        assert str(refusal.value).endswith("…")

    @given(st.binary(max_size=600) | st.text("\x00\U000e0001é😀").map(str.encode))
    def test_the_message_is_short_and_printable(self, body: bytes) -> None:
        """For any body, the message is at most 300 printable characters."""
        with pytest.raises(InvalidAnswer) as refusal:
            INVOICE_NOTIFICATION.read_answer(body)

        assert len(str(refusal.value)) <= 300
        assert str(refusal.value).isprintable()


class TestClassification:
    @pytest.mark.parametrize("is_strict", [True, False])
    @pytest.mark.parametrize("status_code", [200, 204, 299])
    def test_a_declared_answer_delivers(self, status_code: int, is_strict: bool) -> None:
        """A status that means delivered, with a declared body, is classified as delivered."""
        found = INVOICE_NOTIFICATION.classify(
            status_code, b'{"ok": true}', is_truncated=False, is_strict=is_strict
        )

        assert (Meaning.DELIVERED, AttemptOutcome.DELIVERED, None) == (
            found.meaning,
            found.outcome,
            found.detail,
        )

    @pytest.mark.parametrize(
        ("body", "is_truncated", "detail"),
        [(b"<html>", False, "should be"), (b'{"ok": true}', True, "far larger")],
    )
    def test_another_body_is_accepted_only_in_lenient_mode(
        self, body: bytes, is_truncated: bool, detail: str
    ) -> None:
        """An undeclared body is a failure in strict mode, and delivered in lenient mode."""
        strict, lenient = (
            INVOICE_NOTIFICATION.classify(200, body, is_truncated=is_truncated, is_strict=is_strict)
            for is_strict in (True, False)
        )

        assert (Meaning.HOLD, AttemptOutcome.INVALID_ANSWER) == (strict.meaning, strict.outcome)
        assert (Meaning.DELIVERED, AttemptOutcome.DELIVERED) == (lenient.meaning, lenient.outcome)
        assert detail in (strict.detail or "")
        assert f"accepted although {strict.detail}" == lenient.detail

    @pytest.mark.parametrize("is_strict", [True, False])
    @pytest.mark.parametrize(
        ("meaning", "status_code"),
        [
            (Meaning.HOLD, 300),
            (Meaning.HOLD, 399),
            (Meaning.HOLD, 400),
            (Meaning.DEAD, 410),
            (Meaning.HOLD, 429),
            (Meaning.HOLD, 500),
            (Meaning.HOLD, 599),
        ],
    )
    def test_another_status_is_a_refusal(
        self, meaning: Meaning, status_code: int, is_strict: bool
    ) -> None:
        """Any other status is a refusal, whatever its body is."""
        found = INVOICE_NOTIFICATION.classify(
            status_code, b'{"ok": true}', is_truncated=False, is_strict=is_strict
        )

        assert (meaning, AttemptOutcome.REFUSED, f"the receiver answered {status_code}") == (
            found.meaning,
            found.outcome,
            found.detail,
        )

    def test_the_declaration_decides(self) -> None:
        """The declaration of the callback decides what a status means."""
        callback = dataclasses.replace(
            ANOTHER,
            answers=(
                AnswerRule("404", Meaning.DEAD, ""),
                AnswerRule("204", Meaning.RETRY, ""),
                AnswerRule("409", Meaning.DELIVERED, ""),
                *ANOTHER.answers,
            ),
        )
        meanings = {
            code: callback.classify(
                code, b'{"ok": true}', is_truncated=False, is_strict=True
            ).meaning
            for code in (200, 204, 404, 409, 410)
        }

        assert {
            200: Meaning.DELIVERED,
            204: Meaning.RETRY,
            404: Meaning.DEAD,
            409: Meaning.DELIVERED,
            410: Meaning.DEAD,
        } == meanings

    @pytest.mark.parametrize(
        ("expected", "answers"),
        [
            (200, ANOTHER.answers),
            (202, (AnswerRule("202", Meaning.DELIVERED, ""), *NOTHING_DELIVERS)),
        ],
    )
    def test_the_status_of_an_acknowledgement_is_the_lowest(
        self, expected: int, answers: tuple[AnswerRule, ...]
    ) -> None:
        """A receiver acknowledges with the lowest status that means delivered."""
        assert expected == dataclasses.replace(ANOTHER, answers=answers).acknowledgement_code


class TestInvoiceNotification:
    def test_its_examples_fit_its_schemas(self) -> None:
        """The examples of the event and the acknowledgement are valid under the schemas."""
        callback = INVOICE_NOTIFICATION

        assert {} == callback.request().validate(callback.request_example)
        assert {} == callback.response().validate(callback.response_example)
        assert callback.response_example == callback.read_answer(b'{"ok": true}')

    @pytest.mark.parametrize("schema", [InvoiceEventSchema, InvoiceEventReceivedSchema])
    def test_its_schemas_are_open_and_described(self, schema: type) -> None:
        """The schemas permit additional fields, and every field has a description."""
        spec = APISpec("t", "1", "3.1.0", plugins=[MarshmallowPlugin()])
        spec.components.schema("It", schema=schema)
        published = spec.to_dict()["components"]["schemas"]["It"]

        assert published.get("additionalProperties") is not False
        assert sorted(published["properties"]) == sorted(published["required"])
        for field in published["properties"].values():
            assert field["description"]
            assert "example" in field
            assert field["type"] in ("string", "boolean")
