"""`/invoices/`: which invoices are accepted or refused, and how they are read and listed."""

from __future__ import annotations

from urllib.parse import quote

import orjson
import pytest

from service.errors import StorageUnavailable
from service.storage.leases import LeaseRound
from tests.clock import START
from tests.rows import (
    SECOND,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    lease_invoice,
    take_step,
)

SEED = {"id": "2expen51ve", "customer": "Mr. Richie Rich", "total": "9999"}
RECEIVER = "https://api.example.com"
JSON = {"Content-Type": "application/json"}


async def send(api, *, path="/invoices/", callback_url=None, **changes):
    """Send the seed invoice with *changes*; None removes a field."""
    invoice = {name: value for name, value in {**SEED, **changes}.items() if value is not None}
    params = {} if callback_url is None else {"callback_url": callback_url}
    return await api.post(path, params=params, json=invoice)


async def field_errors_of(answer):
    """Location and pointer of each field error of a 422."""
    document = await answer.json()
    assert 422 == answer.status, document
    return [(one["location"], one["pointer"]) for one in document["errors"]]


class TestAccepting:
    @pytest.mark.parametrize("path", ["/invoices/", "/invoices"])
    async def test_new_invoice_is_received(self, api, path):
        """A new invoice is answered 202, with and without the trailing slash."""
        answer = await send(api, path=path, callback_url=RECEIVER)

        assert 202 == answer.status
        assert {"msg": "Invoice received"} == await answer.json()
        assert "/invoices/2expen51ve" == answer.headers["Location"]
        assert "application/json; charset=utf-8" == answer.headers["Content-Type"]

    async def test_accepted_invoice_is_stored(self, api, store):
        """An invoice that was answered 202 is stored with its evaluated callback."""
        await send(api, callback_url=RECEIVER)
        (evaluated,) = (await lease_invoice(store)).callbacks

        assert "invoice_notification" == evaluated.callback
        assert f"{RECEIVER}/invoices/2expen51ve" == evaluated.url
        assert "https://api.example.com:443" == evaluated.origin

    async def test_without_callback_url_there_is_no_callback(self, api, store):
        """Without `callback_url` an invoice has no callbacks."""
        assert 202 == (await send(api)).status

        assert () == (await lease_invoice(store)).callbacks

    async def test_same_invoice_again_is_a_replay(self, api):
        """Sending the same invoice again gets 200 with the same body, marked as a replay."""
        await send(api, callback_url=RECEIVER)
        answer = await send(api, callback_url=RECEIVER)

        assert 200 == answer.status
        assert {"msg": "Invoice received"} == await answer.json()
        assert "true" == answer.headers["Idempotent-Replayed"]

    @pytest.mark.parametrize("total", [9999, 9999.0, "9999.0", "9999.00"])
    async def test_same_amount_in_another_notation_is_a_replay(self, api, total):
        """Equal amounts in another notation are the same content."""
        await send(api)

        assert 200 == (await send(api, total=total, currency="USD")).status

    @pytest.mark.parametrize(
        "changes",
        [
            {"customer": "Mr. Poor"},
            {"total": "1"},
            {"currency": "EUR"},
            {"title": "Another"},
            {"customer_email": "richie@example.com"},
            {"callback_url": "https://other.example.com"},
        ],
    )
    async def test_other_content_under_the_same_id_is_a_conflict(self, api, changes):
        """A known id with other content is refused with 409."""
        await send(api, callback_url=RECEIVER)
        answer = await send(api, **{"callback_url": RECEIVER, **changes})

        assert 409 == answer.status
        assert "/api/docs/problems#conflict" == (await answer.json())["type"]

    @pytest.mark.parametrize(
        "id_",
        [
            "a/b",
            "a?b=c&d",
            "a#b",
            "a b+c",
            "100%",
            "%2F",
            "%2e%2e",
            "..%2f",
            "{id}",
            "}{",
            "...",
            ".hidden",
            "é",
            "e\u0301",
            "発票",
            "🧾",
            "\u2028x",
            "\ufeffx",
            "\u202ex",
            "a\\b",
            "a;b:c@d!$&'()*,=",
            '"<>^`|',
            "[::1]",
            "deliveries",
            "a/deliveries",
            "/",
            " x",
            "i" * 200,
        ],
    )
    @pytest.mark.parametrize("slash", ["", "/"])
    async def test_location_leads_to_the_invoice(self, api, id_, slash):
        """The Location is ASCII and leads to the invoice for every valid id."""
        location = (await send(api, id=id_)).headers["Location"]
        answer = await api.get(location + slash)

        assert f"/invoices/{quote(id_, safe='')}" == location
        assert 200 == answer.status
        assert id_ == (await answer.json())["id"]

    async def test_an_id_may_have_every_printable_ascii_character(self, api):
        """An invoice whose id has all printable ASCII characters is found."""
        id_ = "".join(map(chr, range(0x20, 0x7F)))
        location = (await send(api, id=id_)).headers["Location"]

        assert id_ == (await (await api.get(location)).json())["id"]

    @pytest.mark.parametrize(
        "id_", ["", ".", "..", "\x00", "a\nb", "\r\n", "\x7f", "\x85", "i" * 201, 7, None, [], True]
    )
    async def test_id_that_no_url_can_carry_is_refused(self, api, id_):
        """An id that is empty, only dots, too long or has control characters is refused."""
        answer = await api.post("/invoices/", json={**SEED, "id": id_})

        assert [("body", "/id")] == await field_errors_of(answer)

    async def test_unavailable_storage_is_503_with_retry_after(self, api, database):
        """While the database is unavailable, the response is 503 with Retry-After."""
        database.fault = lambda _: StorageUnavailable("secret: disk I/O error")

        answer = await send(api)

        assert 503 == answer.status
        assert "5" == answer.headers["Retry-After"]
        assert "secret" not in await answer.text()


