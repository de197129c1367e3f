"""What a person means who asks about an id or a URL."""

from __future__ import annotations

import pytest

from service.domain.subjects import is_url, subjects_of


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ([], ""),
        ([], " \n"),
        (["msg_1"], " msg_1\n"),
        (['"msg_1"', "msg_1"], '"msg_1"'),
        (["(a)", "a"], "(a)"),
        (["webhook-id: msg_1", "msg_1"], "webhook-id: msg_1"),
        (['"Webhook-Id": "msg_1",', "msg_1"], '"Webhook-Id": "msg_1",'),
        (["https://a.example/x"], "<https://a.example/x>"),
        (["https://a.example/x"], '"https://a.example/x",'),
        (["https://a.example/x"], 'https://a.example/x"'),
        (["https://a.example/(x)"], " https://a.example/(x) "),
        (["HTTP://a"], "HTTP://a"),
        (['""'], '""'),
    ],
)
def test_what_was_copied_around_an_id_or_a_url_is_left_out(expected, text):
    """An id as it was typed is looked for first, because it may have any characters."""
    assert expected == subjects_of(text)


def test_a_url_is_known_by_its_scheme():
    """Its case does not matter; an id that only begins in a similar way is none."""
    assert is_url("HTTPS://a") and is_url("http://a")
    assert not is_url("httpbin")
