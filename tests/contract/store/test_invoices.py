import asyncio

import orjson
import pytest

from service.domain.states import Acceptance, InvoiceStatus
from service.errors import NotFound, UnknownCursor
from service.storage.tables import invoices
from tests.clock import START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    lease_invoice,
    rows_of,
    take_step,
)

STORED, REPLAYED, CONFLICT = Acceptance.STORED, Acceptance.REPLAYED, Acceptance.CONFLICT


async def page(store, account_id="dev", *, status=None, after=None, limit=50):
    """The ids on one page, and the cursor of the next page."""
    rows, cursor = await store.history.list_invoices(
        account_id, status=status, after=after, limit=limit
    )
    return [row["id"] for row in rows], cursor


# Accepting


async def test_an_accepted_invoice_is_stored_completely(store, database):
    """An accepted invoice can be found with all its fields, and is due for collection."""
    invoice = an_invoice(
        title="Expensive – très", customer_email="richie@example.com", total_minor=2**53 + 1
    )

    assert STORED is await store.accept(invoice)

    found = await store.history.find_invoice("dev", "1")
    for name in ("id", "title", "customer", "customer_email", "total_minor", "currency"):
        assert getattr(invoice, name) == found[name]
    assert (START, ONE) == (found["created_at"], found["callback_url"])
    (evaluated,) = orjson.loads(found["callbacks"])
    assert ["invoice_notification", f"{ONE}/invoices/1", ONE] == evaluated
    assert (InvoiceStatus.RECEIVED, []) == (found["status"], found["events"])
    (row,) = await rows_of(database, invoices)
    assert START == row["due_at"]


async def test_the_same_invoice_again_changes_nothing(store, database):
    """A caller that lost the response may send the invoice again at any time."""
    await store.accept(an_invoice())
    before = await rows_of(database, invoices)

    assert REPLAYED is await store.accept(an_invoice(at=START + SECOND))

    assert before == await rows_of(database, invoices)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "Another"},
        {"title": ""},
        {"customer": "Mr. Poor"},
        {"customer_email": "richie@example.com"},
        {"total_minor": 999901},
        {"currency": "EUR"},
        {"origin": TWO},
        {"origin": None},
    ],
    ids=lambda changes: ",".join(f"{key}={value}" for key, value in changes.items()),
)
async def test_other_content_under_a_known_id_is_a_conflict(store, database, changes):
    """One id stands for one content, and the content that was stored first stays."""
    await store.accept(an_invoice())
    before = await rows_of(database, invoices)

    assert CONFLICT is await store.accept(an_invoice(**changes))

    assert before == await rows_of(database, invoices)


async def test_accounts_may_use_the_same_invoice_id(store):
    """Two accounts can use the same id independently."""
    assert STORED is await store.accept(an_invoice(account_id="a", title="Of a"))
    assert STORED is await store.accept(an_invoice(account_id="b", title="Of b"))

    assert "Of a" == (await store.history.find_invoice("a", "1"))["title"]
    assert "Of b" == (await store.history.find_invoice("b", "1"))["title"]


async def test_requests_of_one_batch_are_accepted_in_order(store, database):
    """Requests that share a transaction get the same results as one after another."""
    await store.accept(an_invoice("known"))

    given = await asyncio.gather(
        store.accept(an_invoice("new")),
        store.accept(an_invoice("known")),
        store.accept(an_invoice("new")),
        store.accept(an_invoice("new", title="Another")),
        store.accept(an_invoice("new", account_id="other", title="Another")),
        store.accept(an_invoice("known", title="Another")),
        store.accept(an_invoice("new", account_id="other", title="Another")),
    )

    assert [STORED, REPLAYED, REPLAYED, CONFLICT, STORED, CONFLICT, REPLAYED] == given
    assert 3 == len(await rows_of(database, invoices))


async def test_of_two_contents_in_one_batch_the_stored_one_is_kept(store):
    """If two contents have the same id, the one with the result `stored` is kept."""
    given = await asyncio.gather(
        *(store.accept(an_invoice(title=title)) for title in ("first", "second"))
    )

    assert [STORED, CONFLICT] == given
    assert "first" == (await store.history.find_invoice("dev", "1"))["title"]


