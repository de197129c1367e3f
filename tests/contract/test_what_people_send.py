"""Frequent mistakes of API users, and unusual but valid requests: each gets a clear answer."""

from urllib.parse import quote

import pytest

from service.development import for_development
from service.settings import Settings
from service.storage.tables import invoices

SEED = {"id": "1", "customer": "Mr. Richie Rich", "total": "9999"}
RECEIVER = "https://api.example.com"
JSON = {"Content-Type": "application/json"}
TWO_HUNDRED_EMOJI = "🧾" * 200


@pytest.fixture
def settings():
    """The settings of development mode, which permits receivers at any address."""
    return for_development(Settings())


async def post(api, body, query=""):
    """Send *body*, a text or bytes; returns the status and the document of the response."""
    answer = await api.post(f"/invoices/{query}", data=body, headers=JSON)
    return answer.status, await answer.json()


async def send(api, query="", **changes):
    """Send the seed invoice with *changes*; returns the status and the document."""
    answer = await api.post(f"/invoices/{query}", json={**SEED, **changes})
    return answer.status, await answer.json()


def messages_of(problem):
    """Pointer and message of each field error."""
    return {one["pointer"]: one["message"] for one in problem["errors"]}


async def refusal_of(api, query="", **changes):
    """The field errors of an invoice that is refused with 422."""
    status, problem = await send(api, query, **changes)
    assert 422 == status, problem
    return messages_of(problem)


class TestRepeatedNames:
    @pytest.mark.parametrize(
        ("expected", "body"),
        [
            ("total", '{"id":"d","customer":"c","total":"1","total":"2"}'),
            ("total", '{"id":"d","customer":"c","total":1,"total":1}'),
            ("total", r'{"id":"d","customer":"c","total":"1","tot\u0061l":"1"}'),
            ("id", '{"id":"a","id":"\\"","customer":"c","total":"1"}'),
            ("a", '{"id":"d","customer":"c","total":"1","more":[{"b":{"a":1,"b":2,"a":3}}]}'),
            ("a", '[{"a":1,"a":1}]'),
            ("", '{"":1,"":2}'),
            ("ä", '{"ä":1,"\\u00e4":2}'),
        ],
    )
    async def test_a_repeated_name_is_refused(self, api, expected, body):
        """A name that occurs twice is refused, because parsers differ in which value they use."""
        status, problem = await post(api, body)

        assert 400 == status
        assert f'the name "{expected}" twice' in problem["detail"]

    @pytest.mark.parametrize("path", ["/invoices/", "/deliveries/redeliver"])
    async def test_filters_are_read_like_invoices(self, api, path):
        """A repeated name is refused in the body of a filter, too."""
        body = '{"status":"dead","status":"dead"}'
        answer = await api.post(path, data=body, headers=JSON)

        assert 400 == answer.status

    @pytest.mark.parametrize(
        "body",
        [
            '{"id":"a","customer":"id","title":"total","total":"1"}',
            '{"id":"a","customer":"\\"id\\":","title":"{\\"a\\":1,\\"a\\":2}","total":"1"}',
        ],
    )
    async def test_repeated_values_are_accepted(self, api, body):
        """Only repeated names are refused, not repeated values or text that looks like a name."""
        assert 202 == (await post(api, body))[0]

    @pytest.mark.parametrize("depth", [200, 900, 1000, 1023, 20_000])
    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
    async def test_deep_nesting_is_refused(self, api, depth, opening, closing):
        """A body that is nested too deep is an error of the caller."""
        body = opening * depth + "1" + closing * depth

        assert (await post(api, body[: 64 * 1024]))[0] in {400, 422}

    async def test_a_long_name_is_shortened_in_the_answer(self, api):
        """The error message does not contain the whole of a long name."""
        name = "a" * 20_000
        _, problem = await post(api, f'{{"{name}":1,"{name}":2}}')

        assert 300 > len(problem["detail"])