class TestMoney:
    @pytest.mark.parametrize(
        ("expected", "total", "currency"),
        [
            ("9999.00", "9999", "USD"),
            ("9999.00", 9999.0, "USD"),
            ("0.01", "0.01", "USD"),
            ("0.10", 0.1, "USD"),
            # A JSON number is read as a double, as by other JSON parsers.
            ("1.00", 0.999999999999999999999, "USD"),
            ("0.29", 0.29, "USD"),
            ("1.15", 1.15, "EUR"),
            ("8.20", "8.2", "EUR"),
            ("65.57", 65.57, "USD"),
            ("4.35", 4.35, "USD"),
            ("100.00", 1e2, "USD"),
            ("5", "5", "JPY"),
            ("5", 5.0, "JPY"),
            ("1.234", "1.234", "BHD"),
            ("1.2345", "1.2345", "CLF"),
            ("999999999999.99", "999999999999.99", "USD"),
            ("999999999999.9999", "999999999999.9999", "CLF"),
        ],
    )
    async def test_amount_is_returned_exactly(self, api, expected, total, currency):
        """An amount is returned as a string with all decimals of its currency."""
        assert 202 == (await send(api, total=total, currency=currency)).status
        assert expected == (await (await api.get("/invoices/2expen51ve")).json())["total"]

    @pytest.mark.parametrize(
        "total",
        [
            "0",
            "0.00",
            "-1",
            -1,
            0,
            -0.0,
            -0.001,
            "1.999",
            0.001,
            "1e3",
            "1e1000000000",
            1e30,
            2**64,
            1e-7,
            "1_000",
            "1,000",
            "١٢",
            "１２.５",
            " 1",
            "1\n",
            "+1",
            "01",
            "1.",
            ".5",
            "",
            "NaN",
            "Infinity",
            "9" * 13,
            "9" * 5000,
            "0." + "0" * 5000 + "1",
            True,
            None,
            [],
            {},
            "9999 USD",
            "0x10",
        ],
    )
    async def test_invalid_amount_is_refused(self, api, total):
        """An invalid amount is refused, and is not rounded or converted."""
        answer = await api.post("/invoices/", json={**SEED, "total": total})

        assert [("body", "/total")] == await field_errors_of(answer)

    async def test_more_decimals_than_the_currency_has_are_refused(self, api):
        """The refusal names the number of decimals of the currency."""
        answer = await send(api, total="5.5", currency="JPY")

        assert "JPY has 0 decimals; this amount has 1." in await answer.text()

    @pytest.mark.parametrize("currency", ["usd", "XXX", "US", "XAU", 840, [], {}, True])
    async def test_unknown_currency_is_refused(self, api, currency):
        """A currency that is not an ISO 4217 code in capitals is refused."""
        answer = await api.post("/invoices/", json={**SEED, "currency": currency})

        assert [("body", "/currency")] == await field_errors_of(answer)

    @pytest.mark.parametrize("digits", [310, 400, 4301, 5000])
    @pytest.mark.parametrize("text", ["%s", "-%s", "1e%s"])
    async def test_thousands_of_digits_are_refused(self, api, digits, text):
        """An amount with thousands of digits is an error of the caller, never a 500."""
        body = b'{"id": "1", "customer": "c", "total": %s}' % (text % ("9" * digits)).encode()
        answer = await api.post("/invoices/", data=body, headers=JSON)

        assert answer.status in {400, 422}


