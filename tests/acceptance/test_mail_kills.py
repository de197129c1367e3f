"""A process that is killed while it sends a mail loses neither the mail nor what it means."""

import email
import signal
from email.policy import default

import pytest

from tests.acceptance.leases import let_leases_run_out
from tests.mail_server import serving as mail_serving
from tests.processes import receiving, serving, starting, until

STEPS = (
    "step-written",
    "step-committed",
    "mail-leased",
    "mail-ready",
    "mail-answered",
    "report-written",
    "report-committed",
)
MAILED = {"customer": "Acme+never", "customer_email": "richie@example.com"}


async def settled_mail(service):
    """The one mail of the invoice, once it is no longer pending."""

    async def ask():
        (mail, *others) = (await service.get("/invoices/1/mails"))["items"] or [None]
        assert [] == others
        return mail and mail["status"] != "pending" and mail

    return await until(ask)


async def kill_at(step, tmp_path, url, place, receiver_url=None):
    """Have a process take the invoice, and kill it at *step*."""
    program = ("tests.acceptance.dying", step)
    async with starting(tmp_path, program=program, **place) as service:
        await service.logged("service.started")
        status, _ = await service.send("1", receiver_url, **MAILED)
        assert 202 == status
        assert -signal.SIGKILL == await service.ended()
    let_leases_run_out(url)


def place_of(url, warm, server):
    """The settings of the processes."""
    smtp = {"SMTP_URL": f"smtp://127.0.0.1:{server.port}", "MAIL_FROM": "a@acme.example"}
    return {"database_url": url, "start": warm.start, **smtp}


@pytest.mark.parametrize("step", STEPS)
async def test_a_killed_process_loses_no_mail(tmp_path, warm, database_url, step):
    """After a kill at any step the mail arrives, and every copy has the same bytes."""
    async with mail_serving() as server:
        place = place_of(database_url, warm, server)
        await kill_at(step, tmp_path, database_url, place)
        async with serving(tmp_path, **place) as service:
            mail = await settled_mail(service)
            invoice = await service.get("/invoices/1")

    assert ("sent", "sent", []) == (mail["status"], invoice["status"], invoice["events"])
    assert (2 if step in ("mail-answered", "report-written") else 1) == len(server.bodies)
    (body,) = set(server.bodies)
    message = email.message_from_bytes(body, policy=default)
    assert mail["message_id"] == message["Message-ID"]
    # The processes have different ports.
    token = invoice["payment_url"].partition("/pay/")[2]
    assert token in message.get_body(("plain",)).get_content()


@pytest.mark.parametrize("step", ["mail-answered", "report-written", "report-committed"])
async def test_a_killed_process_tells_of_a_refusal_once(tmp_path, warm, database_url, step):
    """After a kill around the record of a refused mail there is one event, and one callback."""
    async with mail_serving() as server, receiving() as receiver:
        server.answers["RCPT"] = "550 5.1.1 no such user"
        place = place_of(database_url, warm, server)
        await kill_at(step, tmp_path, database_url, place, receiver.url)
        async with serving(tmp_path, **place) as service:
            mail = await settled_mail(service)
            delivery = await service.delivery_of("1", is_settled=True)
            invoice = await service.get("/invoices/1")

    assert ("undeliverable", "undeliverable") == (mail["status"], invoice["status"])
    assert [False] == [event["paid"] for event in invoice["events"]]
    assert "delivered" == delivery["status"]
    ((_, calls),) = receiver.calls().items()
    assert 1 == len(set(calls))
