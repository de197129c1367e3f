"""Signing in to the console, and what somebody sees there: the rows of one account."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import urlencode

import pytest

from service.accounts.console_sessions import LINK_LASTS, SESSION_LASTS, new_link
from service.api.application import make_application
from service.domain.receivers import id_of
from service.pages.console.serving import add_console
from service.pages.console.streams import PAUSE
from service.pages.console.visits import COOKIE
from service.settings import Settings
from service.storage.sessions import SESSIONS_MAX
from service.storage.tables import console_links, console_sessions
from tests.clock import START
from tests.pages import ConsoleBrowser
from tests.rows import rows_of

SECOND = timedelta(seconds=1)
SCREENS = [
    "/",
    "/deliveries",
    "/deliveries?status=dead",
    "/deliveries/redeliver",
    "/deliveries/msg_dead1",
    "/receivers",
    "/invoices",
    "/invoices/dead1",
    "/overview",
    "/contract",
]
FORMS = [
    "/deliveries/msg_pending1/cancel",
    "/receivers/rcv_1/pause",
    "/receivers/rcv_1/resume",
    "/receivers/rcv_1/test",
    "/deliveries/msg_dead1/redeliver",
    "/deliveries/redeliver",
    "/contract/check",
]


@pytest.fixture
async def of_ann(browsers, ann):
    """A browser in which Ann is signed in."""
    return await browsers().sign_in(ann.key)


@pytest.fixture
async def of_ben(browsers, ben):
    """A browser in which Ben is signed in."""
    return await browsers().sign_in(ben.key)


@pytest.fixture
def link_for(store, clock):
    """Makes a one-time link for an account, or for the operator; returns its path."""

    async def make(account_id=None):
        token, _ = await new_link(store.console, account_id, clock)
        return f"/link/{token}"

    return make


@pytest.mark.parametrize("path", SCREENS)
async def test_a_page_needs_somebody_who_is_signed_in(browser, anns, path):
    """Without a session every screen leads to the page on which one signs in, and back."""
    _, answer = await browser.get(path)

    assert 303 == answer.status
    assert answer.headers["Location"].startswith("/console/sign-in")
    page, _ = await browser.get(answer.headers["Location"].removeprefix("/console"))
    assert path.lstrip("/") == page.fields.get("to", "")


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_needs_somebody_who_is_signed_in(browser, anns, store, database, path):
    """Without a session nothing is done."""
    _, answer = await browser.post(path, {"url": "https://example.com"})

    assert (303, "/console/sign-in") == (answer.status, answer.headers["Location"])


async def test_a_live_page_without_a_session_ends(browser):
    """A stream is refused and not redirected, so that a browser stops asking."""
    _, answer = await browser.get("/deliveries", Accept="text/event-stream")

    assert 401 == answer.status


async def test_a_key_signs_in(browser, ann, database):
    """The cookie is out of reach of scripts and other sites; its hash alone is stored."""
    _, answer = await browser.post(
        "/sign-in", {"key": f" {ann.key} ", "to": "invoices?status=paid"}
    )

    assert (303, "/console/invoices?status=paid") == (answer.status, answer.headers["Location"])
    cookie = answer.cookies[COOKIE]
    assert (True, "Strict", "/") == (cookie["httponly"], cookie["samesite"], cookie["path"])
    assert "43200" == cookie["max-age"]
    assert not cookie["secure"]
    (row,) = await rows_of(database, console_sessions)
    assert cookie.value.encode() not in row["hash"]
    assert 32 == len(row["hash"])
    page, answer = await browser.get("/invoices?status=paid")
    assert 200 == answer.status
    assert ann.account_id in page.words


async def test_the_cookie_of_a_public_url(aiohttp_client, assembled, administration):
    """With https:// the cookie is never sent without TLS, and it is of the public path alone."""
    service = assembled(Settings(public_url="https://example.com/billing"))
    app = make_application(service.dependencies)
    add_console(app, service.console)
    browser = ConsoleBrowser(await aiohttp_client(app))
    ann = await administration.add("ann")

    _, answer = await browser.post("/sign-in", {"key": ann.key}, Origin="https://example.com")

    cookie = answer.cookies[COOKIE]
    assert (True, "/billing") == (cookie["secure"], cookie["path"])
    assert "/billing/console/" == answer.headers["Location"]


@pytest.mark.parametrize("key", ["", "inv_abcdefgh_" + "x" * 43, "\ud800", "x" * 10_000, "Bearer"])
async def test_a_wrong_key_signs_nobody_in(browser, ann, key, database):
    """A wrong key is answered with the form, and a sentence that does not say what was wrong."""
    data = urlencode({"key": key}, errors="surrogatepass")
    page, answer = await browser.post("/sign-in", data)

    assert 401 == answer.status
    assert "not, or no longer, the key of an account" in page.words
    assert COOKIE not in answer.cookies
    assert [] == await rows_of(database, console_sessions)


