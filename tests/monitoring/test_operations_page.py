import re

import pytest


@pytest.fixture(scope="session")
def page(folder):
    """What operators read."""
    return (folder.parent / "operations.md").read_text(encoding="utf-8")


def test_every_metric_is_explained(page, exposed):
    """A row of the operations page says what each metric is, and what to do about it."""
    named = set(re.findall(r"^\| `(invoices_\w+)` \|", page, re.MULTILINE))
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in exposed
        if name.startswith("invoices_")
    }

    assert named == ours


def test_metrics_that_the_page_mentions_exist(page, exposed):
    """The page promises no metric of a process or its garbage collector that is not exposed."""
    mentioned = set(re.findall(r"`((?:process|python)_[a-z_]+[a-z])`", page))

    assert mentioned
    assert set() == mentioned - exposed


def test_the_page_names_every_file(page, folder):
    """A reader of the page finds every file."""
    assert [] == [path.name for path in folder.iterdir() if f"monitoring/{path.name}" not in page]
