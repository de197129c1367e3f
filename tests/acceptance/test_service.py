import asyncio
import json
import signal
from collections import Counter
from datetime import datetime, timedelta

import aiohttp
import pytest
from standardwebhooks import Webhook

from service import __version__
from service.development import DEV_SECRET
from tests.processes import free_port, receiving, serving, until

pytestmark = pytest.mark.usefixtures("migrated")

QUICK = {"RETRY_SCHEDULE": "50ms,50ms", "CALLBACK_TIMEOUT": "1s"}
INVOICE_COUNT = 200
PAID = {"description": "Invoice paid", "paid": True}
"""What a delivery tells of its event."""


# From the invoice to the callback


async def test_development_mode_answers_for_its_own_hosts(tmp_path):
    """In development mode, a name that was made to lead to this machine is refused."""
    async with serving(tmp_path) as service, aiohttp.ClientSession() as session:
        for status, host in ((200, "localhost"), (421, "evil.example")):
            headers = {"Host": host}
            async with session.get(service.url + "/healthz", headers=headers) as answer:
                assert status == answer.status


async def test_an_accepted_invoice_causes_a_callback(tmp_path):
    """An invoice is accepted, collected and delivered, and its delivery can be read."""
    async with serving(tmp_path) as service, receiving() as receiver:
        status, headers = await service.send("2expen51ve", receiver.url, title="Expensive")
        ((method, path, sent, body),) = await receiver.arrived.reaches(1)
        delivery = await service.delivery_of("2expen51ve", is_settled=True)
        invoice = await service.get("/invoices/2expen51ve")

    assert (202, "/invoices/2expen51ve") == (status, headers["Location"])
    assert ("POST", "/invoices/2expen51ve") == (method, path)
    assert {**PAID, "invoice_id": "2expen51ve"} == json.loads(body)
    Webhook(DEV_SECRET).verify(body, sent)
    assert ("application/json", f"invoices/{__version__}") == (
        sent["Content-Type"],
        sent["User-Agent"],
    )
    assert (sent["webhook-id"], "delivered", None) == (
        delivery["id"],
        delivery["status"],
        delivery["reason"],
    )
    assert (f"{receiver.url}/invoices/2expen51ve", PAID) == (delivery["url"], delivery["event"])
    (attempt,) = delivery["attempts"]
    assert (1, 200, "delivered", None, '{"ok": true}') == (
        attempt["number"],
        attempt["status_code"],
        attempt["outcome"],
        attempt["detail"],
        attempt["response_body"],
    )
    assert ("paid", "9999.00", "USD") == (
        invoice["status"],
        invoice["total"],
        invoice["currency"],
    )
    assert [("Invoice paid", True)] == [
        (event["description"], event["paid"]) for event in invoice["events"]
    ]


async def test_the_same_invoice_again_causes_no_second_callback(tmp_path):
    """The same request again gets 200, other content gets 409, and one callback is sent."""
    async with serving(tmp_path) as service, receiving() as receiver:
        answers = [await service.send("1", receiver.url) for _ in range(2)]
        answers.append(await service.send("1", receiver.url, total="1"))
        await service.delivery_of("1", is_settled=True)
        await service.send("2", receiver.url)
        arrived = await receiver.arrived.reaches(2)

    assert [202, 200, 409] == [status for status, _ in answers]
    assert "true" == answers[1][1]["Idempotent-Replayed"]
    assert ["/invoices/1", "/invoices/2"] == [path for _, path, _, _ in arrived]


async def test_without_a_callback_url_no_receiver_is_called(tmp_path):
    """An invoice without a callback URL is collected without a callback."""
    async with serving(tmp_path) as service:
        status, _ = await service.send("1")

        async def is_paid():
            return "paid" == (await service.get("/invoices/1"))["status"]

        assert await until(is_paid)
        assert 202 == status
        assert {"items": [], "next": None} == await service.get("/invoices/1/deliveries")