@pytest.mark.parametrize(
    "to",
    ["//evil.example", "https://evil.example", "\\evil.example", "a\r\nX: y", "../../x", "a b", ""],
)
async def test_signing_in_leads_nowhere_else(browser, ann, to):
    """Whatever a form says, one stays in the console."""
    _, answer = await browser.post("/sign-in", {"key": ann.key, "to": to})

    assert 303 == answer.status
    assert answer.headers["Location"].startswith("/console/")


async def test_signing_out_ends_the_session(of_ann, database):
    """The session is removed, not only its cookie."""
    cookie = of_ann.cookie
    _, answer = await of_ann.post("/sign-out")

    assert (303, "/console/sign-in") == (answer.status, answer.headers["Location"])
    assert "" == answer.cookies[COOKIE].value
    assert [] == await rows_of(database, console_sessions)
    of_ann.cookie = cookie
    assert 303 == (await of_ann.get("/deliveries"))[1].status


async def test_a_session_ends_after_twelve_hours(of_ann, clock):
    """It ends by the clock, however much it is used."""
    clock.advance(SESSION_LASTS - SECOND)
    assert 200 == (await of_ann.get("/deliveries"))[1].status

    clock.advance(SECOND)

    assert 303 == (await of_ann.get("/deliveries"))[1].status


async def test_a_live_page_ends_with_its_session(of_ann, clock):
    """The page is told that the session has ended, and asks no more."""
    answer = await of_ann.client.get(
        "/console/overview",
        headers={"Accept": "text/event-stream", "Cookie": f"{COOKIE}={of_ann.cookie}"},
    )
    assert b"retry: 2000\n" == await answer.content.readline()
    await clock.parked()

    clock.jump(SESSION_LASTS)
    clock.advance(PAUSE)

    assert (await answer.content.read()).endswith(b"event: ended\ndata:\n\n")


async def test_a_rotation_of_the_key_ends_the_sessions(of_ann, of_ben, administration):
    """A new key ends the sessions of its account at once, and of no other one."""
    await administration.rotate_key("ann", timedelta(hours=24))

    assert 303 == (await of_ann.get("/deliveries"))[1].status
    assert 200 == (await of_ben.get("/deliveries"))[1].status


async def test_a_rotation_of_the_secret_ends_nothing(of_ann, administration):
    """A session was not begun with the signing secret."""
    await administration.rotate_secret("ann", timedelta(hours=24))

    assert 200 == (await of_ann.get("/deliveries"))[1].status


async def test_disabling_an_account_ends_its_sessions(
    of_ann, browser, link_for, ann, administration
):
    """Sessions and links end at once, and no link that was made before opens it."""
    link = await link_for(ann.account_id)
    await administration.disable("ann")

    assert 303 == (await of_ann.get("/deliveries"))[1].status
    assert 404 == (await browser.get(link))[1].status
    assert 404 == (await browser.post(link))[1].status


async def test_the_oldest_session_of_too_many_ends(of_ann, browsers, ann, database, clock):
    """The sessions of an account are bounded; a new one ends the oldest."""
    for _ in range(SESSIONS_MAX):
        clock.advance(SECOND)
        last = await browsers().sign_in(ann.key)

    assert SESSIONS_MAX == len(await rows_of(database, console_sessions))
    assert 303 == (await of_ann.get("/"))[1].status
    assert 200 == (await last.get("/"))[1].status


async def test_sessions_that_have_ended_are_removed(of_ann, browsers, ben, database, clock):
    """What has ended is removed when the next session begins."""
    clock.advance(SESSION_LASTS)
    await browsers().sign_in(ben.key)

    assert [ben.account_id] == [
        row["account_id"] for row in await rows_of(database, console_sessions)
    ]


# Links


async def test_a_link_is_taken_once(browser, browsers, link_for, ann, database):
    """Looking at a link does not use it up; the button does, once."""
    link = await link_for(ann.account_id)
    for _ in range(2):
        page, answer = await browser.get(link)
        assert (200, ["Sign in"]) == (answer.status, page.buttons)

    _, answer = await browser.post(link)

    assert (303, "/console/") == (answer.status, answer.headers["Location"])
    assert ann.account_id in (await browser.get("/"))[0].words
    assert [] == await rows_of(database, console_links)
    other = browsers()
    assert 404 == (await other.get(link))[1].status
    page, answer = await other.post(link)
    assert (404, None) == (answer.status, other.cookie)
    assert "was used already" in page.words