async def test_a_replay_after_the_collection_is_still_a_replay(store):
    """An invoice that has changed its state since is still the same content."""
    await add_delivery(store)

    assert REPLAYED is await store.accept(an_invoice())
    assert InvoiceStatus.PAID == (await store.history.find_invoice("dev", "1"))["status"]


async def test_accepting_wakes_the_collector(store):
    """The collector is woken after an invoice is committed, and not after a replay."""
    await store.accept(an_invoice())
    assert store.invoices_due.is_set()

    store.invoices_due.clear()
    await store.accept(an_invoice())
    assert not store.invoices_due.is_set()


# Finding


@pytest.mark.parametrize(("account_id", "id_"), [("dev", "2"), ("other", "1"), ("dev", "")])
async def test_unknown_invoices_and_those_of_others_are_not_found(store, account_id, id_):
    """An invoice of another account is not found, like one that does not exist."""
    await store.accept(an_invoice("1"))

    with pytest.raises(NotFound):
        await store.history.find_invoice(account_id, id_)


async def test_events_are_listed_in_order(store):
    """The events of an invoice are listed from the first to the last."""
    await add_two_events(store)

    found = await store.history.find_invoice("dev", "1")
    assert [("Invoice sent", False), ("Invoice paid", True)] == [
        (event["description"], event["paid"]) for event in found["events"]
    ]
    assert {("sandbox", START)} == {(event["collector"], event["at"]) for event in found["events"]}


# Listing


async def test_pages_go_from_the_newest_to_the_oldest(store):
    """The cursors lead to every invoice once, and the last page has none."""
    for number in range(5):
        await store.accept(an_invoice(f"i{number}"))

    assert (["i4", "i3"], "i3") == await page(store, limit=2)
    assert (["i2", "i1"], "i1") == await page(store, after="i3", limit=2)
    assert (["i0"], None) == await page(store, after="i1", limit=2)


async def test_a_full_last_page_has_no_cursor(store):
    """No cursor leads to an empty page."""
    for number in range(2):
        await store.accept(an_invoice(f"i{number}"))

    assert (["i1", "i0"], None) == await page(store, limit=2)


async def test_new_invoices_do_not_move_pages(store):
    """New invoices come before the first page and do not change later pages."""
    for number in range(3):
        await store.accept(an_invoice(f"i{number}"))
    _, cursor = await page(store, limit=1)

    await store.accept(an_invoice("new"))

    assert (["i1", "i0"], None) == await page(store, after=cursor)


async def test_invoices_of_the_same_instant_are_listed_in_order(store):
    """Invoices of one batch and one instant are listed newest first."""
    ids = [f"i{number}" for number in range(20)]

    await asyncio.gather(*(store.accept(an_invoice(id_)) for id_ in ids))

    assert (ids[::-1], None) == await page(store)


async def test_lists_contain_one_account(store):
    """No cursor shows an invoice of another account."""
    for id_, account_id in (("a1", "a"), ("b1", "b"), ("a2", "a")):
        await store.accept(an_invoice(id_, account_id=account_id))

    assert (["a2", "a1"], None) == await page(store, "a")
    assert (["b1"], None) == await page(store, "b")
    with pytest.raises(UnknownCursor):
        await page(store, "a", after="b1")
    assert ([], None) == await page(store, "unknown")


async def test_lists_can_be_restricted_to_a_status(store):
    """A filter restricts every page, and its cursors lead to the next page of the filtered list."""
    for id_ in ("i0", "i1"):
        await add_delivery(store, id_)
    await store.accept(an_invoice("i2"))

    assert (["i2"], None) == await page(store, status="received")
    assert (["i1"], "i1") == await page(store, status="paid", limit=1)
    assert (["i0"], None) == await page(store, status="paid", after="i1", limit=1)
    assert ([], None) == await page(store, status="payment_failed")


async def test_listed_invoices_have_their_own_events(store):
    """Each invoice of a page has its own events."""
    await store.accept(an_invoice("i0"))
    event = an_event("Payment failed", paid=False)
    await take_step(store, a_step(await lease_invoice(store), event=event))
    await store.accept(an_invoice("i1"))

    rows, _ = await store.history.list_invoices("dev", status=None, after=None, limit=50)

    assert [[], ["Payment failed"]] == [
        [event["description"] for event in row["events"]] for row in rows
    ]
