"""The heads of messages that are written without a library."""

import pytest

from service.heads import encoded_head


def test_a_head_ends_with_an_empty_line():
    """Each line has its end, and an empty line is the last one."""
    assert b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" == encoded_head(["GET / HTTP/1.1", "Host: a"])


@pytest.mark.parametrize("text", ["a\r\nB: c", "a\rb", "a\nb", "a\0", "\r\n"])
def test_a_line_cannot_be_broken(text):
    """A value that would add a header, or end the message, is not written."""
    with pytest.raises(ValueError, match="header injection"):
        encoded_head(["GET / HTTP/1.1", f"Host: {text}"])
