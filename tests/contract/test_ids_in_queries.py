"""`GET /invoices/?id=`: finds an invoice whose id a proxy refuses in a path."""

import pytest

from service.storage import invoices as queries

SEED = {"customer": "Mr. Richie Rich", "total": "9999"}
IDS = ["sl/ash", "a b", "a{b}c", "%2F", "100%", "a+b", "a?b#c&id=1", " a", "é😀", "'", "é" * 200]


async def listed(api, **params):
    """The ids of the page for *params*, and its cursor."""
    answer = await api.get("/invoices/", params=params)
    assert 200 == answer.status, await answer.text()
    page = await answer.json()
    return [one["id"] for one in page["items"]], page["next"]


@pytest.mark.parametrize("id_", IDS)
async def test_any_id_finds_only_its_invoice(api, id_):
    """Every id that POST accepts finds its invoice, and only that one."""
    for one in ("before", id_, "after"):
        assert 202 == (await api.post("/invoices/", json={**SEED, "id": one})).status

    assert ([id_], None) == await listed(api, id=id_)
    assert ([id_], None) == await listed(api, id=id_, limit="1", status="received")


async def test_the_item_is_the_whole_invoice(api):
    """The item of the list equals the response of GET /invoices/{id}."""
    await api.post("/invoices/", json={**SEED, "id": "sl/ash"})

    page = await (await api.get("/invoices/?id=sl%2Fash")).json()

    assert [await (await api.get("/invoices/sl%2Fash")).json()] == page["items"]


async def test_unknown_id_finds_nothing(api):
    """An unknown id, or an id with another status, gives an empty page."""
    await api.post("/invoices/", json={**SEED, "id": "1"})

    assert ([], None) == await listed(api, id="2")
    assert ([], None) == await listed(api, id="1", status="paid")
    assert ([], None) == await listed(api, id="1", after="1")


@pytest.mark.parametrize("id_", [".", "..", "a\nb", "\0", "a" * 201])
async def test_an_invalid_id_is_refused_as_in_a_body(api, id_):
    """The rules and the messages are the same as for the id of a new invoice."""
    query = await api.get("/invoices/", params={"id": id_})
    body = await api.post("/invoices/", json={**SEED, "id": id_})

    assert (422, 422) == (query.status, body.status)
    (in_query,), (in_body,) = [(await one.json())["errors"] for one in (query, body)]
    assert ("query", "/id") == (in_query["location"], in_query["pointer"])
    assert in_body["message"] == in_query["message"]


async def test_empty_id_is_refused(api):
    """An empty id is a field error, and does not list all invoices."""
    assert 422 == (await api.get("/invoices/?id=")).status


async def test_ids_of_other_accounts_are_not_found(api, store):
    """The id of another account finds nothing."""
    await api.post("/invoices/", json={**SEED, "id": "1"})

    assert ([], None) == await store.history.list_invoices(
        "another", status=None, after=None, limit=1, invoice_id="1"
    )


async def test_unique_index_finds_it(database):
    """The query uses the unique index, however many invoices an account has."""
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
