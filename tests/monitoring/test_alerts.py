import re

import pytest

from tests.monitoring.promtool import promtool

IMPORTANT = {
    *("InvoicesDown", "InvoicesStorageAway", "InvoicesStandStill", "InvoicesDeliveriesLate"),
    *("InvoicesDeliveriesDead", "InvoicesAttemptsFailing", "InvoicesAttemptsLost"),
    *("InvoicesSlow", "InvoicesErrors", "InvoicesSlotsFull"),
    *("InvoicesAccountBusy", "InvoicesAccountRefused"),
    *("InvoicesMailPaused", "InvoicesMailsLate", "InvoicesMailsRejected"),
}


@pytest.mark.promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "docs/monitoring/alerts.yaml"),
        ("check", "config", "docs/monitoring/prometheus.yaml"),
        ("test", "rules", "tests/monitoring/alerts_test.yaml"),
    ],
    ids=["rules", "configuration", "unit tests"],
)
def test_prometheus_accepts_the_rules_and_the_configuration(arguments, folder):
    """Promtool accepts the rules and the example, and the unit tests of the rules pass."""
    *what, path = arguments

    is_content, said = promtool(*what, str(folder.parents[1] / path))

    assert is_content, said


def test_an_alert_has_a_severity_and_instructions(rules):
    """Each alert states the problem, the first action, and the page with more."""
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert {"summary", "description", "runbook"} == set(rule["annotations"]), rule["alert"]
        assert rule["annotations"]["description"].endswith("."), rule["alert"]


def test_a_critical_alert_waits_before_it_fires(rules):
    """A failed scrape or a restart fires no critical alert."""
    assert [] == [
        rule["alert"]
        for rule in rules
        if rule["labels"]["severity"] == "critical" and "for" not in rule
    ]


def test_every_runbook_link_has_its_section(rules, folder):
    """The page and the heading that an alert names exist."""
    for rule in rules:
        path, _, heading = rule["annotations"]["runbook"].partition("#")
        text = (folder.parents[1] / path).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)

        assert heading in {
            re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles
        }, rule["alert"]


def test_alert_names_are_unique_and_complete(rules):
    """Every alert has its own name, and no important alert is missing."""
    names = [rule["alert"] for rule in rules]

    assert len(names) == len(set(names))
    assert set() == IMPORTANT - set(names)


def test_alerts_use_exposed_metrics(rules, exposed):
    """Every metric that an alert uses exists; otherwise the alert would never fire."""
    named = {name for rule in rules for name in re.findall(r"\binvoices_\w+", rule["expr"])}

    assert len(named) > 10
    assert set() == named - exposed