class TestFieldErrors:
    async def test_all_field_errors_are_reported_at_once(self, api):
        """One response lists all field errors of the body, the query and the callback URL."""
        answer = await api.post(
            "/invoices/?callback_url=ftp://x&limit=1",
            json={"id": "..", "total": "0", "currency": "USD", "customer_email": "x", "extra": 1},
        )
        expected = {
            ("query", "/callback_url"),
            ("query", "/limit"),
            ("body", "/id"),
            ("body", "/total"),
            ("body", "/customer"),
            ("body", "/customer_email"),
            ("body", "/extra"),
        }

        assert expected == set(await field_errors_of(answer))

    async def test_no_field_error_is_reported_twice(self, api):
        """A field error that two rules find is reported once."""
        answer = await api.post("/invoices/?callback_url=%00&callback_url=x", json=[])
        places = await field_errors_of(answer)

        assert [("body", "")] == [place for place in places if place[0] == "body"]

    @pytest.mark.parametrize("body", ["[]", "1", "null", '"text"', "true", "[[]]"])
    async def test_json_that_is_not_an_object_is_refused(self, api, body):
        """A body that is JSON but not an object is refused."""
        answer = await api.post("/invoices/", data=body, headers=JSON)

        assert [("body", "")] == await field_errors_of(answer)

    @pytest.mark.parametrize("name", ["callbackUrl", "callback_url[]", "utm", "a/b~c", "\ud7ff"])
    async def test_unknown_query_parameter_is_refused(self, api, name):
        """A query parameter that is not declared is a field error."""
        answer = await api.post("/invoices/", params={name: "x"}, json=SEED)
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")

        assert [("query", pointer)] == await field_errors_of(answer)

    @pytest.mark.parametrize("path", ["/invoices/", "/deliveries/"])
    async def test_repeated_query_parameter_is_refused(self, api, path):
        """The service does not guess which of two values counts."""
        answer = await api.get(f"{path}?limit=1&limit=2")

        assert [("query", "/limit")] == await field_errors_of(answer)

    async def test_repeated_callback_url_is_refused(self, api):
        """The service does not choose one of two callback URLs."""
        answer = await api.post(
            f"/invoices/?callback_url={RECEIVER}&callback_url={RECEIVER}", json=SEED
        )

        assert [("query", "/callback_url")] == await field_errors_of(answer)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("title", "x" * 501),
            ("title", "a\x00b"),
            ("title", 7),
            ("customer", ""),
            ("customer", "x" * 501),
            ("customer", "a\r\nb"),
            ("customer", ["x"]),
            ("customer_email", "no address"),
            ("customer_email", '"\x01"@example.com'),
            ("customer_email", "a" * 250 + "@example.com"),
        ],
    )
    async def test_invalid_field_is_refused_by_name(self, api, field, value):
        """The pointer of the field error names the invalid field."""
        answer = await api.post("/invoices/", json={**SEED, field: value})

        assert [("body", f"/{field}")] == await field_errors_of(answer)

    async def test_optional_fields_may_be_null(self, api):
        """Null in an optional field means the same as no field."""
        answer = await api.post("/invoices/", json={**SEED, "title": None, "customer_email": None})

        assert 202 == answer.status
        assert 200 == (await send(api)).status


class TestCallbackUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "x",
            "api.example.com",
            "//api.example.com",
            "ftp://api.example.com",
            "ws://api.example.com",
            "http://api.example.com",
            "https://",
            "https:///x",
            "https://user:secret@api.example.com",
            "https://api.example.com?x=1",
            "https://api.example.com#x",
            "https://api.example.com:0",
            "https://api.example.com:65536",
            "https://api.example.com:８０",
            "https://①②⑦.0.0.1",
            "https://api.example.com/a b",
            "https://api.example.com/é",
            "https://api.example.com/%zz",
            "https://api.example.com\\@127.0.0.1",
            "https://a\nb",
            "https://a\x00b",
            "https://127.1",
            "https://0x7f.1",
            "https://2130706433",
            "https://[fe80::1%25eth0]",
            "https://" + "a" * 2050,
            "https://" + "a." * 130 + "example",
            "javascript:alert(1)",
            "file:///etc/passwd",
        ],
    )
    async def test_url_that_cannot_be_called_is_refused(self, api, url):
        """A callback URL that cannot be called is refused at once, not at delivery."""
        answer = await send(api, callback_url=url)

        assert [("query", "/callback_url")] == await field_errors_of(answer)

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[fd00::1]",
            "168.63.129.16",
        ],
    )
    async def test_refusal_reveals_nothing_about_our_network(self, api, host):
        """All addresses that must not be called are refused with the same message."""
        document = await (await send(api, callback_url=f"https://{host}:1")).json()
        expected = {
            "location": "query",
            "pointer": "/callback_url",
            "message": "The value is an address that cannot be called.",
        }

        assert [expected] == document["errors"]

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:9000",
            "http://localhost:9000/",
            "https://api.example.com/a/b/",
            "https://[2606:4700::1111]:8443",
            "HTTPS://API.example.com",
            "https://api.example.com/%2e%2e/x",
            "https://sub_domain.example.com",
        ],
    )
    async def test_the_callback_url_is_returned_as_it_was_sent(self, dev_api, url):
        """The validated URL is kept byte for byte."""
        assert 202 == (await send(dev_api, callback_url=url)).status

        invoice = await (await dev_api.get("/invoices/2expen51ve")).json()

        assert url == invoice["callback_url"]

    @pytest.mark.parametrize("host", ["", "[::1", "a:99999", "a b", "é", "x" * 300])
    async def test_host_header_has_no_effect(self, api, host):
        """An invoice is accepted with any Host header."""
        headers = {"Host": host} if host else {}
        answer = await api.post("/invoices/", json=SEED, headers=headers)

        assert 202 == answer.status


