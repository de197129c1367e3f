"""Answer rules: every status has exactly one meaning, and the first rule that matches gives it."""

from __future__ import annotations

import pytest

from service.callbacks.answers import (
    FINAL_STATUSES,
    STANDARD_ANSWERS,
    AnswerRule,
    Meaning,
    rules_by_status,
)
from service.errors import DeclarationError

ALL_FAIL = tuple(AnswerRule(f"{digit}XX", Meaning.RETRY, "") for digit in "2345")
CREATED = AnswerRule("201", Meaning.DELIVERED, "")


def test_standard_answers_give_every_status_a_meaning():
    """2XX means delivered, 410 dead; every other status is retried and respects Retry-After."""
    table = rules_by_status(STANDARD_ANSWERS)
    meanings = {code: rule.meaning for code, rule in table.items()}

    assert set(FINAL_STATUSES) == set(meanings)
    assert set(range(200, 300)) == {
        code for code, one in meanings.items() if one is Meaning.DELIVERED
    }
    assert {410} == {code for code, one in meanings.items() if one is Meaning.DEAD}
    assert {Meaning.HOLD} == {meanings[code] for code in range(300, 600) if code != 410}


def test_the_first_rule_that_matches_applies():
    """A rule for one status before the rule for its class is an exception."""
    table = rules_by_status((CREATED, *ALL_FAIL))

    assert [Meaning.RETRY, Meaning.DELIVERED, Meaning.RETRY] == [
        table[code].meaning for code in (200, 201, 202)
    ]


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        ("The rule of 201 never applies", (*STANDARD_ANSWERS, CREATED)),
        ("The rule of 2XX never applies", (*STANDARD_ANSWERS, ALL_FAIL[0])),
        ("The status 404 matches no rule", None),
        ("The status 500 matches no rule", STANDARD_ANSWERS[:-1]),
        ("The status 200 matches no rule. No answer means delivered.", ()),
        ("No answer means delivered", ALL_FAIL),
    ],
)
def test_rules_with_gaps_and_contradictions_are_refused(expected, rules):
    """A table with gaps or contradictions raises an error."""
    if rules is None:
        most = (AnswerRule(f"{code}", Meaning.HOLD, "") for code in range(400, 500) if code != 404)
        rules = (*STANDARD_ANSWERS[:2], *most, STANDARD_ANSWERS[-1])
    with pytest.raises(DeclarationError) as refusal:
        rules_by_status(rules)

    assert expected in str(refusal.value)


@pytest.mark.parametrize(
    "statuses", ["", "2xx", "20X", "100", "1XX", "600", "4XXX", "٤٠٠", "default"]
)
def test_statuses_are_written_as_in_openapi(statuses):
    """A rule is for one final status or for a class such as 4XX."""
    with pytest.raises(DeclarationError, match="neither a status"):
        AnswerRule(statuses, Meaning.RETRY, "")
