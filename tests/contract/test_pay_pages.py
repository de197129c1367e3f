"""The hosted invoice and the page of the sandbox, over HTTP."""

import re
from datetime import timedelta

import pytest

from schemas.money import CURRENCIES
from service.api.application import make_application
from service.app.documents import document_of
from service.collection.sandbox import ENDINGS, Sandbox
from service.domain.invoice import Step
from service.domain.states import INVOICE_MOVES, PAYABLE, InvoiceStatus
from service.errors import ConfigurationError, StorageUnavailable
from service.pages.pay import add_pages
from service.settings import Settings
from tests.contract.store.test_reports import _way_to, a_report
from tests.pages import Page
from tests.rows import an_invoice, lease_invoice

DELAY = timedelta(hours=1)


@pytest.fixture
def service(assembled):
    """The service with a sandbox that pays nothing by itself in a test."""
    return assembled(collector=Sandbox(DELAY))


@pytest.fixture
async def client(aiohttp_client, service):
    """A browser that does not follow redirects."""
    app = make_application(service.dependencies)
    add_pages(app, service.payments)
    return await aiohttp_client(app)


@pytest.fixture
def paying(service, store):
    """Stores an invoice and brings it to a state; returns it and the path of its page."""

    async def store_invoice(status=InvoiceStatus.RECEIVED, **changes):
        values = {"origin": None, "customer": "Mr. Richie Rich", **changes}
        await store.accept(an_invoice(**values))
        invoice = await lease_invoice(store)
        for number, step in enumerate(_way_to(status)):
            event = a_report(invoice, step, delivery_id=None)
            assert await service.dispatcher.record(event), number
        url = await service.dependencies.pay_links.url_of(invoice.account_id, invoice.key)
        return invoice, url.removeprefix("http://127.0.0.1:8080")

    return store_invoice


async def page_at(client, path):
    """The page at *path*, and its answer."""
    answer = await client.get(path, allow_redirects=False)
    return Page(await answer.text()), answer


async def status_of(store):
    """The state of the invoice and its events."""
    found = await store.history.find_invoice("dev", "1")
    return found["status"], [(one["description"], one["paid"]) for one in found["events"]]


async def test_the_page_shows_the_invoice(client, paying):
    """The page has who, what, how much and the state, one button, and needs no key."""
    _, path = await paying(title="Expensive invoice", locale="de-CH")

    page, answer = await page_at(client, path)

    assert 200 == answer.status
    # Babel 2.19 has another apostrophe between thousands than 2.18.
    words = page.words.replace("’", "'")
    for word in ("Mr. Richie Rich", "Expensive invoice", "9'999.00", "USD", "31. Januar 2026"):
        assert word in words
    assert "To be paid" in page.words
    assert [("post", path)] == page.forms
    assert {"script", "img", "link", "iframe"}.isdisjoint(page.elements)


async def test_the_url_of_the_api_leads_to_the_page(client, paying):
    """`payment_url` of the invoice is the URL of the page, with or without a slash at the end."""
    _, path = await paying()
    shown = await (await client.get("/invoices/1")).json()

    assert path == shown["payment_url"].removeprefix("http://127.0.0.1:8080")
    assert 200 == (await client.get(f"{path}/")).status
    assert (200, b"") == ((head := await client.head(path)).status, await head.read())


@pytest.mark.parametrize("status", INVOICE_MOVES)
async def test_the_button_is_there_while_the_invoice_can_be_paid(client, paying, status):
    """Every state has its words; a POST leads to the payment only while there is one."""
    _, path = await paying(status)

    page, _ = await page_at(client, path)
    answer = await client.post(path, allow_redirects=False)

    assert (status in PAYABLE) is (page.forms == [("post", path)])
    assert 303 == answer.status
    assert answer.headers["Location"] == (f"{path}/sandbox" if status in PAYABLE else path)


async def test_a_get_begins_no_payment(client, paying, store):
    """Programs that follow the links of a mail change nothing."""
    _, path = await paying()
    for url in (path, f"{path}/sandbox", f"{path}/sandbox?ending=pay"):
        await client.get(url)

    assert ("received", []) == await status_of(store)


async def test_the_sandbox_says_that_it_is_one(client, paying):
    """Both pages say SANDBOX, and the second one offers every ending."""
    _, path = await paying()

    invoice, _ = await page_at(client, path)
    sandbox, answer = await page_at(client, f"{path}/sandbox")

    assert 200 == answer.status
    assert "SANDBOX" in invoice.words
    assert "SANDBOX" in sandbox.words
    assert len(ENDINGS) == len(sandbox.buttons) == len(sandbox.forms)
    assert {("post", f"{path}/sandbox")} == set(sandbox.forms)