class TestFinding:
    async def test_new_invoice_is_shown(self, api):
        """An invoice is shown with all its fields, amounts as strings and times in UTC."""
        await send(api, title="Expensive invoice", callback_url=RECEIVER)
        expected = {
            "id": "2expen51ve",
            "title": "Expensive invoice",
            "customer": "Mr. Richie Rich",
            "customer_email": None,
            "total": "9999.00",
            "currency": "USD",
            "status": "received",
            "locale": "en",
            "amount_refunded": "0.00",
            "mismatch": False,
            "overpaid": None,
            "callback_url": RECEIVER,
            "created_at": "2026-01-31T12:00:00.000Z",
            "events": [],
        }
        shown = await (await api.get("/invoices/2expen51ve")).json()

        assert shown.pop("payment_url").startswith("http://127.0.0.1:8080/pay/")
        assert expected == shown

    async def test_events_are_shown_in_order(self, api, store):
        """The events of an invoice are shown in their order."""
        await add_two_events(store, "1")
        invoice = await (await api.get("/invoices/1")).json()

        assert "paid" == invoice["status"]
        assert ["Invoice sent", "Invoice paid"] == [one["description"] for one in invoice["events"]]
        assert [False, True] == [one["paid"] for one in invoice["events"]]
        assert {"2026-01-31T12:00:00.000Z"} == {one["at"] for one in invoice["events"]}

    @pytest.mark.parametrize(
        "path", ["/invoices/none", "/invoices/none/", "/invoices/none/deliveries"]
    )
    async def test_unknown_invoice_is_not_found(self, api, path):
        """An unknown id is 404."""
        answer = await api.get(path)

        assert 404 == answer.status
        assert "/api/docs/problems#not-found" == (await answer.json())["type"]

    async def test_invoice_of_another_account_is_not_found(self, api, store):
        """An invoice of another account is 404, like an unknown one."""
        await add_delivery(store, "theirs", account_id="other")

        assert 404 == (await api.get("/invoices/theirs")).status
        assert 404 == (await api.get("/invoices/theirs/deliveries")).status
        assert [] == (await (await api.get("/invoices/")).json())["items"]

    @pytest.mark.parametrize("slash", ["", "/"])
    async def test_invoices_are_listed_newest_first(self, api, slash):
        """The list begins with the newest invoice."""
        for number in range(3):
            await send(api, id=str(number))
        page = await (await api.get(f"/invoices{slash}")).json()

        assert ["2", "1", "0"] == [one["id"] for one in page["items"]]
        assert page["next"] is None

    async def test_pages_follow_each_other(self, api):
        """The pages show every invoice once, and the last page has no cursor."""
        for number in range(5):
            await send(api, id=str(number))
        seen, after, page_count = [], None, 0
        while True:
            params = {"limit": "2"} | ({"after": after} if after else {})
            page = await (await api.get("/invoices/", params=params)).json()
            seen += [one["id"] for one in page["items"]]
            page_count += 1
            after = page["next"]
            if after is None:
                break

        assert ["4", "3", "2", "1", "0"] == seen
        assert 3 == page_count

    async def test_invoices_are_filtered_by_status(self, api, store):
        """The filter `status` lists only invoices in that status."""
        await add_delivery(store, "paid")
        await send(api, id="new")
        page = await (await api.get("/invoices/?status=paid")).json()

        assert ["paid"] == [one["id"] for one in page["items"]]

    @pytest.mark.parametrize(
        ("expected", "query"),
        [
            ("/limit", "limit=0"),
            ("/limit", "limit=201"),
            ("/limit", "limit=-1"),
            ("/limit", "limit="),
            ("/limit", "limit=5_0"),
            ("/limit", "limit=%205"),
            ("/limit", "limit=1.5"),
            ("/limit", "limit=%EF%BC%95"),
            ("/limit", "limit=" + "9" * 5000),
            ("/status", "status=gone"),
            ("/status", "status="),
            ("/after", "after="),
            ("/after", "after=%00"),
            ("/after", "after=" + "a" * 201),
            ("/colour", "colour=red"),
        ],
    )
    async def test_invalid_query_is_refused(self, api, expected, query):
        """An invalid filter is a field error, and is not ignored."""
        assert [("query", expected)] == await field_errors_of(await api.get(f"/invoices/?{query}"))

    async def test_failed_payment_is_shown(self, api, store):
        """An invoice whose payment failed is shown with that status."""
        await send(api, callback_url=RECEIVER)
        invoice = await lease_invoice(store, now=START + SECOND)
        event = an_event("Payment failed: declined", paid=False)
        await take_step(
            store, a_step(invoice, status=type(invoice.status).PAYMENT_FAILED, event=event)
        )
        shown = await (await api.get("/invoices/2expen51ve")).json()

        assert "payment_failed" == shown["status"]
        assert [False] == [one["paid"] for one in shown["events"]]


async def test_refused_invoice_is_not_stored(api, store):
    """An invoice that was answered 422 is not stored."""
    await send(api, total="0")
    due = await store.lease_invoices(LeaseRound(START, START + SECOND, 10))

    assert [] == list(due.invoices)
    assert orjson.loads(b"[]") == (await (await api.get("/invoices/")).json())["items"]
