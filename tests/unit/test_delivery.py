import pytest

from service.domain.delivery import Delivered, Retry
from service.domain.outcomes import AttemptOutcome
from tests.rows import SECOND, a_delivery, a_step, an_attempt, an_event, an_invoice

LEASED = a_delivery(a_step(an_invoice(), event=an_event()))


@pytest.mark.parametrize(
    ("expected", "outcome", "status_code"),
    [
        (True, AttemptOutcome.DELIVERED, 200),
        (True, AttemptOutcome.INVALID_ANSWER, 200),
        (True, AttemptOutcome.REFUSED, 302),
        (True, AttemptOutcome.REFUSED, 404),
        (True, AttemptOutcome.REFUSED, 410),
        (False, AttemptOutcome.REFUSED, 429),
        (False, AttemptOutcome.REFUSED, 500),
        (False, AttemptOutcome.REFUSED, 503),
        (False, AttemptOutcome.UNREACHABLE, None),
        (False, AttemptOutcome.TIMEOUT, None),
        (False, AttemptOutcome.TIMEOUT, 200),
        (False, AttemptOutcome.MALFORMED, None),
        (True, AttemptOutcome.BLOCKED, None),
        (True, AttemptOutcome.LOST, None),
    ],
)
def test_an_attempt_counts_as_answered_unless_the_receiver_failed(expected, outcome, status_code):
    """Failures to connect, timeouts, invalid HTTP, 429 and 5xx do not count as answered."""
    attempt = an_attempt(LEASED, outcome, Retry(SECOND), status_code=status_code)

    assert expected is attempt.is_receiver_available


def test_an_attempt_has_the_next_number():
    """Attempts of a delivery are numbered from 1."""
    assert 1 == an_attempt(LEASED, AttemptOutcome.DELIVERED, Delivered()).number
