"""What a listener answers for its local server, as the answer of a receiver."""

from base64 import b64decode
from collections.abc import Mapping

import orjson

from service.delivery.connection import ANSWER_LIMIT
from service.delivery.failures import NoAnswer
from service.delivery.sender import Answer, told_head
from service.domain.listening import ListenerFailure
from service.domain.outcomes import AttemptOutcome

FAILURES: Mapping[ListenerFailure, tuple[AttemptOutcome, str]] = {
    ListenerFailure.UNREACHABLE: (
        AttemptOutcome.UNREACHABLE,
        "the listener could not connect to the local server, or lost the connection",
    ),
    ListenerFailure.TIMEOUT: (
        AttemptOutcome.TIMEOUT,
        "the local server of the listener gave no complete answer in time",
    ),
    ListenerFailure.MALFORMED: (
        AttemptOutcome.MALFORMED,
        "the answer of the local server is not valid HTTP",
    ),
    ListenerFailure.TOO_LONG: (
        AttemptOutcome.MALFORMED,
        "the answer of the local server is longer than a listener passes on",
    ),
}
"""The outcome and the detail of each failure of a local server."""

NOT_ANSWERED = "the listener took the request, and gave no answer within {seconds:g} s"


def read_answer(content: bytes) -> Answer | NoAnswer:
    """The answer of *content*: JSON that the schema of the API has validated."""
    given = orjson.loads(content)
    if given.get("failure"):
        return NoAnswer(*FAILURES[ListenerFailure(given["failure"])])
    status_code, body = given["status"], b64decode(given["body_base64"])
    headers = {name.lower(): text for name, text in given["headers"].items()}
    return Answer(
        status_code,
        headers.get("retry-after"),
        body[:ANSWER_LIMIT],
        len(body) > ANSWER_LIMIT,
        headers.get("location") if status_code // 100 == 3 else None,
        headers.get("content-encoding"),
        told_head([(name.encode(), text.encode()) for name, text in given["headers"].items()]),
    )


def no_answer_within(seconds: float) -> NoAnswer:
    """The result of a request that the listener has received and not answered."""
    return NoAnswer(AttemptOutcome.TIMEOUT, NOT_ANSWERED.format(seconds=seconds))
