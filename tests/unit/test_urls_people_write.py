"""Frequent spellings of URLs: accepted if RFC 3986 allows them, else refused with a suggestion."""

import re
from ipaddress import ip_network

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from service.app.policies import judge_of
from service.callbacks.declaration import Callback
from service.callbacks.exchange import Exchange, Message
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.url import MAX_CHARACTERS, parse_url
from service.delivery.egress import EgressPolicy
from service.delivery.sender import OutgoingRequest, Sender
from service.errors import EvaluationError
from service.settings import Settings

HOST_253 = ".".join(["a" * 63] * 3 + ["a" * 61])


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("https://www.example.com:443", "https://www.example.com./x"),
        ("https://www.example.com:8443", "https://WWW.Example.COM.:8443"),
        ("http://example.com:80", "http://example.com:/"),
        ("http://example.com:80", "http://example.com:"),
        ("https://example.com:443", "https://example.com.:?x"),
        ("http://[2001:db8::1]:80", "http://[2001:db8::1]:/x"),
        ("http://192.0.2.1:80", "http://192.0.2.1:/"),
        (f"http://{HOST_253}:80", f"http://{HOST_253}."),
    ],
)
def test_other_spellings_have_the_same_origin(origin, text):
    """The text is kept byte for byte, and every spelling has the same origin."""
    assert (origin, text) == (parse_url(text).origin, parse_url(text).text)


@pytest.mark.parametrize(
    "text",
    ["http://h..", "http://.", "http://..", "http://127.0.0.1.", "http://0x7f.1.", "http://2.:80"],
)
def test_a_trailing_dot_does_not_hide_an_invalid_host(text):
    """An address with a trailing dot, or a name without labels, is refused."""
    with pytest.raises(ValueError, match="host"):
        parse_url(text)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("http://xn--bcher-kva.example/", "http://bücher.example/"),
        ("http://xn--bcher-kva.example/", "http://BÜCHER.example/"),
        ("https://xn--strae-oqa.example:8443/a", "https://straße.example:8443/a"),
        ("http://xn--e1afmkfd.xn--p1ai/%D0%BF%D1%83", "http://пример.рф/пу"),
        ("http://xn--wgv71a.example", "http://日本.example"),
        ("http://h.example/%7Bid%7D?a=%22", 'http://h.example/{id}?a="'),
        ("http://h.example/a%20b%20", "http://h.example/a b "),
        ("http://h.example/%C3%A9%20", "http://h.example/é%20"),
    ],
)
def test_the_message_suggests_a_valid_url(expected, text):
    """The suggested URL is accepted."""
    with pytest.raises(ValueError, match="as its character") as refusal:
        parse_url(text)

    assert str(refusal.value).endswith(f"; write {expected} instead")
    assert expected == parse_url(expected).text


@pytest.mark.parametrize(
    "text",
    [
        "http://①②⑦.0.0.1/",
        "http://12。0。0。1/",
        "http://ｈ.example/",
        "http://h.example:８０/",
        "http://\u200bh.example/",
        "http://" + "é" * 300,
        "http://h.example/" + "é" * 7000,
        "http://ü@h.example/",
        "http://h.example/é#x",
        "http://h.example/é%zz",
        "http://h.example/\ud800",
        *(f"http://a{character}b/é" for character in '\x00\x01\t\n\r "<\\^`{\x7f'),
        *(f"http://a/{character}" for character in "\x00\x01\t\n\r\x7f\x80\x9f"),
    ],
)
def test_an_uncertain_url_is_not_suggested(text):
    """If the host is uncertain, or the result is invalid, the message has no suggestion."""
    with pytest.raises(ValueError, match="as its character") as refusal:
        parse_url(text)

    assert "; write " not in str(refusal.value)


@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_every_suggestion_is_a_url(host, path):
    """Every suggestion in a message is a valid URL."""
    try:
        parse_url(f"http://{host}/{path}")
    except ValueError as refusal:
        for suggestion in re.findall(r"; write (http.*) instead$", str(refusal)):
            assert suggestion == parse_url(suggestion).text


def url_of(callback, callback_url, id_):
    """The URL of *callback* for a request with these values."""
    request = Message(query={"callback_url": callback_url}, body={"id": id_})
    return callback.url_for(Exchange("", "POST", request))


def test_the_longest_id_and_callback_url_are_valid_together():
    """The longest id and the longest callback URL give a valid URL."""
    url = url_of(INVOICE_NOTIFICATION, "https://h.example/" + "a" * 2030, "🧾" * 200)

    assert MAX_CHARACTERS > len(url.text) == 2048 + len("/invoices/") + 200 * len("%F0%9F%A7%BE")


@pytest.mark.parametrize(
    ("expression", "length", "callback_url", "id_"),
    [
        ("$request.body#/id", 7800, "https://h.example", "🧾" * 650),
        ("$request.query.callback_url", 5018, "https://h.example/" + "a" * 5000, "b" * 4000),
    ],
)
def test_the_longest_value_of_a_long_url_is_named(expression, length, callback_url, id_):
    """The message for a URL that is too long names its longest value, and the encoded length."""
    template = "{$request.query.callback_url}/" + "a" * 300 + "/{$request.body#/id}"
    callback = Callback(
        name="long",
        expression=template,
        method="post",
        request=INVOICE_NOTIFICATION.request,
        response=INVOICE_NOTIFICATION.response,
        summary="",
        description="",
    )
    with pytest.raises(EvaluationError) as refusal:
        url_of(callback, callback_url, id_)

    assert expression == refusal.value.expression
    assert f"takes {length} characters" in refusal.value.reason
    assert f"longer than {MAX_CHARACTERS}" in refusal.value.reason


@pytest.mark.parametrize("host", ["db01", "vault", "localhost", "VAULT."])
def test_a_name_without_a_dot_is_refused(host):
    """No such name is one of the internet; in development mode it may be a container."""
    url = parse_url(f"https://{host}/x")

    assert "must have a complete host name" in judge_of(Settings())(url)
    assert judge_of(Settings(), is_development=True)(url) is None
    assert judge_of(Settings())(parse_url("https://[2606:4700::1111]/x")) is None


@pytest.mark.parametrize("spelling", ["receiver.example.:{port}/x", "receiver.example:{port}/x"])
async def test_a_trailing_dot_reaches_the_same_receiver(aiohttp_server, spelling):
    """A name with a trailing dot is resolved as it was sent, and reaches the receiver."""
    asked, hosts = [], []

    async def answer(request):
        hosts.append(request.headers["Host"])
        return web.json_response({"ok": True})

    def look_up(host):
        asked.append(host)
        return ["127.0.0.1"]

    app = web.Application()
    app.router.add_post("/x", answer)
    server = await aiohttp_server(app)
    url = parse_url("http://" + spelling.format(port=server.port))
    policy = EgressPolicy((ip_network("127.0.0.0/8"),))
    async with Sender(policy, timeout_seconds=5, lookup=look_up) as sender:
        found = await sender.send(OutgoingRequest(url.text, "POST", {}, b"{}"))

    assert 200 == found.status_code
    assert [f"receiver.example:{server.port}"] == hosts
    assert [spelling.partition(":")[0]] == asked
