"""How texts, instants, shares and requests look in the console."""

from __future__ import annotations

import shlex
from datetime import timedelta

import pytest
from aiohttp.test_utils import make_mocked_request
from markupsafe import Markup

from service.pages.console.curl import PLACEHOLDER, curl_of
from service.pages.console.origins import is_of_this_site
from service.pages.console.texts import (
    block,
    duration,
    instant,
    machine_instant,
    percent,
    sentence,
    state,
    time_element,
    visible,
    words,
)
from service.pages.console.visits import url_below
from tests.clock import START


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zürich 東京 🎉", "Zürich 東京 🎉"),
        ("a\u202eb", "a\u2039U+202E\u203ab"),
        ("\x00\t\n\x1b", "\u2400\u2409\u240a\u241b"),
        ("\x7f\x85", "\u2421\u2039U+0085\u203a"),
        ("\ud800", "\u2039U+D800\u203a"),
        ("\U000e0041\u2066\u2028", "\u2039U+E0041\u203a\u2039U+2066\u203a\u2039U+2028\u203a"),
        ("a\u00a0b\u3000c", "a\u00a0b c"),
        ("", ""),
    ],
)
def test_what_is_not_seen_is_shown(text, shown):
    """A character that is not seen has a name; what people write stays as it is."""
    assert shown == visible(text)


@pytest.mark.parametrize("value", [1, None, Markup("a\n<b>"), START])
def test_other_values_stay_as_they_are(value):
    """Only texts are changed, and not our own markup."""
    assert value is visible(value)


def test_a_text_on_several_lines_keeps_them():
    """Line breaks and tabs stay; what is markup is escaped."""
    assert "a\nb\tc\u241b &lt;b&gt;" == str(block("a\r\nb\tc\x1b <b>"))
    assert "&lt;b&gt;" == str(block("<b>"))


def test_instants_are_in_utc():
    """People read seconds, programs read milliseconds."""
    assert "2026-01-31 12:00:00" == instant(START)
    assert "2026-01-31T12:00:00.000Z" == machine_instant(START)
    assert "" == instant(None)


def test_an_instant_is_an_element_that_does_not_end_a_line_in_its_date():
    """The day and the time may stand below each other; where there is none, another text stands."""
    expected = '<time datetime="2026-01-31T12:00:00.000Z"><span>2026-01-31</span> 12:00:00</time>'
    assert expected == str(time_element(START))
    assert "&lt;never&gt;" == str(time_element(None, "<never>"))


def test_a_state_is_only_text():
    """Its name is escaped in the class and in the words."""
    assert '<span class="state dead">not due</span>' == str(state("not_due", "dead"))
    assert "<b>" not in str(state('"><b>'))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (3601, "1 h"),
        (90000, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_a_duration_has_two_units(seconds, shown):
    """The largest two units that follow each other."""
    assert shown == duration(timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1, "100 %"), (0.99999, "99.9 %"), (0.5, "50 %"), (0.123, "12.3 %"), (0, "0 %")],
)
def test_a_share_is_not_rounded_to_all(share, shown):
    """Only what is complete is 100 %."""
    assert shown == percent(share)


def test_names_and_details_are_words():
    """Names of ours are read without underscores, details begin with a capital."""
    assert "invalid answer" == words("invalid_answer")
    assert "The receiver answered 500." == sentence("the receiver answered 500")


def test_a_url_keeps_every_character_apart():
    """Parts of a path and values of a query are escaped; what is empty is left out."""
    assert "/console/" == url_below("/console")
    assert "/console/invoices/a%2Fb%3F" == url_below("/console", "invoices", "a/b?")
    assert "/console/x?q=a%26b" == url_below("/console", "x", q="a&b", after=None, status="")


def test_a_request_is_a_command():
    """The command has the method, the headers without those of curl, and the exact body."""
    headers = {"Host": "a", "webhook-id": "msg_1", "Content-Length": "9", "x": "it's $HOME `x`"}
    command = curl_of("POST", "https://a.example/?a=b&c", headers, b'{"a": "\xc3\xbc\'"}')

    parts = shlex.split(command.replace("\\\n", " "))

    assert ["curl", "-i", "-X", "POST", "https://a.example/?a=b&c"] == parts[:5]
    assert [
        "webhook-id: msg_1",
        "x: it's $HOME `x`",
        f"webhook-signature: {PLACEHOLDER}",
    ] == parts[6:11:2]
    assert ["--data-binary", '{"a": "ü\'"}'] == parts[-2:]


OWN = "https://example.com/billing"


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://example.com"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://EXAMPLE.com"}, True),
        ({"Referer": "https://example.com/billing/console/"}, True),
        ({"Origin": "https://inner:8080", "Host": "inner:8080"}, True),
        ({"Origin": "http://localhost:8080", "Host": "localhost:8080"}, True),
        ({"Origin": "http://127.0.0.1", "Host": "127.0.0.1"}, True),
        ({"Origin": "http://[::1]:80", "Host": "[::1]:80"}, True),
        ({"Origin": "http://example.com", "Host": "example.com"}, False),
        ({"Origin": "http://inner:8080", "Host": "inner:8080"}, False),
        ({"Origin": "https://example.com:444"}, False),
        ({"Origin": "https://example.com.evil.example"}, False),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://example.com", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "null", "Host": "null"}, False),
        ({"Origin": ""}, False),
        ({"Referer": "https://example.com@evil.example/"}, False),
        ({"Referer": "https://[/"}, False),
        ({}, False),
        ({"Host": ""}, False),
    ],
)
def test_a_form_comes_from_this_place(headers, is_own):
    """Every header that is there must name this place, and one of them must be there."""
    request = make_mocked_request("POST", "/console/sign-in", headers=headers)

    assert is_own is is_of_this_site(request, OWN)