class TestOtherBodies:
    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("null", "null"),
            ("an array", "[]"),
            ("a number", "1"),
            ("a number", "1.5"),
            ("a boolean", "true"),
            ("a string", '"{}"'),
        ],
    )
    async def test_the_kind_of_a_body_that_is_not_an_object_is_named(self, api, kind, body):
        """The refusal names the JSON type that was sent and the type that was expected."""
        status, problem = await post(api, body)

        assert 422 == status
        assert {"": f"The body is {kind}; a JSON object was expected."} == messages_of(problem)

    @pytest.mark.parametrize(
        ("expected", "body"),
        [
            ("byte 9 is 0xFC", '{"id": "ü"}'.encode("latin-1")),
            ("byte 1 is 0xFF", '{"id": "1"}'.encode("utf-16")),
            ("byte order mark", b"\xef\xbb\xbf{}"),
            ("not as UTF-16", '{"id": "1"}'.encode("utf-16-be")),
            ("not as UTF-16", '{"id": "1"}'.encode("utf-16-le")),
            ("nested too deeply", b"[" * 990 + b"]" * 990),
        ],
    )
    async def test_the_cause_is_named(self, api, expected, body):
        """The refusal of a body that is not JSON in UTF-8 names the cause."""
        status, problem = await post(api, body)

        assert 400 == status
        assert expected in problem["detail"]

    async def test_a_thousand_errors_are_answered_with_twenty(self, api):
        """The response lists the first twenty field errors."""
        body = "{" + ",".join(f'"callback_ur{number}":1' for number in range(3000)) + "}"
        status, problem = await post(api, body, "?callback_url=x")

        assert 422 == status
        assert 20 == len(problem["errors"])


class TestLimits:
    async def test_limits_can_be_used_together(self, api, store):
        """The longest id and the longest callback URL are accepted together."""
        url = RECEIVER + "/" + "a" * (2048 - len(RECEIVER) - 1)
        status, _ = await send(api, f"?callback_url={url}", id=TWO_HUNDRED_EMOJI)

        assert 202 == status
        stored = await store.history.find_invoice("dev", TWO_HUNDRED_EMOJI)
        assert f"{url}/invoices/{quote(TWO_HUNDRED_EMOJI)}" in stored["callbacks"]

    async def test_a_url_above_its_limit_is_named(self, api):
        """A callback URL above its limit gives a field error for callback_url only."""
        errors = await refusal_of(api, f"?callback_url={RECEIVER}/{'a' * 2048}")

        assert {
            "/callback_url": "Must have 1 to 2048 characters; without it, no callback is sent."
        } == errors


class TestCallbackUrls:
    @pytest.mark.parametrize(
        ("expected", "url"),
        [
            ("write http://xn--bcher-kva.example/", "http://bücher.example/"),
            ("write https://api.example/caf%C3%A9", "https://api.example/café"),
            ("write http://api.example/a%20b", "http://api.example/a b"),
            ("a token, can stand in the path", "https://api.example/x?token=abc"),
            ("a token, can stand in the path", "https://api.example/x#abc"),
            ("must begin with http:// or https://", "api.example"),
        ],
    )
    async def test_a_refusal_shows_a_correct_value(self, api, expected, url):
        """The message has a correct value that can be sent instead."""
        errors = await refusal_of(api, f"?callback_url={quote(url)}")

        assert expected in errors["/callback_url"]

    async def test_a_plus_in_a_query_is_explained(self, api):
        """The message explains that + means a blank in a query."""
        errors = await refusal_of(api, "?callback_url=http://h/a+b")

        assert "in a query, + stands for a blank: write %2B for a +" in errors["/callback_url"]

    @pytest.mark.parametrize(
        ("origin", "url"),
        [
            ("https://www.example.com:443", "https://www.example.com./x"),
            ("http://example.com:80", "http://example.com:/"),
        ],
    )
    async def test_a_url_is_called_as_it_was_sent(self, api, store, origin, url):
        """A trailing dot and an empty port stay in the URL; the origin is normalised."""
        assert 202 == (await send(api, f"?callback_url={url}"))[0]

        stored = await store.history.find_invoice("dev", "1")
        called = url.removesuffix("/") + "/invoices/1"
        assert f'[["invoice_notification","{called}","{origin}"]]' == stored["callbacks"]