async def test_lists_show_invoices_and_deliveries(tmp_path):
    """Invoices and deliveries can be listed, filtered, and read page by page."""
    async with serving(tmp_path) as service, receiving() as receiver:
        for number in range(3):
            await service.send(str(number), receiver.url)
        for number in range(3):
            await service.delivery_of(str(number), is_settled=True)

        page = await service.get("/invoices/?limit=2")
        assert ["2", "1"] == [invoice["id"] for invoice in page["items"]]
        page = await service.get(f"/invoices/?limit=2&after={page['next']}")
        assert (["0"], None) == ([invoice["id"] for invoice in page["items"]], page["next"])

        page = await service.get("/deliveries/?status=delivered&limit=2")
        found = [delivery["invoice_id"] for delivery in page["items"]]
        page = await service.get(f"/deliveries/?status=delivered&after={page['next']}")
        found += [delivery["invoice_id"] for delivery in page["items"]]
        assert ["0", "1", "2"] == sorted(found)


# Receivers with errors


def refusing(status):
    """The outcome of an attempt with an answer that is not 2xx."""
    return ("refused", status, f"the receiver answered {status}")


ERRORS = {
    "500": ({"status": 500, "text": "oops"}, refusing(500), "oops"),
    "HTML": (
        {"text": "<html>for sale</html>"},
        (
            "invalid_answer",
            200,
            'the body of the answer should be {"ok": true}, but is <html>for sale</html>',
        ),
        "<html>for sale</html>",
    ),
    "not ok": (
        {"text": '{"ok": false}'},
        (
            "invalid_answer",
            200,
            'the body of the answer should be {"ok": true}, but is {"ok": false}',
        ),
        '{"ok": false}',
    ),
    "redirect": (
        {"status": 307, "text": "", "headers": {"Location": "/elsewhere"}},
        (
            "refused",
            307,
            "the receiver answered 307; redirects are not followed; it points to /elsewhere",
        ),
        "",
    ),
}


@pytest.mark.parametrize(("given", "expected", "body"), ERRORS.values(), ids=ERRORS.keys())
async def test_a_delivery_shows_the_error_of_its_receiver(tmp_path, given, expected, body):
    """Every attempt shows the answer, until the schedule is exhausted."""
    async with serving(tmp_path, **QUICK) as service, receiving() as receiver:
        for _ in range(9):
            receiver.answer(**given)
        await service.send("1", receiver.url)
        delivery = await service.delivery_of("1", is_settled=True)

    assert ("dead", "exhausted", 3, None) == (
        delivery["status"],
        delivery["reason"],
        delivery["attempt_count"],
        delivery["due_at"],
    )
    assert [(number, *expected, body) for number in (1, 2, 3)] == [
        (
            attempt["number"],
            attempt["outcome"],
            attempt["status_code"],
            attempt["detail"],
            attempt["response_body"],
        )
        for attempt in delivery["attempts"]
    ]
    assert 3 == len(receiver.arrived)
    assert 1 == len({(sent["webhook-id"], body) for _, _, sent, body in receiver.arrived.entries})


