"""The JavaScript receiver that docs/receiver.md prints, run by Node."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.commands import main
from service.delivery.egress import EgressPolicy
from service.delivery.sender import OutgoingRequest, Sender
from service.delivery.signing import Signer
from service.development import DEV_NETWORKS, DEV_SECRET

PAGE = Path(__file__).parents[2] / "docs/receiver.md"
NEXT_SECRET = "whsec_bmV4dCBzZWNyZXQsIHdoaWNoIG5vYm9keSBrbm93cw=="
EVENT = {"description": "Счёт оплачен – danke schön 🧾", "paid": True, "invoice_id": "a/b c"}


@dataclass
class Receiver:
    """A process that receives callbacks, and its port."""

    process: asyncio.subprocess.Process
    port: int

    async def ended(self):
        """End the process, and return its output."""
        self.process.terminate()
        printed, _ = await self.process.communicate()
        return printed.decode()


@pytest.fixture
async def receiver(node):
    """The printed receiver, on a free port instead of the printed one."""
    (code,) = re.findall(r"```javascript\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert 1 == code.count('app.listen(9000, "127.0.0.1");')
    process = await node.start(
        code.replace(
            'app.listen(9000, "127.0.0.1");',
            'const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));',
        )
    )
    try:
        async with asyncio.timeout(node.DEADLINE_SECONDS):
            port = await process.stdout.readline()
        assert port, "the receiver ended before it listened; its errors are below"
        yield Receiver(process, int(port))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def sender():
    """The sender of the service."""
    async with Sender(EgressPolicy(DEV_NETWORKS), timeout_seconds=15) as sender:
        yield sender


def request_to(receiver, body, signed=None, id_="a/b c"):
    """Send a request like the service does; *signed* are the signed bytes, if not *body*."""
    signer = Signer((NEXT_SECRET, DEV_SECRET))
    headers = signer.headers("msg_1", datetime.now(UTC), signed or body)
    headers["Content-Type"] = "application/json"
    url = f"http://127.0.0.1:{receiver.port}/invoices/{quote(id_, safe='')}"
    return OutgoingRequest(url, "POST", headers, body)


async def test_the_printed_receiver_processes_an_event_once(receiver, sender):
    """It verifies one of two signatures, answers as declared, and processes an event once."""
    for _ in range(2):
        answer = await sender.send(request_to(receiver, INVOICE_NOTIFICATION.render(EVENT)))

        assert 200 == answer.status_code
        assert INVOICE_NOTIFICATION.response_example == INVOICE_NOTIFICATION.read_answer(
            answer.body
        )
    assert f"a/b c {EVENT['description']} true\n" == await receiver.ended()


async def test_the_printed_receiver_conforms(receiver):
    """It passes every check of `invoices check-receiver`."""
    command = ["check-receiver", f"http://127.0.0.1:{receiver.port}"]
    ended = await asyncio.to_thread(CliRunner().invoke, main, command)

    assert 0 == ended.exit_code, ended.output


async def test_the_printed_receiver_refuses_a_forged_event(receiver, sender):
    """A body that was not signed is neither acknowledged nor processed."""
    signed = INVOICE_NOTIFICATION.render(EVENT | {"paid": False})

    answer = await sender.send(request_to(receiver, INVOICE_NOTIFICATION.render(EVENT), signed))

    reason = b'{"error":"No matching signature found"}'
    assert (401, reason) == (answer.status_code, answer.body)
    assert "" == await receiver.ended()


async def test_the_printed_receiver_refuses_an_event_of_another_invoice(receiver, sender):
    """A signed event that arrives at the path of another invoice is refused."""
    answer = await sender.send(request_to(receiver, INVOICE_NOTIFICATION.render(EVENT), id_="2"))

    assert (400, b'{"error":"the path has another invoice"}') == (answer.status_code, answer.body)
    assert "" == await receiver.ended()


@pytest.mark.parametrize("id_", ["a{b}c", "sl/ash", "/x/", "100%", "%2F", "é😀", "a+b", ":id", " "])
async def test_the_printed_receiver_reads_every_id(receiver, sender, id_):
    """The receiver reads any id that the API accepts unchanged."""
    body = INVOICE_NOTIFICATION.render(EVENT | {"invoice_id": id_})

    answer = await sender.send(request_to(receiver, body, id_=id_))

    assert 200 == answer.status_code
    assert f"{id_} {EVENT['description']} true\n" == await receiver.ended()
