import re

import pytest

from tests.monitoring.promtool import promtool

IMPORTANT = {
    *("InvoicesDown", "InvoicesStorageAway", "InvoicesStandStill", "InvoicesDeliveriesLate"),
    *("InvoicesDeliveriesDead", "InvoicesAttemptsFailing", "InvoicesAttemptsLost"),
    *("InvoicesSlow", "InvoicesErrors", "InvoicesSlotsFull"),
}


@pytest.mark.promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "docs/monitoring/alerts.yaml"),
        ("check", "config", "docs/monitoring/prometheus.yaml"),
        ("test", "rules", "tests/monitoring/alerts_test.yaml"),
    ],
    ids=["rules", "configuration", "what they say"],
)
def test_prometheus_takes_them(arguments, folder):
    """Rules and example are read by Prometheus, and the rules say what they should."""
    *what, path = arguments

    is_content, said = promtool(*what, str(folder.parents[1] / path))

    assert is_content, said


def test_an_alert_says_how_bad_it_is_and_what_to_do(rules):
    """A person who is woken reads what is wrong, what to do first, and where more is written."""
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert {"summary", "description", "runbook"} == set(rule["annotations"]), rule["alert"]
        assert rule["annotations"]["description"].endswith("."), rule["alert"]


def test_a_critical_alert_waits_before_it_fires(rules):
    """A scrape that failed once, or a restart, wakes no person at night."""
    assert [] == [
        rule["alert"]
        for rule in rules
        if rule["labels"]["severity"] == "critical" and "for" not in rule
    ]


def test_runbooks_lead_to_a_section(rules, folder):
    """The page that an alert names has the heading that it names."""
    for rule in rules:
        path, _, heading = rule["annotations"]["runbook"].partition("#")
        text = (folder.parents[1] / path).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)

        assert heading in {
            re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles
        }, rule["alert"]


def test_every_alert_has_a_name_of_its_own_and_the_important_ones_are_there(rules):
    """No alert that should wake a person is missing."""
    names = [rule["alert"] for rule in rules]

    assert len(names) == len(set(names))
    assert set() == IMPORTANT - set(names)


def test_what_alerts_name_is_exposed(rules, exposed):
    """An alert on a metric that does not exist would be silent for ever."""
    named = {name for rule in rules for name in re.findall(r"\binvoices_\w+", rule["expr"])}

    assert len(named) > 10
    assert set() == named - exposed
