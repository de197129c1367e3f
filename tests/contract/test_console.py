"""The screens of the console in development mode, in which nobody signs in."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from hashlib import sha256

import pytest

from service.api.application import make_application
from service.domain.attempt_counts import Hour, no_counts
from service.domain.ids import lower_bound
from service.domain.receivers import id_of
from service.domain.states import DeliveryStatus
from service.errors import StorageUnavailable
from service.pages.console import serving, streams
from service.pages.console.rendering import Pages
from service.storage import history
from service.storage.observations import Observation
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    a_receiver,
    add_delivery,
    add_two_events,
    an_attempt,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
)

MARKUP = "<script>alert(1)</script>&<b>"
HIDDEN = "a\u202eb\u200bc\x1bd\x7fe"


def rows_in(page):
    """The ids of the rows of a page."""
    return {one.removeprefix("row-") for one in page.ids if one.startswith("row-")}


@pytest.fixture
async def dead(store):
    """A delivery that is dead."""
    await add_delivery(store, "1")
    await store.settle(failed(await lease_delivery(store), status=DeliveryStatus.DEAD))
    return "msg_1"


# Texts of others


async def test_texts_of_others_are_only_text(browser, store):
    """Markup and scripts in a title, a customer and an answer are shown as they were sent."""
    await add_delivery(store, "2")
    await store.accept(an_invoice("1", title=MARKUP, customer=MARKUP, origin=None))
    leased = await lease_delivery(store)
    await store.settle(
        an_attempt(
            leased,
            failed(leased).outcome,
            failed(leased).decision,
            response_body=MARKUP,
            detail=MARKUP,
        )
    )

    for path in ("/invoices", "/invoices/1", "/deliveries/msg_2"):
        page, answer = await browser.get(path)
        assert MARKUP in page.words, path
        assert 1 == page.elements.count("script"), path
        assert "b" not in page.elements
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


async def test_characters_that_are_not_seen_are_shown(browser, store):
    """What turns a text around, hides in it or controls a terminal has a name instead."""
    await store.accept(an_invoice("1", title=HIDDEN, customer="c", origin=None))

    page, _ = await browser.get("/invoices/1")

    assert "a\u2039U+202E\u203ab\u2039U+200B\u203ac\u241bd\u2421e" in page.words


async def test_what_was_searched_is_only_text(browser):
    """The search repeats what was typed, and nothing of it is markup."""
    page, answer = await browser.get('/?q="><script>alert(1)</script>')

    assert 404 == answer.status
    assert 1 == page.elements.count("script")
    assert '"><script>alert(1)</script>' == page.fields["q"]


@pytest.mark.parametrize(
    "query", ["q=%00", "q=%ED%A0%80", "q=" + "x" * 3000, "q=%FF", "q=a&q=b", "account=x"]
)
async def test_no_query_is_an_error_of_ours(browser, query):
    """Whatever is typed into the address, the answer is a page in words."""
    for path in ("/", "/deliveries", "/invoices", "/deliveries/redeliver", "/overview"):
        page, answer = await browser.get(f"{path}?{query}")
        assert answer.status in {200, 404, 422}, path
        assert "h1" in page.elements


# Search


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("msg_1", "/console/deliveries/msg_1"),
        ("%20msg_1%20", "/console/deliveries/msg_1"),
        ("1", "/console/invoices/1"),
        ("%22msg_1%22", "/console/deliveries/msg_1"),
        ("webhook-id:%20msg_1", "/console/deliveries/msg_1"),
        ("%E2%80%9C1%E2%80%9D", "/console/invoices/1"),
    ],
)
async def test_the_search_leads_to_the_page(browser, dead, text, path):
    """An id of a delivery or an invoice leads to the page that explains it."""
    _, answer = await browser.get(f"/?q={text}")

    assert (303, path) == (answer.status, answer.headers["Location"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://one.example", {"msg_1", "msg_2"}),
        ("https://one.example:443/", {"msg_1", "msg_2"}),
        ("%20%22https://one.example/%22%20", {"msg_1", "msg_2"}),
        ("https://one.example:443/invoices/2", {"msg_2"}),
        ("https://one.example:443/inv", set()),
        ("https://two.example", set()),
        ("https://[", set()),
    ],
)
async def test_a_url_is_explained(browser, store, text, found):
    """The newest deliveries to a URL are listed, each with the reason why it came or not."""
    await add_delivery(store, "1")
    await store.settle(failed(await lease_delivery(store), due_at=START + 100 * SECOND))
    await add_delivery(store, "2", at=START + SECOND)

    page, answer = await browser.get(f"/?q={text}")

    assert (200 if found else 404, found) == (answer.status, rows_in(page))
    if "msg_1" in found:
        assert "it answered 500" in page.words


async def test_an_id_with_any_characters_has_a_page(browser, store):
    """Ids are escaped in every link."""
    id_ = "a/b?c=d&e#f%20 g"
    await store.accept(an_invoice(id_, origin=None))

    page, _ = await browser.get("/invoices")
    (link,) = [one for one in page.links if "a%2Fb" in one]
    found, answer = await browser.get(link.removeprefix("/console"))

    assert 200 == answer.status
    assert f"Invoice {id_}" in found.words


# Deliveries


async def test_filters_stand_in_the_url(browser, store):
    """Each filter narrows the list, is shown in its field, and is part of the next page."""
    # Ids are in the order of time, by which these filters find their rows.
    first, second = (f"msg_{lower_bound(at)}" for at in (START, START + SECOND))
    await add_delivery(store, "1", delivery_id=first)
    await add_delivery(store, "2", delivery_id=second, origin=TWO, at=START + SECOND)

    for query, expected in {
        "": {first, second},
        "status=dead": set(),
        "status=pending&origin=https://two.example": {second},
        "invoice_id=1": {first},
        "since=2026-01-31T12:00:01Z": {second},
        "until=2026-01-31+12:00:01": {first},
        "since=2026-02-01": set(),
    }.items():
        page, answer = await browser.get(f"/deliveries?{query}")
        assert (200, expected) == (answer.status, rows_in(page)), query
    page, _ = await browser.get("/deliveries?origin=https://two.example&until=2026-03-01")
    assert ("https://two.example", "2026-03-01") == (page.fields["origin"], page.fields["until"])
    assert "1 delivery, newest first" in page.words


@pytest.mark.parametrize(
    "query", ["status=x", "origin=x", "origin=ftp://a", "since=x", "until=99999-01-01", "after=x"]
)
async def test_a_filter_that_cannot_be_used_is_said(browser, query):
    """A misspelled filter is a page that names it, not an empty list."""
    page, answer = await browser.get(f"/deliveries?{query}")

    assert 422 == answer.status
    assert query.partition("=")[0] in page.words


async def test_a_list_goes_on_at_the_next_page(browser, store, monkeypatch):
    """A page has 50 rows, and the link to the older ones keeps the filter."""
    for number in range(51):
        await add_delivery(store, f"{number:02}", at=START + number * SECOND)

    page, _ = await browser.get("/deliveries?status=pending")
    (older,) = [one for one in page.links if "after=" in one]
    rest, _ = await browser.get(older.removeprefix("/console"))

    assert 50 == len(rows_in(page))
    assert "51 deliveries" in page.words
    assert "status=pending" in older
    assert {"msg_00"} == rows_in(rest)


async def test_redelivering_says_how_many_first(browser, store, dead):
    """All that match are counted on a page of their own, whose button redelivers them."""
    await add_delivery(store, "2", origin=TWO, at=START + SECOND)
    await store.settle(
        failed(await lease_delivery(store, now=START + SECOND), status=DeliveryStatus.DEAD)
    )
    await add_delivery(store, "3", origin=TWO, at=START + 2 * SECOND)
    await store.cancel("dev", "msg_3", START + 2 * SECOND)
    page, _ = await browser.get("/deliveries?status=dead&origin=https://two.example")
    (confirm,) = [one for one in page.links if "/redeliver" in one]

    page, _ = await browser.get(confirm.removeprefix("/console"))

    assert "1 dead delivery will be pending again" in page.words
    ((method, action),) = page.forms
    _, answer = await browser.post(action.removeprefix("/console"))
    assert (303, "post") == (answer.status, method)
    assert "dead" == (await store.history.find_delivery("dev", "msg_1"))["status"]
    assert "pending" == (await store.history.find_delivery("dev", "msg_2"))["status"]
    page, _ = await browser.get(answer.headers["Location"].removeprefix("/console"))
    assert "1 delivery is pending again" in page.words


async def test_looking_at_the_question_redelivers_nothing(browser, store, dead):
    """Only the button does."""
    await browser.get("/deliveries/redeliver")

    assert "dead" == (await store.history.find_delivery("dev", dead))["status"]


# One delivery


async def test_a_delivery_shows_its_attempts(browser, store):
    """Each attempt has its number, outcome, status and answer, the newest first."""
    await add_delivery(store, "1")
    await store.settle(failed(await lease_delivery(store), due_at=START + SECOND))
    await store.settle(delivered(await lease_delivery(store, now=START + SECOND)))

    page, _ = await browser.get("/deliveries/msg_1")

    assert {"attempt-1", "attempt-2"} <= page.ids
    assert page.words.index("Attempt 2") < page.words.index("Attempt 1")
    assert '{"ok": true}' in page.words
    assert '{"description":"Invoice paid","paid":true}' in page.words


async def test_a_page_says_why(browser, store):
    """The verdict stands at the top of a delivery and of its invoice, with what happens next."""
    await add_two_events(store, "1")
    await store.settle(failed(await lease_delivery(store), due_at=START + 100 * SECOND))

    page, _ = await browser.get("/deliveries/msg_1a")
    assert "Your receiver refused the event: it answered 500." in page.words
    assert "An attempt is made, at 2026-01-31 12:01:40 UTC or soon after." in page.words
    assert page.words.index("refused the event") < page.words.index("The delivery")
    page, _ = await browser.get("/deliveries/msg_1b")
    assert "an earlier one is not delivered yet" in page.words
    assert "/console/deliveries/msg_1a" in page.links
    page, _ = await browser.get("/invoices/1")
    assert "it answered 500" in page.words


async def test_an_invoice_without_a_callback_says_why(browser, store):
    """Nobody is called, and the page says what to do."""
    await store.accept(an_invoice("1", origin=None))

    page, _ = await browser.get("/invoices/1")

    assert "sent without a callback_url, so nobody is called" in page.words


async def test_a_delivery_is_cancelled(browser, store):
    """One that waits is dead then; one that has ended stays as it is, and the page says so."""
    await add_delivery(store, "1")
    page, _ = await browser.get("/deliveries/msg_1")
    assert "Cancel the delivery" in page.buttons

    _, answer = await browser.post("/deliveries/msg_1/cancel")

    page, _ = await browser.get(answer.headers["Location"].removeprefix("/console"))
    assert "It was cancelled" in page.words
    assert "Cancel the delivery" not in page.buttons
    assert "cancelled" == (await store.history.find_delivery("dev", "msg_1"))["reason"]
    await add_delivery(store, "2", at=START + SECOND)
    await store.settle(delivered(await lease_delivery(store, now=START + SECOND)))
    _, answer = await browser.post("/deliveries/msg_2/cancel")
    page, _ = await browser.get(answer.headers["Location"].removeprefix("/console"))
    assert "had ended before" in page.words


@pytest.mark.parametrize(("is_dead", "label"), [(True, "Redeliver"), (False, "Attempt now")])
async def test_a_button_attempts_a_delivery_now(browser, store, is_dead, label):
    """One that has ended is redelivered, one that waits is attempted now."""
    await add_delivery(store, "1")
    status = DeliveryStatus.DEAD if is_dead else DeliveryStatus.PENDING
    due_at = START + 100 * SECOND
    await store.settle(failed(await lease_delivery(store), status=status, due_at=due_at))
    page, _ = await browser.get("/deliveries/msg_1")
    assert label in page.buttons

    _, answer = await browser.post("/deliveries/msg_1/redeliver")

    page, _ = await browser.get(answer.headers["Location"].removeprefix("/console"))
    assert "It is attempted now." in page.words
    found = await store.history.find_delivery("dev", "msg_1")
    assert ("pending", True) == (found["status"], bool(found["is_asked"]))


# Receivers


@pytest.fixture
async def receiver(store):
    """The id of a receiver that has a delivery waiting."""
    await add_delivery(store, "1", path="/a&amp;b")
    ((known,), _) = await store.receivers.page("dev", START, after=None, limit=1)
    return id_of(known.receiver)


async def test_a_receiver_shows_its_state(browser, store, receiver, clock):
    """Its URL, since when something waits, and a picture with words of the last day."""
    clock.advance(timedelta(minutes=3))
    name = a_receiver(path="/a&amp;b")
    counts = [3, 1, 4, *no_counts()[3:]]
    hours = [Hour(name, START, counts)]
    await store.receivers.observe([Observation(receiver=name, origin=ONE, hours=hours)])

    page, _ = await browser.get("/receivers")

    assert {receiver} == rows_in(page)
    for word in ("https://one.example:443/a&amp;b", "due for 3 min", "75 %", "unknown"):
        assert word in page.words, word
    assert "3 of 4 attempts; 1 failed, in the hours from 12:00" in "".join(page.labels)
    overview, _ = await browser.get("/overview")
    assert "3 delivered, 1 failed" in overview.words


async def test_a_receiver_is_paused_and_resumed(browser, store, receiver):
    """The button that is there says what can be done; nothing is done twice."""
    for action, label, is_paused in (
        ("pause", "Pause", True),
        ("resume", "Resume", False),
    ):
        page, _ = await browser.get("/receivers")
        assert label in page.buttons
        _, answer = await browser.post(f"/receivers/{receiver}/{action}")
        page, _ = await browser.get(answer.headers["Location"].removeprefix("/console"))
        assert f"It is {action}d" in page.words
        known = await store.receivers.find("dev", receiver, START)
        assert is_paused is (known.paused_at is not None)
        _, answer = await browser.post(f"/receivers/{receiver}/{action}")
        assert answer.headers["Location"].endswith("done=unchanged")


async def test_a_test_event_is_sent(browser, store, receiver):
    """Its button leads to the delivery of the test, which has no invoice."""
    _, answer = await browser.post(f"/receivers/{receiver}/test")

    page, shown = await browser.get(answer.headers["Location"].removeprefix("/console"))
    assert 200 == shown.status
    assert "Test event" in page.words
    assert "(a test)" in page.words
    assert [] == [one for one in page.links if "/invoices/test_" in one]
    assert '"test":true' in page.words


@pytest.mark.parametrize("action", ["pause", "resume", "test"])
async def test_a_receiver_that_does_not_exist_is_not_found(browser, action):
    """Nothing is done for an unknown id."""
    assert 404 == (await browser.post(f"/receivers/rcv_0/{action}"))[1].status


# Invoices and the overview


async def test_an_invoice_shows_what_follows_from_it(browser, store):
    """Its events, deliveries and the page on which it is paid."""
    await add_two_events(store, "1")

    page, _ = await browser.get("/invoices/1")

    assert {"msg_1a", "msg_1b"} == rows_in(page)
    for word in ("Invoice sent", "Invoice paid", "9999.00 USD", "an earlier event"):
        assert word in page.words
    assert [] != [one for one in page.links if "/pay/" in one]


async def test_invoices_are_filtered(browser, store):
    """By status, and by an id."""
    await add_delivery(store, "1")
    await store.accept(an_invoice("2", origin=None))

    for query, expected in {
        "": 2,
        "status=paid": 1,
        "id=2": 1,
        "id=3": 0,
        "status=void": 0,
    }.items():
        page, _ = await browser.get(f"/invoices?{query}")
        assert expected == len(rows_in(page)), query


async def test_the_overview_has_the_numbers(browser, store, clock, dead):
    """What is pending, since when the oldest is due, and what died within a day."""
    await add_delivery(store, "2", at=START)
    clock.advance(timedelta(hours=2, minutes=5))

    page, _ = await browser.get("/overview")
    assert "2 h 5 min" in page.words
    assert re.search(r"Pending\s*1", page.words)
    assert re.search(r"24 hours\s*1", page.words)
    clock.advance(timedelta(hours=24))
    page, _ = await browser.get("/overview")
    assert re.search(r"24 hours\s*0", page.words)


# Files, policy and errors


async def test_files_are_kept_by_browsers(browser):
    """Style, script and picture are of this service; their URL changes with their content."""
    html = await (await browser.client.get("/console/")).text()
    names = re.findall(r'(?:href|src)="/console(/assets/([0-9a-f]{16})/[a-z.]+)"', html)

    assert 3 == len(names)
    for path, digest in names:
        answer = await browser.client.get(f"/console{path}")
        assert 200 == answer.status
        assert "immutable" in answer.headers["Cache-Control"]
        assert digest == sha256(await answer.read()).hexdigest()[:16]
    _, answer = await browser.get("/assets/0000/console.css")
    assert (200, "no-cache") == (answer.status, answer.headers["Cache-Control"])
    for path in ("/assets/0/none.css", "/assets/0/..%2Fconsole.css"):
        assert 404 == (await browser.get(path))[1].status


async def test_a_page_may_load_nothing_else(browser, dead):
    """The policy has nothing unsafe, and the pages have no style and no script in them."""
    for path in ("/", "/deliveries", f"/deliveries/{dead}", "/overview", "/contract"):
        answer = await browser.client.get(f"/console{path}")
        html, policy = await answer.text(), answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'; base-uri 'none'; frame-ancestors 'none'")
        assert '<meta name="referrer" content="same-origin">' in html
        assert "no-store" == answer.headers["Cache-Control"]
        assert not re.search(r"<style|style=|<script>|\son[a-z]+=|javascript:", html)


async def test_templates_are_compiled_before_somebody_looks(aiohttp_client, service, monkeypatch):
    """After the first page that is shown, the first look at another costs no more than others."""
    pages = []
    monkeypatch.setattr(serving, "Pages", lambda path: pages.append(Pages(path)) or pages[0])
    app = make_application(service.dependencies)
    serving.add_console(app, service.console)

    client = await aiohttp_client(app)

    environment = pages[0].renderer.environment
    assert 0 == len(environment.cache)
    await client.get("/console/sign-in")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(environment.cache) < len(environment.list_templates()):  # noqa: ASYNC110 -- jinja2 sets no event
            await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/none", "/deliveries/msg_0", "/invoices/0", "/invoices/%00"])
@pytest.mark.parametrize("form", ["", "/"])
async def test_what_does_not_exist_is_a_page(browser, path, form):
    """An unknown address is answered in words."""
    page, answer = await browser.get(path + form)

    assert (404, "text/html") == (answer.status, answer.content_type)
    assert "Not found" in page.words


async def test_a_missing_database_is_a_page(browser, database):
    """While the database is away, a page says so, and when to try again."""
    database.fault = lambda _: StorageUnavailable("away")

    for path in ("/deliveries", "/invoices", "/overview", "/?q=1"):
        page, answer = await browser.get(path)
        assert (503, "5") == (answer.status, answer.headers["Retry-After"])
        assert "The database does not answer" in page.words
    _, answer = await browser.post("/deliveries/redeliver")
    assert 503 == answer.status


async def test_development_mode_checks_where_forms_come_from(browser, store, dead):
    """Without any cookie, a page of another site can do nothing."""
    for headers in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        _, answer = await browser.post(f"/deliveries/{dead}/redeliver", **headers)
        assert 403 == answer.status
    assert "dead" == (await store.history.find_delivery("dev", dead))["status"]


async def test_development_mode_has_no_sign_in(browser):
    """Its page leads to the console."""
    _, answer = await browser.get("/sign-in")

    assert (303, "/console/") == (answer.status, answer.headers["Location"])


async def test_the_check_of_a_receiver_is_kept(browser, service, monkeypatch):
    """A URL that would be refused is said to be; the result of another one stands on the page."""
    page, answer = await browser.post("/contract/check", {"url": "https://127.0.0.1/x"})
    assert 422 == answer.status
    assert "is an address that cannot be called" in page.words
    for url in ("", "nonsense", "https://a.example/?x"):
        assert 422 == (await browser.post("/contract/check", {"url": url}))[1].status

    page, _ = await browser.get("/contract")
    assert "No receiver of this account was checked" in page.words


# Live pages


class Stream:
    """The events of a live page."""

    def __init__(self, answer):
        self.answer = answer

    async def next(self):
        """The next event: its name and its data."""
        lines = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (
                line := (await self.answer.content.readline()).decode().rstrip("\n")
            ) or not lines:
                if not line and self.answer.content.at_eof():
                    return None
                if line and not line.startswith((":", "retry")):
                    lines.append(line)
        fields = dict(line.split(":", 1) for line in lines)
        data = fields["data"].strip()
        return fields["event"].strip(), json.loads(data) if data else None

    async def parts(self, count):
        """The next *count* parts, by their names."""
        events = [await self.next() for _ in range(count)]
        assert {"part"} == {name for name, _ in events}
        return {data["name"]: data["html"] for _, data in events}


@pytest.fixture
async def live(browser):
    """Opens live pages."""
    answers = []

    async def open_(path):
        answer = await browser.client.get(
            f"/console{path}", headers={"Accept": "text/event-stream"}
        )
        answers.append(answer)
        assert 200 == answer.status, await answer.text()
        return Stream(answer)

    yield open_
    for one in answers:
        one.close()


async def test_a_live_page_sends_what_changes(live, store, clock):
    """At first every part, then only those that differ, once a second at most."""
    await add_delivery(store, "1")
    stream = await live("/deliveries/msg_1")
    first = await stream.parts(3)
    assert "There was no attempt yet" in first["live_attempts"]
    await clock.parked()

    await store.settle(delivered(await lease_delivery(store)))
    clock.advance(streams.PAUSE)

    changed = await stream.parts(3)
    assert {"live_why", "live_facts", "live_attempts"} == changed.keys()
    assert "attempt-1" in changed["live_attempts"]


async def test_a_list_that_is_live_has_new_rows(live, store, clock):
    """A delivery that was added appears; the change is said in one sentence."""
    stream = await live("/deliveries?status=pending")
    assert "No delivery matches" in (await stream.parts(1))["live_list"]
    await clock.parked()

    await add_delivery(store, "1")
    clock.advance(streams.PAUSE)

    assert "row-msg_1" in (await stream.parts(1))["live_list"]
    assert ("say", "Deliveries on this page: 1 pending.") == await stream.next()


async def test_a_page_that_has_a_row_is_sent_its_id_alone(live, store, clock):
    """Of a list, the rows that differ are sent; a page has the others."""
    await add_delivery(store, "1")
    stream = await live("/deliveries")
    assert "<th" in (await stream.parts(1))["live_list"].split("<tbody>")[1]
    await clock.parked()

    await add_delivery(store, "2", at=START + SECOND)
    clock.advance(streams.PAUSE)

    rows = (await stream.parts(1))["live_list"].split("<tbody>")[1]
    assert '<tr id="row-msg_1" data-same></tr>' in rows
    assert 1 == rows.count("<th")


async def test_pages_of_one_url_share_what_is_read(live, store, clock, database):
    """Eight pages that show the same cost one read a second, and all of them are current."""
    reads = []
    database.fault = lambda work: reads.append(work)  # noqa: PLW0108 -- append returns nothing
    await add_delivery(store, "1")
    pages = [await live("/deliveries?status=pending") for _ in range(streams.STREAMS_PER_ACCOUNT)]
    for one in pages:
        await one.parts(1)
    for _ in pages:
        await clock.parked()
    await add_delivery(store, "2", at=START + SECOND)
    reads.clear()

    clock.advance(streams.PAUSE)

    for one in pages:
        assert "row-msg_2" in (await one.parts(1))["live_list"]
    assert 2 == len(reads)


async def test_live_pages_are_bounded(live, browser, service):
    """Above their number, a page is answered as it is without a script: not live."""
    for _ in range(streams.STREAMS_PER_ACCOUNT):
        await (await live("/overview")).parts(1)

    answer = await browser.client.get("/console/overview", headers={"Accept": "text/event-stream"})

    assert 429 == answer.status


async def test_a_page_that_was_left_frees_its_place(live, browser, clock):
    """A connection that is closed is noticed with the next read."""
    for _ in range(streams.STREAMS_PER_ACCOUNT):
        stream = await live("/overview")
        await stream.parts(1)
        await clock.parked()
        stream.answer.close()
        await asyncio.sleep(0)
        clock.advance(streams.PAUSE)

    await (await live("/overview")).parts(1)


async def test_a_live_page_ends_after_some_minutes(live, clock):
    """A browser connects again by itself, and is sent all parts."""
    stream = await live("/overview")
    await stream.parts(1)
    await clock.parked()

    clock.advance(streams.LASTS)

    while (event := await stream.next()) is not None:
        assert "part" == event[0]


async def test_a_live_page_survives_an_outage(live, store, clock, database):
    """While the database is away nothing is sent; after that, what has changed."""
    stream = await live("/deliveries")
    await stream.parts(1)
    await clock.parked()
    database.fault = lambda _: StorageUnavailable("away")
    clock.advance(streams.PAUSE)
    await clock.parked()
    database.fault = lambda _: None
    await add_delivery(store, "1")

    clock.advance(streams.PAUSE)

    assert "row-msg_1" in (await stream.parts(1))["live_list"]


async def test_a_count_that_ends_early_says_so(browser, store, monkeypatch):
    """Where only some deliveries were looked at, no page says that they were all."""
    for number in range(4):
        await add_delivery(store, f"{number}", at=START + number * SECOND)
    await lease_deliveries(store, now=START + 9 * SECOND)
    monkeypatch.setattr(history, "SCAN_MAX", 2)

    page, _ = await browser.get("/deliveries?status=pending")

    assert "2 among the newest 20,000 deliveries, and perhaps older ones" in page.words
