"""The validation of a request: all field errors are collected, each with its pointer."""

from __future__ import annotations

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request
from marshmallow import Schema, fields

from service.api import validation
from service.api.validation import FIELD_ERRORS, POINTERS_MAX, RequestParser
from service.errors import FieldError, InvalidInput, MalformedRequest, UnsupportedMedia


class InnerSchema(Schema):
    number = fields.Integer(required=True)


class QuerySchema(Schema):
    limit = fields.Integer()
    inner = fields.List(fields.Nested(InnerSchema))


def a_request(query="", *, body=b"", **headers):
    """A request whose body has been read."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = make_mocked_request("POST", f"/{query}", headers=named)
    request._read_bytes = body
    return request


async def parse(request, location="querystring", schema=QuerySchema):
    """The data of *location*, as the middleware loads it."""
    return await RequestParser("USD").parse(schema(), request, location=location, unknown=None)


async def test_valid_data_is_loaded():
    """Valid data is loaded, and there is no field error."""
    request = a_request("?limit=5")

    assert {"limit": 5} == await parse(request)
    assert FIELD_ERRORS not in request


async def test_a_query_that_is_known_gives_the_same_values():
    """Nearly all invoices of a receiver have one query: the values are their own each time."""
    parser, schema = RequestParser("USD"), QuerySchema()

    async def loaded(query):
        return await parser.parse(schema, a_request(query), location="querystring", unknown=None)

    first = await loaded("?limit=5")
    first["limit"] = 6

    assert {"limit": 5} == await loaded("?limit=5")
    assert {"limit": 7} == await loaded("?limit=7")
    assert {} == await loaded("")


async def test_known_queries_are_bounded(monkeypatch):
    """Whoever sends many different queries neither fills the memory nor keeps others out."""
    monkeypatch.setattr(validation, "KNOWN_QUERIES", 3)
    parser, schema = RequestParser("USD"), QuerySchema()

    for number in range(10):
        request = a_request(f"?limit={number}")
        await parser.parse(schema, request, location="querystring", unknown=None)

    assert ["limit=7", "limit=8", "limit=9"] == [query for _, query in parser._known_queries]


async def test_a_query_with_a_field_error_is_not_known():
    """It is refused each time."""
    parser, schema = RequestParser("USD"), QuerySchema()

    for _ in range(2):
        request = a_request("?limit=1&limit=2")
        await parser.parse(schema, request, location="querystring", unknown=None)
        assert ["/limit"] == [one.pointer for one in request[FIELD_ERRORS]]


async def test_field_errors_of_all_locations_are_collected():
    """After a field error, the next location is still read."""
    request = a_request("?limit=x&new=1")

    assert {} == await parse(request)
    assert {} == await parse(request, "match_info")
    assert {("query", "/limit"), ("query", "/new")} == {
        (one.location, one.pointer) for one in request[FIELD_ERRORS]
    }


@pytest.mark.parametrize(
    ("expected", "query"),
    [
        ("/a~1b~0c", "?a/b~c=1"),
        ("/???", "?%ed%a0%80=1"),
        ("/limit", "?limit=1&limit=2"),
        ("/new", "?new=1"),
    ],
)
async def test_pointer_names_the_place(expected, query):
    """Pointers are escaped, and are always valid text in JSON."""
    request = a_request(query)
    await parse(request)

    assert expected in [one.pointer.replace("\ufffd", "?")[:8] for one in request[FIELD_ERRORS]]


async def test_nested_field_errors_have_nested_pointers():
    """The pointer of a nested value goes through lists and objects."""
    request = a_request(body=b'{"inner": [{"number": 1}, {"number": "x"}, 3]}', Content_Type=JSON)
    await parse(request, "json")
    expected = [
        FieldError("body", "/inner/1/number", "Not a valid integer."),
        FieldError("body", "/inner/2", "Invalid input type."),
    ]

    assert expected == request[FIELD_ERRORS]


JSON = "application/json"


@pytest.mark.parametrize("content_type", ["text/plain", "application/json; charset=utf-16"])
async def test_other_media_are_refused(content_type):
    """A body that is not declared as JSON in UTF-8 is not read."""
    with pytest.raises(UnsupportedMedia):
        await parse(a_request(body=b"{}", Content_Type=content_type), "json")


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 60_000, b"9" * 5_000, b'"\\ud800"', b"NaN"])
async def test_body_that_is_not_json_is_refused(body):
    """A body that is not JSON is an error of the caller."""
    with pytest.raises(MalformedRequest):
        await parse(a_request(body=body, Content_Type=JSON), "json")


@pytest.mark.parametrize(
    ("location", "request_", "count"),
    [
        (
            "json",
            lambda names: a_request(
                body=orjson.dumps(dict.fromkeys(names, "é")), Content_Type=JSON
            ),
            8100,
        ),
        ("querystring", lambda names: a_request("?" + "&".join(names)), 900),
    ],
)
async def test_an_object_with_far_too_many_fields_is_not_loaded(location, request_, count):
    """Of thousands of fields, no more are looked at than an answer lists."""
    request = request_([f"f{number}" for number in range(count)])

    assert {} == await parse(request, location, NeverLoaded)

    first = [f"/f{number}" for number in range(21)]
    assert first == [one.pointer for one in request[FIELD_ERRORS]]


class NeverLoaded(QuerySchema):
    def load(self, *_, **__):
        raise AssertionError("the object was loaded")


async def test_long_names_are_repeated_within_a_limit():
    """However long the names of undeclared fields are, the pointers to them are bounded."""
    names = [str(number) * 150_000 for number in range(3)]
    request = a_request(body=orjson.dumps(dict.fromkeys(names, 1)), Content_Type=JSON)

    await parse(request, "json")

    lengths = [len(one.pointer) for one in request[FIELD_ERRORS]]
    assert [150_001, POINTERS_MAX - 150_001, 0] == lengths


@pytest.mark.parametrize(("count", "has_more"), [(20, False), (21, True)])
def test_invalid_input_says_that_there_are_more_errors(count, has_more):
    """Twenty field errors are told, and whether there are more."""
    invalid = InvalidInput([FieldError("body", f"/{number}", "") for number in range(count)])

    assert (20, has_more) == (len(invalid.field_errors), "more than the 20" in str(invalid))