@pytest.mark.parametrize(
    ("expected", "contract"),
    [
        (("dead", "invalid_answer", 204), "strict"),
        (("delivered", "delivered", 204), "lenient"),
    ],
)
async def test_bytes_after_a_204_are_ignored(tmp_path, expected, contract):
    """A complete answer is read, although bytes follow that belong to no answer."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n0\r\n\r\n")
        await reader.read()
        writer.close()

    settings = {"RETRY_SCHEDULE": "", "RECEIVER_CONTRACT": contract}
    async with (
        serving(tmp_path, **settings) as service,
        await asyncio.start_server(answer, "127.0.0.1", 0) as served,
    ):
        await service.send("1", f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}")
        delivery = await service.delivery_of("1", is_settled=True)

    (attempt,) = delivery["attempts"]
    assert expected == (delivery["status"], attempt["outcome"], attempt["status_code"])


async def test_a_receiver_that_recovers_is_delivered_to(tmp_path):
    """One failure costs one attempt and one delay."""
    async with serving(tmp_path, **QUICK) as service, receiving() as receiver:
        receiver.answer(status=503, text="")
        await service.send("1", receiver.url)
        delivery = await service.delivery_of("1", is_settled=True)

    assert ("delivered", None) == (delivery["status"], delivery["reason"])
    assert ["refused", "delivered"] == [attempt["outcome"] for attempt in delivery["attempts"]]


async def test_a_receiver_that_is_down_is_unreachable(tmp_path):
    """If no process listens, the attempt has no status, and its detail says why."""
    async with serving(tmp_path, **QUICK) as service:
        await service.send("1", f"http://127.0.0.1:{free_port()}")
        delivery = await service.delivery_of("1", is_settled=True)

    assert ("dead", "exhausted") == (delivery["status"], delivery["reason"])
    assert [("unreachable", None, None)] * 3 == [
        (attempt["outcome"], attempt["status_code"], attempt["response_body"])
        for attempt in delivery["attempts"]
    ]


async def test_a_receiver_that_hangs_times_out(tmp_path):
    """An attempt ends at its deadline, and its detail says so."""
    settings = {"RETRY_SCHEDULE": "", "CALLBACK_TIMEOUT": "200ms"}
    async with serving(tmp_path, **settings) as service, receiving() as receiver:
        receiver.may_answer.clear()
        await service.send("1", receiver.url)
        delivery = await service.delivery_of("1", is_settled=True)

    (attempt,) = delivery["attempts"]
    assert ("timeout", None, "there was no complete answer within 0.2 s") == (
        attempt["outcome"],
        attempt["status_code"],
        attempt["detail"],
    )
    assert 200 <= attempt["duration_ms"] < 5000


async def test_410_ends_a_delivery_at_once(tmp_path):
    """After a 410 no more attempts are made."""
    async with serving(tmp_path, **QUICK) as service, receiving() as receiver:
        receiver.answer(status=410, text="")
        await service.send("1", receiver.url)
        delivery = await service.delivery_of("1", is_settled=True)

    assert ("dead", "gone", 1) == (
        delivery["status"],
        delivery["reason"],
        delivery["attempt_count"],
    )


async def test_retry_after_delays_the_next_attempt(tmp_path):
    """The next attempt to the origin comes after the hold, whatever the schedule says."""
    async with serving(tmp_path, **QUICK) as service, receiving() as receiver:
        receiver.answer(status=429, text="", headers={"Retry-After": "1"})
        await service.send("1", receiver.url)
        await receiver.arrived.reaches(1)
        await service.delivery_of("1")
        await service.send("2", receiver.url)
        first = await service.delivery_of("1", is_settled=True)
        second = await service.delivery_of("2", is_settled=True)

    refused, accepted = first["attempts"]
    waited = datetime.fromisoformat(accepted["started_at"]) - datetime.fromisoformat(
        refused["started_at"]
    )
    assert (429, 200) == (refused["status_code"], accepted["status_code"])
    assert timedelta(seconds=1) <= waited
    assert ("delivered", "delivered") == (first["status"], second["status"])


async def test_a_lenient_contract_accepts_any_2xx(tmp_path):
    """With the lenient contract any body is accepted, and the difference is recorded."""
    async with (
        serving(tmp_path, RECEIVER_CONTRACT="lenient") as service,
        receiving() as receiver,
    ):
        receiver.answer(text="<html>")
        await service.send("1", receiver.url)
        delivery = await service.delivery_of("1", is_settled=True)

    (attempt,) = delivery["attempts"]
    assert ("delivered", "delivered") == (delivery["status"], attempt["outcome"])
    assert attempt["detail"].startswith("accepted although")


# Stops and kills


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_stop_finishes_attempts_in_flight(tmp_path, number):
    """A stopped service records the open answer, accepts no more requests, and exits with 0."""
    async with receiving() as receiver:
        receiver.may_answer.clear()
        async with serving(tmp_path) as service:
            await service.send("1", receiver.url)
            await receiver.arrived.reaches(1)
            service.signal(number)
            await service.logged("service.draining")
            receiver.may_answer.set()
            assert 0 == await service.ended()

        async with serving(tmp_path) as service:
            delivery = await service.delivery_of("1", is_settled=True)

    assert ("delivered", ["delivered"]) == (
        delivery["status"],
        [attempt["outcome"] for attempt in delivery["attempts"]],
    )
    assert 1 == len(receiver.arrived)


async def test_an_idle_service_stops_at_once(tmp_path):
    """An idle service stops without waiting for a timeout."""
    async with serving(tmp_path) as service, asyncio.timeout(5):
        service.signal(signal.SIGTERM)
        assert 0 == await service.ended()


async def test_a_drain_has_a_time_limit(tmp_path):
    """A receiver that never answers delays a stop no longer than the drain timeout."""
    async with receiving() as receiver:
        receiver.may_answer.clear()
        settings = {"DRAIN_TIMEOUT": "100ms", "CALLBACK_TIMEOUT": "60s"}
        async with serving(tmp_path, **settings) as service:
            await service.send("1", receiver.url)
            await receiver.arrived.reaches(1)
            service.signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert 0 == await service.ended()
            assert "drain.timed_out" in {line["event"] for line in service.log.entries}


@pytest.mark.slow
async def test_a_kill_loses_no_accepted_invoice(tmp_path):
    """After SIGKILL every accepted invoice arrives; only attempts in flight are repeated."""
    accepted = []

    async def send_all(service, receiver):
        for number in range(INVOICE_COUNT):
            status, _ = await service.send(f"i{number}", receiver.url)
            assert 202 == status
            accepted.append(f"i{number}")

    async with receiving() as receiver:
        async with serving(tmp_path, CALLBACK_TIMEOUT="1s") as service:
            sending = asyncio.create_task(send_all(service, receiver))
            await receiver.arrived.reaches(INVOICE_COUNT // 4)
            # Some attempts are in flight when the process is killed, on any machine.
            receiver.may_answer.clear()
            await receiver.arrived.reaches(len(receiver.arrived) + 5)
            service.signal(signal.SIGKILL)
            await service.ended()
            with pytest.raises(aiohttp.ClientError):
                await sending
        receiver.may_answer.set()

        async with serving(tmp_path, CALLBACK_TIMEOUT="1s") as service:
            found = {id_: await service.delivery_of(id_, is_settled=True) for id_ in accepted}

    assert INVOICE_COUNT // 4 <= len(accepted) < INVOICE_COUNT
    assert {"delivered"} == {delivery["status"] for delivery in found.values()}
    arrived = {}
    for _, path, sent, body in receiver.arrived.entries:
        arrived.setdefault(path, []).append((sent["webhook-id"], body))
    assert {f"/invoices/{id_}" for id_ in accepted} <= set(arrived)
    # Each request for the same event has the same id and the same bytes.
    assert {1} == {len(set(events)) for events in arrived.values()}
    lost = Counter(
        {
            f"/invoices/{id_}": sum("lost" == one["outcome"] for one in delivery["attempts"])
            for id_, delivery in found.items()
        }
    )
    repeated = {f"/invoices/{id_}": len(arrived[f"/invoices/{id_}"]) - 1 for id_ in accepted}
    assert all(count <= lost[path] for path, count in repeated.items())
    assert 5 <= sum(repeated.values())


async def test_a_sent_invoice_is_collected_after_a_kill(tmp_path):
    """An invoice that waits for its payment is collected by the next process when it is due."""
    async with receiving() as receiver:
        async with serving(tmp_path, SANDBOX_DELAY="3s") as service:
            assert 202 == (await service.send("1", receiver.url))[0]

            async def is_sent():
                return "sent" == (await service.get("/invoices/1"))["status"]

            assert await until(is_sent)
            service.signal(signal.SIGKILL)
            await service.ended()
        assert 0 == len(receiver.arrived)

        async with serving(tmp_path, SANDBOX_DELAY="3s") as service:
            delivery = await service.delivery_of("1", is_settled=True)

    assert ("delivered", 1) == (delivery["status"], delivery["attempt_count"])
    assert 1 == len(receiver.arrived)
