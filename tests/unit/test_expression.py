"""The grammar of the runtime expressions, and their values in an exchange."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.callbacks.exchange import ABSENT, Exchange, Message
from service.callbacks.expression import (
    Body,
    Expression,
    Header,
    Method,
    Path,
    Query,
    StatusCode,
    Template,
    Url,
)
from service.callbacks.grammar import parse_expression, parse_template
from service.errors import EvaluationError, ExpressionError

ANY_CHARACTER = st.characters(exclude_categories=())
SIDES = st.sampled_from(["request", "response"])
TCHARS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
CHARACTERS = st.characters(exclude_categories=["Cs"])
EXPRESSIONS = st.one_of(
    st.sampled_from([Url(), Method(), StatusCode()]),
    st.builds(Header, SIDES, st.text(TCHARS, min_size=1)),
    st.builds(Query, SIDES, st.text(CHARACTERS)),
    st.builds(Path, SIDES, st.text(CHARACTERS)),
    st.builds(Body, SIDES, st.lists(st.text(ANY_CHARACTER)).map(tuple)),
)


def refusal_of(parse: Callable[[str], object], text: str) -> ExpressionError | None:
    """The error that *parse* raises for *text*, or None."""
    try:
        parse(text)
    except ExpressionError as refusal:
        return refusal
    return None


class TestGrammar:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            (Url(), "$url"),
            (Method(), "$method"),
            (StatusCode(), "$statusCode"),
            (Header("request", "accept"), "$request.header.accept"),
            (Header("response", "location"), "$response.header.Location"),
            (Header("request", TCHARS), f"$request.header.{TCHARS}"),
            (Header("request", "x.y#z"), "$request.header.X.Y#Z"),
            (Query("request", "callback_url"), "$request.query.callback_url"),
            (Query("response", "a"), "$response.query.a"),
            (Query("request", ""), "$request.query."),
            (Query("request", "a.b#/c d$e{f"), "$request.query.a.b#/c d$e{f"),
            (Query("request", "é😀\x7f"), "$request.query.é😀\x7f"),
            (Query("request", "Case"), "$request.query.Case"),
            (
                Query("request", "callback_url}/invoices/{$request.body#/id"),
                "$request.query.callback_url}/invoices/{$request.body#/id",
            ),
            (Query("request", '"\\/\b\f\n\r\t'), r"$request.query.\"\\\/\b\f\n\r\t"),
            (Query("request", "\x00é\u00e9"), r"$request.query.\u0000\u00e9\u00E9"),
            (Query("request", "😀"), r"$request.query.\ud83d\ude00"),
            (Query("request", "\ud83d"), r"$request.query.\ud83d"),
            (Query("request", "%20+"), "$request.query.%20+"),
            (Path("request", "id"), "$request.path.id"),
            (Path("response", ""), "$response.path."),
            (Body("request"), "$request.body"),
            (Body("request"), "$request.body#"),
            (Body("response"), "$response.body"),
            (Body("request", ("",)), "$request.body#/"),
            (Body("request", ("", "")), "$request.body#//"),
            (Body("request", ("id",)), "$request.body#/id"),
            (Body("request", ("user", "uuid")), "$request.body#/user/uuid"),
            (Body("request", ("a", "")), "$request.body#/a/"),
            (Body("request", ("a/b", "m~n")), "$request.body#/a~1b/m~0n"),
            (Body("request", ("~1",)), "$request.body#/~01"),
            (Body("request", ("/0",)), "$request.body#/~10"),
            (Body("request", ("%2F%7e",)), "$request.body#/%2F%7e"),
            (Body("request", ('"\\x}\n#{',)), '$request.body#/"\\x}\n#{'),
        ],
    )
    def test_every_form_of_the_grammar_is_parsed(self, expected: Expression, text: str) -> None:
        """Every form of the grammar is parsed, and escapes are decoded."""
        actual = parse_expression(text)

        assert expected == actual

    @pytest.mark.parametrize(
        ("position", "text"),
        [
            (0, ""),
            (0, "url"),
            (0, " $url"),
            (0, "{$url}"),
            (1, "$"),
            (1, "$URL"),
            (1, "$callback_url"),
            (1, "$Request.body"),
            (1, "$inputs.name"),
            (3, "$ur"),
            (4, "$url "),
            (4, "$url#/a"),
            (4, "$url\n"),
            (7, "$methods"),
            (7, "$method."),
            (7, "$statuscode"),
            (11, "$statusCode."),
            (8, "$request"),
            (9, "$request."),
            (8, "$requests.query.a"),
            (8, "$request#/id"),
            (9, "$request.Query.a"),
            (9, "$request.cookie.a"),
            (14, "$request.query"),
            (14, "$request.query[a]"),
            (15, "$request.header"),
            (16, "$request.header."),
            (16, "$request.header. accept"),
            (17, "$request.header.a b"),
            (17, "$request.header.a/b"),
            (17, "$request.header.a:"),
            (16, "$request.header.é"),
            (15, '$request.query."'),
            (16, '$request.query.a"b'),
            (16, "$request.query.a\nb"),
            (16, "$request.query.a\x1f"),
            (16, "$request.query.\\"),
            (16, "$request.query.\\x41"),
            (16, "$request.query.\\U0041"),
            (16, "$request.query.\\'"),
            (17, "$request.query.\\u"),
            (19, "$request.query.\\u12g4"),
            (20, "$request.query.\\u123"),
            (17, "$request.query.\\u+123"),
            (17, "$request.query.\\u１２３４"),
            (13, "$request.path\\.a"),
            (13, "$request.body.id"),
            (13, "$request.body/id"),
            (13, "$request.bodyguard"),
            (14, "$request.body#id"),
            (14, "$request.body##/id"),
            (16, "$request.body#/~"),
            (16, "$request.body#/~2"),
            (17, "$request.body#/a~/b"),
            (20, "$request.body#/~0~1~~0"),
            (1, "$REQUEST.BODY"),
        ],
    )
    def test_an_error_has_the_position_of_the_mistake(self, position: int, text: str) -> None:
        """The error has the position of the first character that cannot be valid."""
        with pytest.raises(ExpressionError) as refusal:
            parse_expression(text)

        assert position == refusal.value.position
        assert text == refusal.value.text
        assert refusal.value.reason.startswith("expected ")

    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ("{$request.query.callback_url}", "$callback_url"),
            ("{$request.query.callback-url}", "$callback-url"),
            ("{$request.query.id}", "$request.id"),
            ("{$request.body#/id}", "$request.body.id"),
            ("{$request.body#/user/id}", "$request.body.user.id"),
            ("{$request.body#/id}", "$request.body/id"),
            ("{$request.body#/user/id}", "$request.body/user/id"),
            ("{$request.body#/id}", "$request.body#id"),
            ("{$request.body#/id}", "$request.body#.id"),
            ("{$response.body#/id}", "$response.body.id"),
            ("{$request.body#/id}", "$Request.Body.id"),
            ("{$request.body#/id}", "request.body.id"),
            ("{$request.body#/id}", "request.body#/id"),
            ("{$url}", "url"),
            ("{$url}", "$URL"),
            ("{$method}", "$Method"),
            ("{$statusCode}", "$statuscode"),
            ("{$statusCode}", "$status_code"),
            ("{$request.query.Id}", "$REQUEST.Query.Id"),
            ("{$request.header.x-a}", "$request.headers.x-a"),
            ("{$request.query.a}", "$request.querystring.a"),
        ],
    )
    def test_common_errors_get_the_valid_form_as_a_hint(self, expected: str, text: str) -> None:
        """The message for a common error has the valid form."""
        with pytest.raises(ExpressionError) as refusal:
            parse_expression(text)

        assert refusal.value.hint is not None
        assert f"Did you mean {expected}?" in refusal.value.hint
        assert refusal.value.hint in str(refusal.value)

    @pytest.mark.parametrize("text", ["$", "", "$request", "$request.query", "$request.body#/~"])
    def test_without_a_known_valid_form_there_is_no_hint(self, text: str) -> None:
        """If the valid form is not clear, the message has no hint."""
        with pytest.raises(ExpressionError) as refusal:
            parse_expression(text)

        assert refusal.value.hint is None

    @given(st.text(ANY_CHARACTER) | st.text("$request.body#/~01\\u{}\"quyhapt'"))
    def test_only_expression_errors_are_raised(self, text: str) -> None:
        """Any text is parsed, or refused with a position inside it or at its end."""
        for parse in (parse_expression, parse_template):
            refusal = refusal_of(parse, text)

            assert refusal is None or text == refusal.text
            assert refusal is None or 0 <= refusal.position <= len(text)

    @given(
        st.sampled_from(["$request.query.", "$request.header.", "$request.body#/", "$url"]),
        st.text(ANY_CHARACTER),
    )
    @example("$request.query.", "\ud83d\\ude00")
    @example("$request.query.", "\\ud83d\ude00")
    def test_canonical_text_means_the_same(self, start: str, rest: str) -> None:
        """A parsed expression has one canonical text, which parses to the same expression."""
        try:
            parsed = parse_expression(start + rest)
        except ExpressionError:
            return

        assert parsed == parse_expression(str(parsed))
        assert str(parsed) == str(parse_expression(str(parsed)))

    @given(EXPRESSIONS)
    def test_every_expression_can_be_written(self, expression: Expression) -> None:
        """Every name and every pointer can be written as an expression."""
        assert expression == parse_expression(str(expression))

    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ("$request.header.content-type", "$request.header.Content-Type"),
            ("$request.body", "$request.body#"),
            ("$request.query./é", r"$request.query.\/\u00e9"),
            (r"$request.query.\"\\\n", r"$request.query.\u0022\u005c\u000a"),
            ("$request.body#/~01~1", "$request.body#/~01~1"),
            (r"$request.query.\ud800", r"$request.query.\uD800"),
        ],
    )
    def test_canonical_text_escapes_only_what_must_be(self, expected: str, text: str) -> None:
        """Different texts of the same expression have the same canonical text."""
        assert expected == str(parse_expression(text))

    @pytest.mark.parametrize(
        "text",
        [
            "$request.query." + "\\u0041" * 200_000,
            "$request.query." + "a" * 1_000_000 + '"',
            "$request.header." + "a" * 1_000_000 + " ",
            "$request.body#" + "/a" * 500_000 + "~",
            "$request.body." + "a." * 500_000 + "~",
            "$" + "a" * 1_000_000,
            "$request." + "query" * 200_000 + ".a",
            "{$url}" * 150_000 + "{",
            "{" * 1_000_000,
            "$url" * 250_000 + "}",
        ],
        ids=lambda text: text[:20],
    )
    def test_parsing_takes_linear_time(self, text: str) -> None:
        """A text of a million characters is parsed within seconds, hints included."""
        started = time.process_time()
        with suppress(ExpressionError):
            parse_template(text)

        # Linear time is less than a second here; quadratic time would be hours.
        assert time.process_time() - started < 10


class TestTemplate:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ((), ""),
            (("https://example.com/",), "https://example.com/"),
            ((Url(),), "$url"),
            ((Url(),), "{$url}"),
            ((Query("request", "a/b"),), "$request.query.a/b"),
            ((Body("request", ("url",)),), "$request.body#/url"),
            ((Url(), Method()), "{$url}{$method}"),
            (
                (Query("request", "callback_url"), "/invoices/", Body("request", ("id",))),
                "{$request.query.callback_url}/invoices/{$request.body#/id}",
            ),
            (
                ("http://n.example?t=", Body("request", ("id",)), "&e=", Body("request", ("e",))),
                "http://n.example?t={$request.body#/id}&e={$request.body#/e}",
            ),
            (("$5/", Url()), "$5/{$url}"),
            ((Query("request", "a{b"), "c"), "{$request.query.a{b}c"),
            ((Query("request", "a}b"),), r"{$request.query.a\u007db}"),
            ((" ", Url(), " "), " {$url} "),
        ],
    )
    def test_a_string_is_split_into_text_and_expressions(
        self, expected: tuple[str | Expression, ...], text: str
    ) -> None:
        """Braces embed expressions; a string that is a single expression needs no braces."""
        assert Template(expected) == parse_template(text)

    @pytest.mark.parametrize(
        ("position", "text"),
        [
            (0, "}"),
            (3, "a/b}"),
            (27, "$request.query.callback_url}/invoices/{$request.body#/id}"),
            (6, "{$url}}"),
            (0, "{"),
            (1, "a{$url"),
            (6, "{$url}{$url"),
            (1, "{}"),
            (3, "ab{}"),
            (1, "{{$url}}"),
            (1, "{ $url}"),
            (5, "{$url }"),
            (5, "{$url{$method}"),
            (1, "{url}"),
            (2, "{$callback_url}/invoices/{$request.body.id}"),
            (43, "{$request.query.callback_url}/x/{$request.b.id}"),
            (46, "{$request.query.callback_url}/x/{$request.body.id}"),
            (47, "{$request.query.callback_url}/x/{$request.body#id}"),
            (19, r"é/{$request.query.\x}"),
            (1, "$callback_url"),
        ],
    )
    def test_a_position_counts_from_the_whole_text(self, position: int, text: str) -> None:
        """The position counts from the beginning of the string, not of the expression."""
        with pytest.raises(ExpressionError) as refusal:
            parse_template(text)

        assert position == refusal.value.position
        assert text == refusal.value.text

    def test_the_message_marks_the_mistake_with_a_caret(self) -> None:
        """The message shows the position, the reason and the valid form."""
        with pytest.raises(ExpressionError) as refusal:
            parse_template("{$request.query.u}/{$request.body.id}")

        expected = [
            "expected the end, or # and a JSON Pointer, at character 34:",
            "  {$request.query.u}/{$request.body.id}",
            "                                   ^",
        ]
        assert expected == str(refusal.value).splitlines()[:3]

    @given(
        st.lists(
            st.text(st.characters(exclude_characters="{}"), min_size=1)
            | EXPRESSIONS.filter(lambda e: not (isinstance(e, Body) and "}" in str(e)))
        )
    )
    def test_canonical_text_of_a_template_means_the_same(
        self, parts: list[str | Expression]
    ) -> None:
        """The canonical text of a template parses to the same template."""
        # Because of the slash, literal text that begins with $ is not a bare expression.
        text = str(Template(("/", *parts)))

        assert text == str(parse_template(text))

    def test_the_leading_expression_is_the_first_part(self) -> None:
        """The leading expression is an expression at the beginning, or there is none."""
        assert Url() == parse_template("{$url}/{$method}").leading
        assert parse_template("/{$url}").leading is None
        assert parse_template("").leading is None
        assert (Url(), Method()) == parse_template("{$url}/{$method}").expressions


EXCHANGE = Exchange(
    url="https://example.org/subscribe/myevent?queryUrl=https://client.example/still",
    method="POST",
    request=Message(
        headers={"Content-Type": "application/json", "x-a": "1"},
        query={"queryUrl": "https://client.example/still", "empty": "", "": "nameless"},
        path={"eventType": "myevent"},
        body={
            "failedUrl": "https://client.example/failed",
            "successUrls": ["https://client.example/fast", "https://client.example/medium"],
            "null": None,
            "no": False,
            "zero": 0,
            "text": "abc",
            "": {"": "deep"},
            "a/b": 1,
            "m~n": 2,
            "~1": 3,
            "%2F": 4,
            "0": "member",
            "list": [["x"], list(range(12))],
        },
    ),
    status_code=201,
    response=Message(
        headers={"Location": "https://example.org/subscription/1"},
        query={"a": "never"},
        path={"a": "never"},
        body={"status": "ok"},
    ),
)


class TestValue:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ("https://example.org/subscribe/myevent?queryUrl=https://client.example/still", "$url"),
            ("POST", "$method"),
            (201, "$statusCode"),
            ("myevent", "$request.path.eventType"),
            ("https://client.example/still", "$request.query.queryUrl"),
            ("", "$request.query.empty"),
            ("nameless", "$request.query."),
            ("application/json", "$request.header.content-type"),
            ("application/json", "$request.header.CONTENT-TYPE"),
            ("1", "$request.header.X-A"),
            ("https://client.example/failed", "$request.body#/failedUrl"),
            ("https://client.example/medium", "$request.body#/successUrls/1"),
            ("https://example.org/subscription/1", "$response.header.Location"),
            ("ok", "$response.body#/status"),
            ({"status": "ok"}, "$response.body"),
            (EXCHANGE.request.body, "$request.body#"),
            (None, "$request.body#/null"),
            (False, "$request.body#/no"),
            (0, "$request.body#/zero"),
            ({"": "deep"}, "$request.body#/"),
            ("deep", "$request.body#//"),
            (1, "$request.body#/a~1b"),
            (2, "$request.body#/m~0n"),
            (3, "$request.body#/~01"),
            (4, "$request.body#/%2F"),
            ("member", "$request.body#/0"),
            ("x", "$request.body#/list/0/0"),
            (11, "$request.body#/list/1/11"),
        ],
    )
    def test_an_expression_has_the_value_that_was_sent(self, expected: object, text: str) -> None:
        """An expression has the value of the exchange, with its type."""
        actual = parse_expression(text).value(EXCHANGE)

        assert expected == actual
        assert type(expected) is type(actual)

    @pytest.mark.parametrize(
        "text",
        [
            "$request.query.queryurl",
            "$request.query.absent",
            "$request.path.eventtype",
            "$request.path.",
            "$request.header.absent",
            "$request.body#/absent",
            "$request.body#/failedurl",
            "$request.body#/text/0",
            "$request.body#/null/a",
            "$request.body#/zero/a",
            "$request.body#/failedUrl/",
            "$request.body#/successUrls/2",
            "$request.body#/successUrls/-",
            "$request.body#/successUrls/-1",
            "$request.body#/successUrls/01",
            "$request.body#/successUrls/00",
            "$request.body#/successUrls/+1",
            "$request.body#/successUrls/ 1",
            "$request.body#/successUrls/1\n",
            "$request.body#/successUrls/１",
            "$request.body#/successUrls/",
            "$request.body#/successUrls/1.0",
            "$request.body#/successUrls/" + "9" * 10_000,
            "$request.body#/list/1/12",
            "$request.body#/list/1/99",
            "$response.query.a",
            "$response.path.a",
            "$response.header.absent",
            "$response.body#/absent",
        ],
        ids=lambda text: text[:40],
    )
    def test_a_value_that_was_not_sent_is_absent(self, text: str) -> None:
        """The error distinguishes a missing value from an unusable one."""
        expression = parse_expression(text)

        with pytest.raises(EvaluationError) as failure:
            expression.value(EXCHANGE)

        assert failure.value.is_absent
        assert str(expression) == failure.value.expression

    @pytest.mark.parametrize(
        "text",
        [
            "$statusCode",
            "$response.body",
            "$response.body#/status",
            "$response.header.Location",
            "$response.query.a",
            "$request.body",
            "$request.body#/a",
        ],
    )
    def test_without_a_response_or_body_values_are_absent(self, text: str) -> None:
        """Expressions for a response or a body that does not exist have no value."""
        with pytest.raises(EvaluationError) as failure:
            parse_expression(text).value(Exchange("https://a.example/", "POST", Message()))

        assert failure.value.is_absent

    def test_a_null_body_is_a_body(self) -> None:
        """The body `null` is a value, and is not absent."""
        exchange = Exchange("https://a.example/", "POST", Message(body=None))

        assert parse_expression("$request.body").value(exchange) is None
        assert ABSENT == Message().body