async def test_a_link_lasts_ten_minutes(browser, link_for, ann, clock, database):
    """A link that is too old opens nothing, and is removed with the next one."""
    link = await link_for(ann.account_id)
    clock.advance(LINK_LASTS)

    assert 404 == (await browser.get(link))[1].status
    assert 404 == (await browser.post(link))[1].status
    await link_for(ann.account_id)
    assert 1 == len(await rows_of(database, console_links))


async def test_the_token_of_a_link_is_not_stored(link_for, database):
    """Whoever reads the database can take no link."""
    link = await link_for()
    (row,) = await rows_of(database, console_links)

    assert link.removeprefix("/link/").encode() not in row["hash"]


@pytest.mark.parametrize("token", ["x", "%00", "x" * 1000, "%ed%a0%80", "%FF"])
async def test_what_is_no_link_opens_nothing(browser, token):
    """Any other text is answered as a link that was used."""
    assert 404 == (await browser.get(f"/link/{token}"))[1].status
    assert 404 == (await browser.post(f"/link/{token}"))[1].status


# Cross-site requests

FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "none"},
    {"Origin": "https://evil.example", "Sec_Fetch_Site": None},
    {"Origin": None, "Sec_Fetch_Site": None},
    {"Origin": None, "Sec_Fetch_Site": None, "Referer": "https://evil.example/x"},
    {"Origin": None, "Sec_Fetch_Site": None, "Referer": "http://["},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", [*FORMS, "/sign-in", "/sign-out"])
async def test_a_form_of_another_site_is_refused(of_ann, anns, database, headers, path, ann):
    """Only a page of this service may send a form, whoever is signed in; nothing is done."""
    before = await rows_of(database, console_sessions)
    page, answer = await of_ann.post(path, {"key": ann.key, "url": "https://a.example"}, **headers)

    assert 403 == answer.status
    assert "not sent by a page of this console" in page.words
    assert before == await rows_of(database, console_sessions)


async def test_a_link_is_not_taken_from_another_site(browser, link_for):
    """The button of a link is a form as well."""
    link = await link_for()

    assert 403 == (await browser.post(link, Sec_Fetch_Site="cross-site"))[1].status
    assert 303 == (await browser.post(link))[1].status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Sec_Fetch_Site": None},
        {"Origin": "http://127.0.0.1:8080"},
        {"Origin": None, "Sec_Fetch_Site": None, "Referer": "http://127.0.0.1:8080/console/"},
    ],
)
async def test_a_form_of_this_site_is_taken(of_ann, anns, headers):
    """One of the headers is enough, if it names this place; so does the public URL."""
    _, answer = await of_ann.post("/deliveries/msg_dead1/redeliver", **headers)

    assert 303 == answer.status


# What an account sees


async def test_an_account_sees_its_rows(of_ann, anns):
    """Every screen is there, and lists have the rows of the account."""
    for path in SCREENS:
        page, answer = await of_ann.get(path)
        assert 200 == answer.status, path
        assert 1 == page.elements.count("h1")
    page, _ = await of_ann.get("/deliveries")
    assert {"row-msg_dead1", "row-msg_pending1", "row-msg_delivered1"} <= page.ids
    page, _ = await of_ann.get("/deliveries?status=dead")
    assert {"row-msg_dead1"} == {one for one in page.ids if one.startswith("row-")}


@pytest.mark.parametrize("path", ["/deliveries/msg_{}", "/invoices/{}"])
async def test_rows_of_another_account_are_not_found(of_ben, anns, path):
    """An id of another account gets the page of an unknown id, apart from the id itself."""
    theirs, answer = await of_ben.get(path.format("dead1"))
    nobodys, unknown = await of_ben.get(path.format("none1"))

    assert (404, 404) == (answer.status, unknown.status)
    assert theirs.words.replace("dead1", "none1") == nobodys.words


async def test_lists_have_no_row_of_another_account(of_ben, anns):
    """Lists, counts and searches of another account are empty."""
    for path in (
        "/deliveries",
        "/deliveries?status=dead",
        "/receivers",
        "/invoices",
        "/invoices?id=dead1",
    ):
        page, answer = await of_ben.get(path)
        assert (200, set()) == (answer.status, {one for one in page.ids if "row-" in one})
    page, _ = await of_ben.get("/deliveries/redeliver")
    assert "No dead delivery matches" in page.words
    for text in ("dead1", "msg_dead1", "https://one.example"):
        assert 404 == (await of_ben.get(f"/?q={text}"))[1].status


