"""`GET /invoices/?id=`: an invoice is found although a proxy refuses its id in a path."""

import pytest

from service.storage import invoices as queries

SEED = {"customer": "Mr. Richie Rich", "total": "9999"}
IDS = ["sl/ash", "a b", "a{b}c", "%2F", "100%", "a+b", "a?b#c&id=1", " a", "é😀", "'", "é" * 200]


async def listed(api, **params):
    """The ids on the page that *params* ask for."""
    answer = await api.get("/invoices/", params=params)
    assert 200 == answer.status, await answer.text()
    page = await answer.json()
    return [one["id"] for one in page["items"]], page["next"]


@pytest.mark.parametrize("id_", IDS)
async def test_any_id_finds_its_invoice_alone(api, id_):
    """Every id that a POST takes is found by a query, and nothing else is."""
    for one in ("before", id_, "after"):
        assert 202 == (await api.post("/invoices/", json={**SEED, "id": one})).status

    assert ([id_], None) == await listed(api, id=id_)
    assert ([id_], None) == await listed(api, id=id_, limit="1", status="received")


async def test_what_is_found_is_the_whole_invoice(api):
    """The item of the list is what GET /invoices/{id} answers."""
    await api.post("/invoices/", json={**SEED, "id": "sl/ash"})

    page = await (await api.get("/invoices/?id=sl%2Fash")).json()

    assert [await (await api.get("/invoices/sl%2Fash")).json()] == page["items"]


async def test_unknown_id_finds_nothing(api):
    """A filter without a match is an empty page; another status is no match."""
    await api.post("/invoices/", json={**SEED, "id": "1"})

    assert ([], None) == await listed(api, id="2")
    assert ([], None) == await listed(api, id="1", status="paid")
    assert ([], None) == await listed(api, id="1", after="1")


@pytest.mark.parametrize("id_", [".", "..", "a\nb", "\0", "a" * 201])
async def test_what_is_no_id_is_refused_as_in_a_body(api, id_):
    """The rules are those of the id of a new invoice, and so are the messages."""
    query = await api.get("/invoices/", params={"id": id_})
    body = await api.post("/invoices/", json={**SEED, "id": id_})

    assert (422, 422) == (query.status, body.status)
    (in_query,), (in_body,) = [(await one.json())["errors"] for one in (query, body)]
    assert ("query", "/id") == (in_query["location"], in_query["pointer"])
    assert in_body["message"] == in_query["message"]


async def test_empty_id_is_refused(api):
    """A filter without a value is a mistyped one, and does not list everything."""
    assert 422 == (await api.get("/invoices/?id=")).status


async def test_ids_of_other_accounts_are_not_found(api, store):
    """Ids are those of the account that asks."""
    await api.post("/invoices/", json={**SEED, "id": "1"})

    assert ([], None) == await store.list_invoices(
        "another", status=None, after=None, limit=1, invoice_id="1"
    )


async def test_unique_index_finds_it(database):
    """However many invoices an account has, one is looked at."""
    seen = []

    def explained(tx):
        execute = tx.execute

        def explain(statement, *args):
            text = str(statement.compile(tx, compile_kwargs={"literal_binds": True}))
            lines = tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
            seen.append([line for *_, line in lines])
            return execute(statement, *args)

        tx.execute = explain
        queries.list_invoices(tx, "dev", status=None, after=None, limit=50, invoice_id="1")

    await database.read(explained)

    (plan,) = seen[0]
    assert plan.startswith("SEARCH invoices USING INDEX")
    assert "(account_id=? AND id=?)" in plan