@pytest.mark.parametrize(("ending", "progress"), ENDINGS.items())
async def test_an_ending_comes_true(client, paying, store, ending, progress):
    """A chosen ending moves the invoice with its event, and leads back to the invoice."""
    _, path = await paying()

    answer = await client.post(f"{path}/sandbox", data={"ending": ending}, allow_redirects=False)

    assert (303, path) == (answer.status, answer.headers["Location"])
    expected = [(progress.description, progress.status is InvoiceStatus.PAID)]
    assert (progress.status, expected) == await status_of(store)


async def test_a_declined_customer_can_try_again(client, paying, store):
    """After a decline the page says so, and the next payment makes the invoice paid."""
    _, path = await paying()
    await client.post(f"{path}/sandbox", data={"ending": "declined"})
    page, _ = await page_at(client, path)
    assert "has failed" in page.words
    assert ["Try again"] == page.buttons

    await client.post(f"{path}/sandbox", data={"ending": "pay"})

    status, events = await status_of(store)
    assert ("paid", [False, True]) == (status, [paid for _, paid in events])


async def test_paying_twice_pays_once(client, paying, store):
    """A second click, or a second tab, makes no second event."""
    _, path = await paying()
    for _ in range(2):
        await client.post(f"{path}/sandbox", data={"ending": "pay"})
    await client.post(f"{path}/sandbox", data={"ending": "declined"})

    assert ("paid", [("Invoice paid", True)]) == await status_of(store)


@pytest.mark.parametrize(
    "body", [b"", b"ending=steal", b"ending", b"\xff=%ff&ending=%00", b"ending=pay;x", b"&&&&=="]
)
async def test_an_unknown_ending_changes_nothing(client, paying, store, body):
    """Whatever a form sends, what is no ending leads back to the page."""
    _, path = await paying()

    answer = await client.post(f"{path}/sandbox", data=body, allow_redirects=False)

    assert (303, f"{path}/sandbox") == (answer.status, answer.headers["Location"])
    assert ("received", []) == await status_of(store)


@pytest.mark.parametrize("end", ["", "/sandbox"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_token_is_a_page_for_people(client, paying, method, end):
    """A token that was changed, cut off or made up leads to no invoice."""
    _, path = await paying()
    changed = path[:-1] + ("A" if path[-1] != "A" else "B")
    for wrong in (
        changed,
        path[:-1],
        "/pay/x",
        "/pay/%00",
        "/pay/%F0%9F%8E%89",
        "/pay/" + "A" * 52,
    ):
        answer = await client.request(method, wrong + end, allow_redirects=False)

        assert (404, "text/html") == (answer.status, answer.content_type)
        assert "Richie" not in await answer.text()


@pytest.mark.parametrize("path", ["", "/sandbox", "x"])
async def test_headers_keep_the_page_to_itself(client, paying, path):
    """No script, no frame, no cache, no referrer, no index, and forms that stay here."""
    _, url = await paying()

    _, answer = await page_at(client, url + path)

    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert re.search(r"style-src 'sha256-[A-Za-z0-9+/=]+'$", policy)
    assert "no-store" == answer.headers["Cache-Control"]
    assert "no-referrer" == answer.headers["Referrer-Policy"]
    assert "noindex" in answer.headers["X-Robots-Tag"]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}{% x %}",
        "חשבונית 🎉 فاتورة",
        "x" * 500,
        "a\u2028b\u202ec",
        "\u202egpj.exe\u202c total \u2066left",
    ],
)
async def test_any_text_is_read_as_it_is(client, paying, text):
    """What an API user writes is text, never markup or a template, and turns nothing around."""
    _, path = await paying(title=text, customer=text)

    page, _ = await page_at(client, path)

    expected = text.translate(dict.fromkeys([0x202E, 0x202C, 0x2066])).replace("\u2028", " ")
    assert 2 == page.words.count(expected)
    assert {"\u202e", "\u202c", "\u2066"}.isdisjoint(page.words)
    assert {"script", "img"}.isdisjoint(page.elements)


