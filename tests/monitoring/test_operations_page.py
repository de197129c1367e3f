import re

import pytest


@pytest.fixture(scope="session")
def page(folder):
    """The operations page."""
    return (folder.parent / "operations.md").read_text(encoding="utf-8")


def test_the_page_explains_every_metric(page, exposed):
    """The operations page has a row for each metric, with its meaning and the action."""
    named = set(re.findall(r"^\| `(invoices_\w+)` \|", page, re.MULTILINE))
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in exposed
        if name.startswith("invoices_")
    }

    assert named == ours


def test_metrics_that_the_page_mentions_exist(page, exposed):
    """Every process or garbage collector metric on the page is exposed."""
    mentioned = set(re.findall(r"`((?:process|python)_[a-z_]+[a-z])`", page))

    assert mentioned
    assert set() == mentioned - exposed


def test_the_page_names_every_file(page, folder):
    """Every file of the folder is named on the page."""
    assert [] == [path.name for path in folder.iterdir() if f"monitoring/{path.name}" not in page]
