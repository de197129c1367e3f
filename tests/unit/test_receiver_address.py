"""The expression of a callback, turned round to where a receiver listens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.callbacks.exchange import Exchange, Message
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.errors import DeclarationError
from service.receiver.address import address_of


def turned(expression, **below):
    """The address for a callback with *expression*."""
    return address_of(replace(INVOICE_NOTIFICATION, expression=expression), **below)


def test_invoice_callback_is_a_path_below_the_callback_url():
    """The receiver of invoices listens at one path below the URL that it gave."""
    address = address_of(INVOICE_NOTIFICATION)

    assert ("{callback_url}", "/invoices/{id}", "") == (
        address.server,
        address.path,
        address.base_end,
    )
    assert ["id"] == [one.name for one in address.path_variables]


@pytest.mark.parametrize(
    ("server", "path", "base_end", "expression"),
    [
        ("{url}", "/", "/", "{$request.query.url}"),
        ("{url}", "/", "/", "$request.query.url"),
        ("{url}", "/", "", "{$request.query.url}/"),
        ("{url}", "/{id}", "/", "{$request.query.url}{$request.body#/id}"),
        ("{url}", "/hook/{id}", "/", "{$request.query.url}hook/{$request.body#/id}"),
        ("{url}", "/{id}/", "", "{$request.query.url}/{$request.body#/id}/"),
        ("{x-hook}", "/a", "", "{$request.header.X-Hook}/a"),
        ("{notify}", "/{number}", "", "{$request.body#/to/notify}/{$request.path.number}"),
        ("{url}", "/{method}", "", "{$url}/{$method}"),
        ("https://a.example", "/hook", "", "https://a.example/hook"),
        ("https://a.example", "/", "", "https://a.example"),
        ("https://{host}", "/a/{id}", "", "https://{$request.query.host}/a/{$request.body#/id}"),
        ("https://{host}:{port}", "/", "", "https://{$request.query.host}:{$request.query.port}"),
        ("https://{id}.a.example", "/x", "", "https://{$request.body#/id}.a.example/x"),
        (
            "{url}",
            "/{id}.{path}",
            "",
            "{$request.query.url}/{$request.body#/id}.{$request.path.path}",
        ),
        ("{url}", "/{id_id}", "", "{$request.query.url}/{$request.body#/id}{$request.path.id}"),
        (
            "{url}",
            "/{id}/{id_2}",
            "",
            "{$request.query.url}/{$request.body#/id}/{$request.path.id}",
        ),
        (
            "{url}",
            "/{Id}/{id_2}",
            "",
            "{$request.query.url}/{$request.body#/Id}/{$request.path.id}",
        ),
        ("{url}", "/{items_0}", "", "{$request.query.url}/{$request.body#/items/0}"),
        ("{url}", "/{a_b}", "", "{$request.query.url}/{$request.body#/a~1b}"),
        ("{url}", "/{value}", "", "{$request.query.url}/{$request.body#/}"),
        ("{url}", "/{value_0}", "", "{$request.query.url}/{$request.body#/0}"),
        ("{url}", "/{body}", "", "{$request.query.url}/{$request.body}"),
        ("{url}", "/{value}/a", "", "{$request.query.url}/{$request.query.日本}/a"),
        ("{url}", "/{webhook-id_2}", "", "{$request.query.url}/{$request.header.webhook-id}"),
    ],
)
def test_templates_are_turned_round(server, path, base_end, expression):
    """What a URL begins with is the server; what follows is a path with parameters."""
    address = turned(expression)

    assert (server, path, base_end) == (address.server, address.path, address.base_end)


@pytest.mark.parametrize(
    ("path", "query", "rest"),
    [
        ("/a", {"id": 1}, "/a?id={$request.body#/id}"),
        ("/", {"id": 1, "x": 1}, "?id={$request.body#/id}&x=1"),
        ("/a", {"x": 1, "flag": 1}, "/a?x=a-{$request.body#/id}&flag"),
        ("/a", {"id": 2}, "/a?id={$request.body#/id}&id={$request.body#/customer}"),
        ("/a", {"a b": 1}, "/a?a%20b=1&&"),
        ("/{id}", {}, "/{$request.body#/id}?"),
    ],
)
def test_a_query_becomes_parameters(path, query, rest):
    """Each name of the query is one parameter, with all values that it is sent with."""
    address = turned("{$request.query.url}" + rest)

    assert path == address.path
    assert query == {one.name: len(one.values) for one in address.query}


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        ("never makes a URL that is called: the URL is empty", ""),
        ("is not known when the URL is made", "{$request.query.url}/{$statusCode}"),
        ("is not known when the URL is made", "{$request.query.url}/{$response.body#/id}"),
        ("$method is never the beginning of a URL", "{$method}/a"),
        ("fragment", "{$request.query.url}/a#{$request.body#/id}"),
        ("write http://x/a%20b instead", "{$request.query.url}/a b"),
        ("must begin with http:// or https://", "ftp://a.example/{$request.body#/id}"),
        ("must begin with http:// or https://", "/invoices/{$request.body#/id}"),
        ("user name or password", "https://{$request.query.name}@a.example/"),
        ("has no literal name before a =", "{$request.query.url}/a?{$request.body#/id}"),
        ("has no literal name before a =", "{$request.query.url}/a?{$request.body#/id}=1"),
    ],
)
def test_what_cannot_be_turned_round_is_explained(words, expression):
    """An expression that makes no URL, or none that a document can describe, is an error."""
    with pytest.raises(DeclarationError, match="Callback invoice_notification: ") as refused:
        turned(expression)

    assert words in str(refused.value)


@pytest.mark.parametrize(
    "expression",
    [
        "{$request.query.url}/invoices/{$request.body#/id}",
        "{$request.query.url}",
        "{$request.query.url}{$request.body#/id}",
        "{$request.query.url}x/{$request.body#/id}",
        "{$request.query.url}?id={$request.body#/id}",
    ],
)
@pytest.mark.parametrize("below", ["", "/first"])
def test_a_receiver_at_the_address_is_called(expression, below):
    """Whoever listens at server and path, and gives the server with its end, is called there."""
    callback = replace(INVOICE_NOTIFICATION, expression=expression)
    address = address_of(callback, below)
    message = Message(query={"url": f"http://h:9{address.base_end}"}, body={"id": "1"})
    called = callback.url_for(Exchange("https://a.example/", "POST", message)).text

    query = "?id=1" if address.query else ""
    assert called == f"http://h:9{address.path.replace('{id}', '1')}{query}"