class TestUnknownFields:
    @pytest.mark.parametrize(
        ("pointer", "expected", "query"),
        [
            ("/callbackUrl", "Did you mean callback_url?", f"?callbackUrl={RECEIVER}"),
            ("/CALLBACK-URL", "Did you mean callback_url?", f"?CALLBACK-URL={RECEIVER}"),
            ("/callback_url[]", "Did you mean callback_url?", f"?callback_url[]={RECEIVER}"),
            ("/customer", "It belongs in the body.", "?customer=c"),
            ("/customr", "Did you mean customer in the body?", "?customr=c"),
            ("/foo", "part of callback_url, percent-encode", "?callback_url=http://h&foo=1"),
            ("/id", "part of callback_url, percent-encode", "?callback_url=http://h&id=1"),
            ("/foo", "Unknown field.", "?foo=1"),
        ],
    )
    async def test_the_likely_reason_is_named(self, api, pointer, expected, query):
        """The message for an undeclared parameter names the parameter that was probably meant."""
        errors = await refusal_of(api, query)

        assert [pointer] == list(errors)
        assert errors[pointer].startswith("Unknown field.")
        assert expected in errors[pointer]

    @pytest.mark.parametrize(
        ("expected", "name"),
        [
            ("Unknown field. It belongs in the query.", "callback_url"),
            ("Unknown field. Did you mean callback_url in the query?", "callbackUrl"),
            ("Unknown field. Did you mean customer_email?", "customerEmail"),
            ("Unknown field. Did you mean total?", "Total"),
            ("Unknown field.", "x" * 60_000),
        ],
    )
    async def test_the_likely_field_of_the_body_is_named(self, api, expected, name):
        """The message for an undeclared field names the correct field or place."""
        assert {f"/{name}": expected} == await refusal_of(api, **{name: RECEIVER})


class TestMoney:
    @pytest.mark.parametrize(
        ("expected", "total"),
        [
            ("less than 1000000000000", "1000000000000"),
            ("less than 1000000000000", 10**12),
            ("less than 1000000000000", 1e15),
            ("less than 1000000000000", 1e300),
            ("less than 1000000000000", 2**64),
            ("more than zero", "-1"),
            ("more than zero", -1),
            ("more than zero", -0.5),
            ("more than zero", "0.00"),
            ("USD has 2 decimals; this amount has 3", "1.001"),
            ("USD has 2 decimals; this amount has 3", 1.001),
            ("USD has 2 decimals; this amount has 7", "0.0000001"),
            ("USD has 2 decimals; this amount has 7", 1e-7),
            ("USD has 2 decimals; this amount has 17", 0.1 + 0.2),
            ("without an exponent in a string", "1e3"),
            ("not begin with zeros", "0100"),
            ("digits, with a point before decimals", "1,000.00"),
            ("digits, with a point before decimals", "9999 USD"),
        ],
    )
    async def test_each_refusal_says_what_is_wrong(self, api, expected, total):
        """A string and a number of the same value get the same message."""
        errors = await refusal_of(api, total=total)

        assert ["/total"] == list(errors)
        assert expected in errors["/total"]

    @pytest.mark.parametrize("total", ["100", "100.0", "100.00000", 100, 100.0, 1e2])
    async def test_trailing_zeros_do_not_count_as_decimals(self, api, total):
        """An amount with trailing zeros is accepted as a number and as a string."""
        assert 202 == (await send(api, total=total, currency="JPY"))[0]
        assert "100" == (await (await api.get("/invoices/1")).json())["total"]

    @pytest.mark.parametrize(
        ("expected", "currency"),
        [
            ("Must be written in capitals: USD.", "usd"),
            ("Must be written in capitals: EUR.", "Eur"),
            ("Must be written without blanks: USD.", " USD "),
            ("Must be an ISO 4217 code such as USD.", "$"),
            ("Must be an ISO 4217 code such as USD.", "US Dollar"),
        ],
    )
    async def test_a_currency_is_written_in_capitals(self, api, expected, currency):
        """The refusal names the code in capitals, if such a currency exists."""
        assert {"/currency": expected} == await refusal_of(api, currency=currency)


