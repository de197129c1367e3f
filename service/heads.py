"""The head of an HTTP/1.1 message, as text that cannot be broken."""

from collections.abc import Sequence


def encoded_head(lines: Sequence[str]) -> bytes:
    """
    The first line of a message and its headers, with the empty line that ends them.

    Raises:
        ValueError: if one of *lines* has a line break or a NUL: it would add headers, or a message.
    """
    head = "\r\n".join([*lines, "", ""])
    breaks = len(lines) + 1
    if head.count("\r") != breaks or head.count("\n") != breaks or "\0" in head:
        raise ValueError("a header has a line break, or a NUL: header injection")
    return head.encode()