@pytest.mark.parametrize(
    ("currency", "minor", "locale", "amount"),
    [
        ("JPY", 9999, "ja", "9,999"),
        ("KWD", 1234567, "ar-EG", "1,234.567"),
        ("USD", 123456789, "hi", "12,34,567.89"),
        ("USD", 999900, None, "$9,999.00"),
    ],
)
async def test_amounts_are_written_as_in_the_locale(
    client, paying, currency, minor, locale, amount
):
    """The page writes an amount like the mail."""
    decimals = CURRENCIES[currency]
    _, path = await paying(currency=currency, total_minor=minor, decimals=decimals, locale=locale)

    assert amount in (await page_at(client, path))[0].words


async def test_an_invoice_without_stored_decimals_has_those_of_its_currency(client, paying):
    """An older version stores none while processes are upgraded; the amount is right anyway."""
    _, path = await paying(currency="JPY", total_minor=9_999, decimals=None)

    assert "¥9,999" in (await page_at(client, path))[0].words


async def test_links_begin_with_the_path_that_a_proxy_removes(aiohttp_client, assembled):
    """Behind a proxy with a prefix, forms and redirects lead below that prefix."""
    url = "https://shop.example/billing"
    service = assembled(Settings(public_url=url), collector=Sandbox(DELAY))
    app = make_application(service.dependencies)
    add_pages(app, service.payments)
    client = await aiohttp_client(app)
    await service.store.accept(an_invoice(origin=None))
    invoice = await lease_invoice(service.store)
    payment_url = await service.dependencies.pay_links.url_of("dev", invoice.key)
    path = payment_url.removeprefix(url)

    page, _ = await page_at(client, path)
    answer = await client.post(path, allow_redirects=False)

    assert [("post", f"/billing{path}")] == page.forms
    assert f"/billing{path}/sandbox" == answer.headers["Location"]


async def test_without_the_database_the_page_asks_for_patience(client, paying, database):
    """While the database is away, a person reads a page and not a problem document."""
    _, path = await paying()
    database.fault = lambda _work: StorageUnavailable("away")

    page, answer = await page_at(client, path)

    assert (503, "text/html") == (answer.status, answer.content_type)
    assert "try again" in page.words


async def test_a_key_that_cannot_be_read_is_no_defect(client, paying, service, caplog, monkeypatch):
    """A pay key that was encrypted with another key is 503 for everybody, and a line in the log."""
    _, path = await paying()

    async def fail(_of):
        raise ConfigurationError("encrypted with another key")

    for name in ("_key_of", "_key_with"):
        monkeypatch.setattr(service.dependencies.pay_links, name, fail)
    page, answer = await page_at(client, path)

    assert (503, "text/html") == (answer.status, answer.content_type)
    assert "try again" in page.words
    assert 503 == (await client.get("/invoices/1")).status
    assert ["secret.unreadable"] * 2 == [one.message for one in caplog.records if one.levelno > 30]
    assert path.rpartition("/")[2] not in caplog.text


async def test_a_pay_link_is_not_logged(client, paying, service, caplog, monkeypatch):
    """A defect in the page is logged without the token."""
    _, path = await paying()

    async def fail(*_args):
        raise ZeroDivisionError

    monkeypatch.setattr(type(service.store), "invoice_by_key", fail)
    answer = await client.get(path)

    assert 500 == answer.status
    (record,) = [one for one in caplog.records if one.message == "request.failed"]
    assert "/pay/{token}" == record.fields["path"]


async def test_money_that_went_back_is_shown(client, paying, service):
    """A partly refunded invoice says how much went back."""
    invoice, path = await paying(InvoiceStatus.PAID)
    status = InvoiceStatus.PARTIALLY_REFUNDED
    await service.dispatcher.record(
        Step(invoice=invoice, status=status, is_report=True, refunded_minor=1234)
    )

    page, _ = await page_at(client, path)

    assert "$12.34" in page.words
    assert [] == page.forms


# The document


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("get", "page", 200),
        ("post", "page", 303),
        ("get", "/pay/none", 404),
        ("post", "/pay/x", 404),
    ],
)
async def test_the_pages_are_described(client, paying, method, path, expected):
    """The document has the pages, without a key, and the statuses and types that they answer."""
    _, page = await paying(InvoiceStatus.SENT)
    operations = document_of(Settings())["paths"]["/pay/{token}"]
    answer = await client.request(method, page if path == "page" else path, allow_redirects=False)

    assert {"get", "post"} == set(operations)
    assert [] == operations[method]["security"]
    assert expected == answer.status
    described = operations[method]["responses"][str(expected)]
    assert answer.content_type in described.get("content", {answer.content_type: None})
    assert set(described.get("headers", ())) <= set(answer.headers)