async def test_what_is_done_concerns_no_other_account(of_ben, anns, store, ann):
    """A form about a row of another account is answered like one about an unknown row."""
    _, answer = await of_ben.post("/deliveries/msg_dead1/redeliver")
    _, unknown = await of_ben.post("/deliveries/msg_none1/redeliver")
    _, all_ = await of_ben.post("/deliveries/redeliver")

    assert (404, 404, 303) == (answer.status, unknown.status, all_.status)
    assert 404 == (await of_ben.post("/deliveries/msg_pending1/cancel"))[1].status
    ((known,), _) = await store.receivers.page(ann.account_id, START, after=None, limit=1)
    for action in ("pause", "resume", "test"):
        path = f"/receivers/{id_of(known.receiver)}/{action}"
        assert 404 == (await of_ben.post(path))[1].status
    assert (
        "pending" == (await store.history.find_delivery(ann.account_id, "msg_pending1"))["status"]
    )
    assert known == await store.receivers.find(ann.account_id, id_of(known.receiver), START)
    assert "count=0" in all_.headers["Location"]
    assert "dead" == (await store.history.find_delivery(ann.account_id, "msg_dead1"))["status"]


async def test_an_account_cannot_choose_another_one(of_ben, anns, ann):
    """`account` in a URL is the operator's alone."""
    page, _ = await of_ben.get(f"/deliveries?account={ann.account_id}")

    assert set() == {one for one in page.ids if one.startswith("row-")}
    assert 303 == (await of_ben.get("/accounts"))[1].status
    _, answer = await of_ben.get(f"/deliveries/msg_dead1?account={ann.account_id}")
    assert 404 == answer.status


async def test_the_rate_limit_is_that_of_the_api(browsers, assembled, aiohttp_client, ann):
    """A page costs a request; above the limit it is a page in words that says when."""
    service = assembled(Settings(rate_limit=1, rate_burst=2))
    app = make_application(service.dependencies)
    add_console(app, service.console)
    browser = ConsoleBrowser(await aiohttp_client(app))
    await browser.sign_in(ann.key)

    statuses = [(await browser.get("/deliveries"))[1].status for _ in range(3)]

    assert [200, 200, 429] == statuses
    page, answer = await browser.get("/deliveries")
    assert "1" == answer.headers["Retry-After"]
    assert "above its rate limit" in page.words


# The operator


@pytest.fixture
async def of_operator(browsers, link_for):
    """A browser in which the operator is signed in."""
    browser = browsers()
    await browser.post(await link_for())
    return browser


async def test_the_operator_chooses_an_account(of_operator, ann, ben, anns):
    """Without a choice there is the list of accounts; every link then names the one chosen."""
    _, answer = await of_operator.get("/deliveries")
    assert (303, "/console/accounts") == (answer.status, answer.headers["Location"])

    page, _ = await of_operator.get("/accounts")
    assert "ann" in page.words
    assert f"/console/?account={ben.account_id}" in page.links

    page, answer = await of_operator.get(f"/deliveries?account={ann.account_id}")
    assert 200 == answer.status
    assert "row-msg_dead1" in page.ids
    assert page.fields["account"] == ann.account_id
    inside = [one for one in page.links if re.match(r"/console/(?!accounts)", one)]
    assert inside
    assert [] == [one for one in inside if f"account={ann.account_id}" not in one]


async def test_the_operator_acts_for_the_account(of_operator, ann, anns, store):
    """What the operator does is done for the account that was chosen."""
    _, answer = await of_operator.post(f"/deliveries/msg_dead1/redeliver?account={ann.account_id}")

    assert 303 == answer.status
    assert f"account={ann.account_id}" in answer.headers["Location"]
    assert "pending" == (await store.history.find_delivery(ann.account_id, "msg_dead1"))["status"]


@pytest.mark.parametrize("account", ["acct_none", "%00", "dev"])
async def test_an_account_that_does_not_exist_is_not_found(of_operator, account):
    """A misspelled account is no empty account."""
    assert 404 == (await of_operator.get(f"/deliveries?account={account}"))[1].status


async def test_the_session_of_the_operator_ends_too(of_operator, clock, ann):
    """It ends after twelve hours like every other one, and opens no API."""
    api = await of_operator.client.get("/deliveries", cookies={COOKIE: of_operator.cookie})
    clock.advance(SESSION_LASTS)
    _, answer = await of_operator.get(f"/deliveries?account={ann.account_id}")

    assert 401 == api.status
    assert answer.headers["Location"].startswith("/console/sign-in")


async def test_a_cookie_opens_no_api(of_ann, anns):
    """The API takes keys alone, so that no page of another site can use a session there."""
    answer = await of_ann.client.get("/deliveries", cookies={COOKIE: of_ann.cookie})

    assert 401 == answer.status


@pytest.mark.parametrize("cookie", ["x", "x" * 5000, "\xff", '"'])
async def test_a_cookie_of_no_session_is_none(browser, cookie):
    """Any other cookie is nobody."""
    browser.cookie = cookie
    _, answer = await browser.get("/deliveries")

    assert 303 == answer.status
