"""
What people read in place of a problem document, for errors that happen before a page is asked.

A browser shows what it is answered. So below the paths of pages each error is a page in words, with
the same status and headers; programs that use the API never ask there.
"""

from collections.abc import Mapping
from http import HTTPStatus

NOTHING_DONE = "Nothing was done."

WORDS: Mapping[int, tuple[str, str]] = {
    400: ("This cannot be read", f"What was sent is no request of a browser. {NOTHING_DONE}"),
    404: ("Not found", "There is no such page."),
    405: (
        "Not in this way",
        "There is no page at this address that can be used in this way. Open it as a link, or use "
        f"the buttons of the page. {NOTHING_DONE}",
    ),
    408: (
        "It took too long",
        f"What was sent did not arrive in time. {NOTHING_DONE} Please try again.",
    ),
    413: ("Too much was sent", f"What was sent is larger than a page takes. {NOTHING_DONE}"),
    415: ("This cannot be read", f"What was sent is compressed. {NOTHING_DONE}"),
    417: ("This cannot be done", f"The request expects what is not supported. {NOTHING_DONE}"),
    421: (
        "Not under this name",
        "The service does not answer for the name in the address of this page: a page of another "
        f"site could have led here. {NOTHING_DONE}",
    ),
    500: (
        "Something is wrong",
        "The service has failed, and the operator can see it in the log. Please try again later.",
    ),
    503: ("One moment", "The service does not answer at the moment. Please try again soon."),
}
"""Title and words of each status."""


def words_of(status: int) -> tuple[str, str]:
    """Title and words of a page for an error with *status*."""
    return WORDS.get(status) or (HTTPStatus(status).phrase, f"This is not possible. {NOTHING_DONE}")
