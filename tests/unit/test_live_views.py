"""Tests of what live pages of one URL share."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import orjson
import pytest

from service.pages.console.live_views import SAME, LiveView, without_same_rows
from tests.clock import START, ManualClock

PAUSE = timedelta(seconds=1)


class Shown:
    """What a view reads: its parts and its announcement, and how often it was asked."""

    def __init__(self):
        self.parts = {"live_list": row("1"), "live_why": "because"}
        self.announcement = "1 delivery."
        self.count = 0

    async def __call__(self):
        """What there is now."""
        self.count += 1
        await asyncio.sleep(0)
        return dict(self.parts), self.announcement


def row(id_, text="pending"):
    """A row of a list."""
    return f'<tr id="row-{id_}">\n<td>{text}</td>\n</tr>\n'


def events_of(content):
    """The events in *content*: name and data of each."""
    fields = [event.split("\n") for event in content.decode().split("\n\n") if event]
    return [
        (name.removeprefix("event: "), orjson.loads(data.removeprefix("data: ")))
        for name, data in fields
    ]


@pytest.fixture
def clock():
    """The clock of the views."""
    return ManualClock(START)


@pytest.fixture
def shown():
    """What the view reads."""
    return Shown()


@pytest.fixture
def view(shown, clock):
    """A view that nobody has looked at yet."""
    return LiveView(shown, clock)


async def test_pages_that_show_the_same_share_a_read(view, shown, clock):
    """However many pages ask within the pause, one of them reads."""
    await asyncio.gather(*(view.refresh(PAUSE) for _ in range(8)))
    assert 1 == shown.count

    clock.advance(PAUSE)
    await asyncio.gather(*(view.refresh(PAUSE) for _ in range(8)))

    assert 2 == shown.count
    assert 1 == view.version


async def test_a_failed_read_is_not_repeated_by_the_other_pages(clock):
    """What cannot be read is asked for again after the pause."""
    tries = []

    async def fail():
        tries.append(1)
        raise ValueError

    view = LiveView(fail, clock)
    with pytest.raises(ValueError):
        await view.refresh(PAUSE)
    await view.refresh(PAUSE)

    assert [1] == tries
    assert b"" == view.since(0)


async def test_a_page_that_begins_gets_every_part(view):
    """Nothing is said of it, because it stands on the page."""
    await view.refresh(PAUSE)

    parts = [
        ("part", {"name": "live_list", "html": row("1")}),
        ("part", {"name": "live_why", "html": "because"}),
    ]
    assert parts == events_of(view.since(0))
    assert b"" == view.since(1)


async def test_a_page_that_follows_gets_the_rows_that_differ(view, shown, clock):
    """Other parts are not sent, and a row that it has is its id alone."""
    shown.parts["live_list"] = row("1") + row("2")
    await view.refresh(PAUSE)
    clock.advance(PAUSE)
    shown.parts["live_list"] = row("3") + row("1") + row("2", "delivered")
    shown.announcement = "3 deliveries."

    await view.refresh(PAUSE)

    html = row("3") + SAME.format("row-1") + "\n" + row("2", "delivered")
    expected = [("part", {"name": "live_list", "html": html}), ("say", "3 deliveries.")]
    assert expected == events_of(view.since(1))


async def test_a_page_that_missed_a_change_gets_every_part(view, shown, clock):
    """A page that was not written to in time is not sent rows that it does not have."""
    await view.refresh(PAUSE)
    for number in (2, 3):
        clock.advance(PAUSE)
        shown.parts["live_list"] = row(str(number))
        await view.refresh(PAUSE)

    events = events_of(view.since(1))

    assert 3 == view.version
    assert ("part", {"name": "live_list", "html": row("3")}) == events[0]
    assert ("say", "1 delivery.") == events[-1]


def test_a_text_that_looks_like_a_row_is_no_row():
    """Texts of others are escaped, so that no part of a page is taken for a row."""
    text = "&lt;tr id=&#34;row-1&#34;&gt;&lt;/tr&gt;"

    assert text == without_same_rows(text, text)
