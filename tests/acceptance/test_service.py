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

QUICK = {"RETRY_SCHEDULE": "50ms,50ms", "CALLBACK_TIMEOUT": "1s"}
INVOICE_COUNT = 200
PAID = {"description": "Invoice paid", "paid": True}


# From the invoice to the callback


async def test_an_invoice_comes_back_as_a_callback(tmp_path):
    """Sent in, answered 202, collected, told to the receiver, and looked at afterwards."""
    async with serving(tmp_path) as service, receiving() as receiver:
        status, headers = await service.send("2expen51ve", receiver.url, title="Expensive")
        ((method, path, sent, body),) = await receiver.arrived.reaches(1)
        delivery = await service.delivery_of("2expen51ve", is_settled=True)
        invoice = await service.get("/invoices/2expen51ve")

    assert (202, "/invoices/2expen51ve") == (status, headers["Location"])
    assert ("POST", "/invoices/2expen51ve") == (method, path)
    assert PAID == json.loads(body)
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


async def test_the_same_invoice_again_is_told_once(tmp_path):
    """A caller that repeats its request is answered 200, other content 409, and one callback."""
    async with serving(tmp_path) as service, receiving() as receiver:
        answers = [await service.send("1", receiver.url) for _ in range(2)]
        answers.append(await service.send("1", receiver.url, total="1"))
        await service.delivery_of("1", is_settled=True)
        await service.send("2", receiver.url)
        arrived = await receiver.arrived.reaches(2)

    assert [202, 200, 409] == [status for status, _ in answers]
    assert "true" == answers[1][1]["Idempotent-Replayed"]
    assert ["/invoices/1", "/invoices/2"] == [path for _, path, _, _ in arrived]


async def test_without_a_callback_url_nobody_is_called(tmp_path):
    """An invoice may be collected in silence."""
    async with serving(tmp_path) as service:
        status, _ = await service.send("1")

        async def is_paid():
            return "paid" == (await service.get("/invoices/1"))["status"]

        assert await until(is_paid)
        assert 202 == status
        assert {"items": [], "next": None} == await service.get("/invoices/1/deliveries")


async def test_lists_tell_what_is_there(tmp_path):
    """Invoices and deliveries can be listed, narrowed, and followed page by page."""
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


# Receivers that do not do as they should


def refusing(status):
    """What the story of a delivery says of an answer that was not 2xx."""
    return ("refused", status, f"the receiver answered {status}")


STORIES = {
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


@pytest.mark.parametrize(("given", "expected", "body"), STORIES.values(), ids=STORIES.keys())
async def test_a_delivery_tells_what_is_wrong_with_its_receiver(tmp_path, given, expected, body):
    """Every attempt is listed with what was answered, until the schedule is over."""
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
async def test_204_counts_as_what_it_is_whatever_follows_it(tmp_path, expected, contract):
    """An answer that is complete is read, although bytes follow that belong to no answer."""

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
    """One failure costs one attempt and a delay."""
    async with serving(tmp_path, **QUICK) as service, receiving() as receiver:
        receiver.answer(status=503, text="")
        await service.send("1", receiver.url)
        delivery = await service.delivery_of("1", is_settled=True)

    assert ("delivered", None) == (delivery["status"], delivery["reason"])
    assert ["refused", "delivered"] == [attempt["outcome"] for attempt in delivery["attempts"]]


async def test_a_receiver_that_is_down_is_unreachable(tmp_path):
    """Where nobody listens there is no status, and it is said why."""
    async with serving(tmp_path, **QUICK) as service:
        await service.send("1", f"http://127.0.0.1:{free_port()}")
        delivery = await service.delivery_of("1", is_settled=True)

    assert ("dead", "exhausted") == (delivery["status"], delivery["reason"])
    assert [("unreachable", None, None)] * 3 == [
        (attempt["outcome"], attempt["status_code"], attempt["response_body"])
        for attempt in delivery["attempts"]
    ]


async def test_a_receiver_that_hangs_times_out(tmp_path):
    """An attempt ends at its deadline, and says so."""
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


async def test_gone_ends_a_delivery_at_once(tmp_path):
    """410 is not asked twice."""
    async with serving(tmp_path, **QUICK) as service, receiving() as receiver:
        receiver.answer(status=410, text="")
        await service.send("1", receiver.url)
        delivery = await service.delivery_of("1", is_settled=True)

    assert ("dead", "gone", 1) == (
        delivery["status"],
        delivery["reason"],
        delivery["attempt_count"],
    )


async def test_retry_after_is_waited_for(tmp_path):
    """The next attempt to the origin is not before the receiver said, whatever the schedule."""
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


async def test_a_lenient_contract_takes_any_2xx(tmp_path):
    """Where the operator says so, a page counts, and the mismatch is noted."""
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


# Being stopped and killed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_finishes_what_is_in_flight(tmp_path, number):
    """A stopped service records the answer it was waiting for, takes nothing more, and exits 0."""
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


async def test_a_stop_with_nothing_to_do_is_quick(tmp_path):
    """An idle service ends when it is told to, without waiting for any timeout."""
    async with serving(tmp_path) as service, asyncio.timeout(5):
        service.signal(signal.SIGTERM)
        assert 0 == await service.ended()


async def test_a_drain_does_not_wait_for_ever(tmp_path):
    """A receiver that never answers holds up a stop no longer than the operator allows."""
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
async def test_nothing_that_was_accepted_is_lost_by_a_kill(tmp_path):
    """After SIGKILL in the middle of the work, every 202 arrives; only what was in flight twice."""
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
            # Some attempts are in flight when it dies, whatever the machine does.
            receiver.may_answer.clear()
            await receiver.arrived.reaches(len(receiver.arrived) + 5)
            service.signal(signal.SIGKILL)
            await service.ended()
            with pytest.raises(aiohttp.ClientError):
                await sending
        receiver.may_answer.set()

        async with serving(tmp_path, CALLBACK_TIMEOUT="1s") as service:
            stories = {id_: await service.delivery_of(id_, is_settled=True) for id_ in accepted}

    assert INVOICE_COUNT // 4 <= len(accepted) < INVOICE_COUNT
    assert {"delivered"} == {delivery["status"] for delivery in stories.values()}
    arrived = {}
    for _, path, sent, body in receiver.arrived.entries:
        arrived.setdefault(path, []).append((sent["webhook-id"], body))
    assert {f"/invoices/{id_}" for id_ in accepted} <= set(arrived)
    # The same event is the same id and the same bytes, however often it arrived.
    assert {1} == {len(set(events)) for events in arrived.values()}
    lost = Counter(
        {
            f"/invoices/{id_}": sum("lost" == one["outcome"] for one in delivery["attempts"])
            for id_, delivery in stories.items()
        }
    )
    repeated = {f"/invoices/{id_}": len(arrived[f"/invoices/{id_}"]) - 1 for id_ in accepted}
    assert all(count <= lost[path] for path, count in repeated.items())
    assert 5 <= sum(repeated.values())


async def test_what_was_sent_and_not_yet_paid_survives_a_kill(tmp_path):
    """An invoice that waits for its payment is collected by the next process, when it is due."""
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
