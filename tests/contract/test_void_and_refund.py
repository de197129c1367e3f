"""`POST /invoices/{id}/void` and `/refund`, with the sandbox as the collector."""

from __future__ import annotations

import pytest

from service.collection.payments import Payments
from service.domain.states import InvoiceStatus
from tests.clock import START
from tests.rows import SECOND, a_step, an_event, an_invoice, lease_invoice, take_step

KEY = {"Idempotency-Key": "key-1"}


@pytest.fixture
def look(service, clock):
    """Have the collector asked about what is due."""
    (payments,) = [one for one in service.loops if isinstance(one, Payments)]

    async def ask():
        for due in await service.store.money.lease_payments(START, START + SECOND, 10):
            await payments.look(due)

    return ask


@pytest.fixture
async def paid(store):
    """An invoice of 99.00 USD that was paid."""
    await store.accept(an_invoice("1", total_minor=9_900, currency="USD", decimals=2))
    step = a_step(await lease_invoice(store), InvoiceStatus.PAID, event=an_event())
    assert await take_step(store, step)


@pytest.fixture
async def unpaid(store):
    """An invoice that was not paid."""
    await store.accept(an_invoice("1", total_minor=9_900, currency="USD", decimals=2))


async def refunded(api, body=None, headers=KEY):
    """The status and the body of the answer to a refund."""
    answer = await api.post("/invoices/1/refund", json=body, headers=headers)
    return answer.status, await answer.json()


async def events(api):
    """The status of the invoice, what was given back, and its events after the first."""
    shown = await (await api.get("/invoices/1")).json()
    told = [(one["description"], one["paid"]) for one in shown["events"]]
    return shown["status"], shown["amount_refunded"], told[1:]


# Void


@pytest.mark.parametrize("form", ["", "/"])
async def test_a_void_invoice_is_shown_as_such(api, unpaid, form):
    """The answer is 200 with the invoice; again, it is the same, and there is one event."""
    first, second = [await api.post(f"/invoices/1/void{form}") for _ in range(2)]

    assert (200, 200) == (first.status, second.status)
    shown = await first.json()
    assert shown == await second.json()
    assert "void" == shown["status"]
    assert [("Invoice void", False)] == [
        (one["description"], one["paid"]) for one in shown["events"]
    ]


async def test_a_paid_invoice_cannot_be_voided(api, paid):
    """The answer is 409, and the invoice is paid."""
    answer = await api.post("/invoices/1/void")

    assert 409 == answer.status
    assert "paid" in (await answer.json())["detail"]
    assert ("paid", "0.00", []) == await events(api)


@pytest.mark.parametrize("path", ["void", "refund"])
async def test_an_unknown_invoice_is_not_found(api, path):
    """Void and refund of an invoice that the account does not have are 404."""
    assert 404 == (await api.post(f"/invoices/none/{path}", headers=KEY)).status


# Refund


@pytest.mark.parametrize("body", [None, {}, {"amount": None}, {"amount": "99.00"}, {"amount": 99}])
async def test_all_is_given_back(api, paid, look, body):
    """Without an amount, or with all of it, the invoice is refunded, and the money is not there."""
    status, shown = await refunded(api, body)

    assert (202, "99.00", "pending") == (status, shown["amount"], shown["status"])
    assert ("paid", "0.00", []) == await events(api)
    await look()
    assert ("refunded", "99.00", [("Refunded: 99.00 USD", False)]) == await events(api)


async def test_a_body_is_optional(api, paid):
    """A refund of all that is left needs neither a body nor a media type."""
    answer = await api.post("/invoices/1/refund", headers=KEY)

    assert 202 == answer.status
    assert "99.00" == (await answer.json())["amount"]


async def test_parts_are_given_back(api, paid, look):
    """While something is left, the money is there; each part is an event."""
    for number, amount in enumerate(("10.00", "20.5", "68.50")):
        await refunded(api, {"amount": amount}, {"Idempotency-Key": f"key-{number}"})
        await look()

    assert (
        "refunded",
        "99.00",
        [
            ("Partly refunded: 10.00 USD", True),
            ("Partly refunded: 20.50 USD", True),
            ("Refunded: 68.50 USD", False),
        ],
    ) == await events(api)


async def test_the_same_key_gives_back_once(api, paid, look):
    """The same request again answers the same refund, with its status now."""
    first = await refunded(api, {"amount": "10.00"})
    await look()
    second = await refunded(api, {"amount": "10"})

    assert (202, 202) == (first[0], second[0])
    assert {**first[1], "status": "succeeded"} == second[1]
    assert "10.00" == (await events(api))[1]


@pytest.mark.parametrize("other", [None, {"amount": "11.00"}])
async def test_the_same_key_with_another_amount_is_a_conflict(api, paid, other):
    """A key names one refund of one amount."""
    await refunded(api, {"amount": "10.00"})

    status, problem = await refunded(api, other)

    assert 409 == status
    assert "another amount" in problem["detail"]


async def test_no_more_than_is_left_is_given_back(api, paid):
    """What is on its way counts as given back; above what is left the answer is 422."""
    await refunded(api, {"amount": "60.00"})

    status, problem = await refunded(api, {"amount": "60.00"}, {"Idempotency-Key": "key-2"})

    assert 422 == status
    (error,) = problem["errors"]
    assert ("/amount", "Only 39.00 USD is left to give back.") == (
        error["pointer"],
        error["message"],
    )


async def test_nothing_is_given_back_of_an_unpaid_invoice(api, unpaid):
    """An invoice that was not paid has nothing to give back."""
    status, problem = await refunded(api)

    assert 422 == status
    assert "Only 0.00 USD is left" in problem["errors"][0]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"amount": "0"},
        {"amount": "-1"},
        {"amount": "1.001"},
        {"amount": "x"},
        {"amount": True},
        {"amount": [1]},
        {"amount": "1e3"},
        {"total": "1"},
    ],
)
async def test_an_invalid_amount_is_refused(api, paid, body):
    """What is no amount of the currency of the invoice is 422."""
    assert 422 == (await refunded(api, body))[0]


async def test_an_amount_that_a_json_number_does_not_carry_is_refused(api, paid):
    """As with the total of an invoice, so many digits have to be sent as a string."""
    status, problem = await refunded(api, {"amount": 123456789012.1234})

    assert 422 == status
    assert "send it as a string" in problem["errors"][0]["message"]


async def test_a_refund_needs_a_key(api, paid):
    """Without `Idempotency-Key`, a request that is repeated would give back twice: it is 400."""
    status, problem = await refunded(api, headers={})

    assert 400 == status
    assert "Idempotency-Key is missing" in problem["detail"]


async def test_two_keys_are_refused(api, paid):
    """Of a header that is sent twice, none is the right one: proxies join or drop them."""
    headers = [("Idempotency-Key", "key-1"), ("Idempotency-Key", "key-2")]
    status, problem = await refunded(api, headers=headers)

    assert 400 == status
    assert "Idempotency-Key is sent more than once" in problem["detail"]
    assert ("paid", "0.00", []) == await events(api)


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "é"])
async def test_a_key_has_visible_characters(api, paid, key):
    """A key that nobody could recognise is refused."""
    assert (await refunded(api, headers={"Idempotency-Key": key}))[0] in {400, 422}
    assert ("paid", "0.00", []) == await events(api)
