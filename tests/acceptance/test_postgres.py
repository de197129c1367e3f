import asyncio
import json
import signal
import time

from standardwebhooks import Webhook

from service.development import DEV_SECRET
from tests.processes import command, receiving, serving, starting, starved, starved_since

SECRET = "s3cr3t"


# The schema


async def test_a_service_needs_only_an_empty_database(tmp_path, empty_postgres_url):
    """On an empty database the service starts without other steps, and delivers a callback."""
    async with (
        serving(tmp_path, database_url=empty_postgres_url) as service,
        receiving() as receiver,
    ):
        status, _ = await service.send("1", receiver.url)
        ((_, path, headers, body),) = await receiver.arrived.reaches(1)
        delivery = await service.delivery_of("1", is_settled=True)
        invoice = await service.get("/invoices/1")

    assert (202, "/invoices/1") == (status, path)
    Webhook(DEV_SECRET).verify(body, headers)
    assert ("delivered", headers["webhook-id"], "paid", 1) == (
        delivery["status"],
        delivery["id"],
        invoice["status"],
        len(delivery["attempts"]),
    )


async def test_an_older_schema_is_refused_until_it_is_migrated(tmp_path, older_postgres_url):
    """A start never changes an existing schema: its error names the command that does."""
    async with starting(tmp_path, database_url=older_postgres_url) as service:
        assert 2 == await service.ended()
    assert b"The database is on schema 0001" in service.output
    assert b"invoices migrate" in service.output
    assert b"Traceback" not in service.output

    status, printed, _ = await command("migrate", "--json", DATABASE_URL=older_postgres_url)

    revisions = json.loads(printed)
    assert (0, "0001") == (status, revisions["before"])
    assert "0001" != revisions["now"]
    async with serving(tmp_path, database_url=older_postgres_url) as service:
        assert {"status": "ok", "mail": "ok"} == await service.get("/readyz")


# Roles


async def test_an_api_process_leaves_deliveries_to_dispatchers(tmp_path, postgres_url):
    """A process with the role of the API only accepts; a dispatcher collects and delivers."""
    async with receiving() as receiver:
        async with serving(tmp_path, "--role", "api", database_url=postgres_url) as api:
            assert 202 == (await api.send("1", receiver.url))[0]
            assert {"status": "ok", "mail": "ok"} == await api.get("/readyz")
            # A process that drains finishes the attempts in flight.
            api.signal(signal.SIGTERM)
            assert 0 == await api.ended()
        assert 0 == len(receiver.arrived)

        async with serving(
            tmp_path, "--role", "dispatcher", database_url=postgres_url
        ) as dispatcher:
            await dispatcher.logged("attempt.settled")
            figures = await dispatcher.figures()
            found = {path: (await dispatcher.ask(path))[0] for path in HEALTH | NO_API}

    assert ["api", "dispatcher"] == [
        service.lines("service.started")[0]["role"] for service in (api, dispatcher)
    ]
    assert 1 == len(receiver.arrived)
    assert dict.fromkeys(HEALTH, 200) | dict.fromkeys(NO_API, 404) == found
    assert 1 == figures['invoices_attempts_total{outcome="delivered"}']


HEALTH = {"/healthz", "/readyz"}
NO_API = {"/invoices/", "/invoices/1", "/deliveries", "/api/docs", "/api/docs/openapi.json"}


async def test_a_dispatcher_is_woken_by_an_api(tmp_path, postgres_url):
    """An invoice that one process accepts is delivered by another at once, without polling."""
    waits = []
    async with (
        receiving() as receiver,
        starting(tmp_path, "--role", "api", database_url=postgres_url) as api,
        starting(tmp_path, "--role", "dispatcher", database_url=postgres_url) as dispatcher,
    ):
        await asyncio.gather(*(one.logged("service.started") for one in (api, dispatcher)))
        # Each invoice follows the one before at once, when the next poll is farthest away.
        for number in range(1, 5):
            sent_at, before = time.monotonic(), starved()
            await api.send(str(number), receiver.url)
            await receiver.arrived.reaches(number)
            # Without the time in which other programs had the processors.
            waits.append(time.monotonic() - sent_at - starved_since(before))

    assert 4 == len(waits)
    assert max(waits) < 1, waits


# An unavailable database


async def test_a_service_waits_for_its_database(tmp_path, own_server):
    """A service that starts before its database waits for it."""
    own_server.stop()
    async with starting(tmp_path, database_url=own_server.url()) as service:
        await service.logged("storage.awaited")
        assert [] == service.lines("service.started")
        own_server.start()

        await service.logged("service.started")
        assert {"status": "ok", "mail": "ok"} == await service.get("/readyz")


async def test_a_service_that_waits_can_be_stopped(tmp_path, own_server):
    """A service that waits for its database ends at once on a stop, and reports no failure."""
    own_server.stop()
    # Its next try would be in an hour.
    program = ("tests.acceptance.patient",)
    async with starting(tmp_path, database_url=own_server.url(), program=program) as service:
        await service.logged("storage.awaited")
        service.signal(signal.SIGTERM)
        assert 0 == await service.ended()
    assert 1 == len(service.lines("storage.awaited"))
    assert [] == service.lines("service.started")


async def test_an_unknown_database_is_reported(tmp_path, postgres_server):
    """An error names the unknown database, and does not contain the password."""
    url = postgres_server.url("no_such_database").replace("@", f":{SECRET}@", 1)
    async with starting(tmp_path, database_url=url) as service:
        assert 1 == await service.ended()

    assert b'database "no_such_database" does not exist' in service.output
    assert b"Traceback" not in service.output
    assert SECRET.encode() not in service.output