class TestBlanks:
    BLANKS = (None, "", " ", "\t\n", "\u00a0", "\u200b", "\ufeff", "\u2060 \u3164", "\u202e")

    @pytest.mark.parametrize("name", ["id", "customer", "total"])
    @pytest.mark.parametrize("blank", BLANKS)
    async def test_a_blank_field_is_missing(self, api, name, blank):
        """A required field with only invisible characters counts as missing."""
        assert {f"/{name}": "Is missing or blank."} == await refusal_of(api, **{name: blank})

    @pytest.mark.parametrize("blank", BLANKS)
    async def test_an_optional_field_may_be_blank(self, api, blank):
        """A blank optional field counts as absent."""
        status, _ = await send(api, title=blank, customer_email=blank, currency=blank)
        found = await (await api.get("/invoices/1")).json()

        assert 202 == status
        assert (None, None, "USD") == (
            found["title"],
            found["customer_email"],
            found["currency"],
        )
        assert 200 == (await send(api))[0]

    @pytest.mark.parametrize("text", ["0", "-", "\u200bx", "👨\u200d👩", "\u3000あ"])
    async def test_a_text_with_visible_characters_is_kept(self, api, text):
        """Invisible characters beside visible ones stay in the text."""
        assert 202 == (await send(api, customer=text))[0]
        assert text == (await (await api.get("/invoices/1")).json())["customer"]


class TestRepeatedInvoices:
    @pytest.mark.parametrize(
        ("expected", "query", "changes"),
        [
            ("total", "", {"total": "1"}),
            ("currency", "", {"currency": "EUR"}),
            ("title, customer", "", {"title": "secret", "customer": "secret"}),
            ("callback_url", f"?callback_url={RECEIVER}", {}),
        ],
    )
    async def test_a_conflict_names_what_differs(self, api, expected, query, changes):
        """The conflict names the fields that differ, without their values."""
        await send(api)
        status, problem = await send(api, query, **changes)

        assert 409 == status
        assert f"with other content: {expected}." in problem["detail"]
        assert "secret" not in str(problem)

    async def test_a_replay_has_the_location(self, api):
        """A client that lost the first response gets the same Location with the second."""
        first = await api.post("/invoices/", json=SEED)
        second = await api.post("/invoices/", json=SEED)

        assert (202, 200) == (first.status, second.status)
        assert "/invoices/1" == first.headers["Location"] == second.headers["Location"]


class TestInstants:
    @pytest.mark.parametrize(
        ("expected", "since"),
        [
            (200, "2026-01-31T12:00:00+01:00"),
            (200, "2026-01-31T12:00:00%2B01:00"),
            (200, "2026-01-31t12:00:00z"),
            (422, "2026-01-31T12:00:00"),
        ],
    )
    async def test_an_offset_needs_no_encoding(self, api, expected, since):
        """A + in the offset that was decoded as a blank is accepted."""
        assert expected == (await api.get(f"/deliveries?since={since}")).status


class TestWithdrawnCurrencies:
    @pytest.mark.parametrize(("total", "decimals"), [("0.100", 3), ("100", 0), ("1.00", None)])
    async def test_an_invoice_in_a_withdrawn_currency_is_shown(self, api, store, total, decimals):
        """A stored invoice can be read after ISO 4217 has withdrawn its currency."""
        await send(api)
        await store._database.write(
            lambda tx: tx.execute(
                invoices.update().values(currency="BGN", decimals=decimals, total_minor=100)
            ).close()
        )
        listed = await (await api.get("/invoices/")).json()
        found = await (await api.get("/invoices/1")).json()

        assert (total, "BGN") == (found["total"], found["currency"])
        assert [found] == listed["items"]

    @pytest.mark.parametrize(("expected", "currency"), [(2, "USD"), (0, "JPY"), (3, "KWD")])
    async def test_decimals_are_stored(self, api, store, expected, currency):
        """Each invoice is stored with the number of decimals of its currency."""
        await send(api, currency=currency)

        assert expected == (await store.history.find_invoice("dev", "1"))["decimals"]
