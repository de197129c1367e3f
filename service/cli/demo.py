"""`invoices demo`: service and receiver in one process, one invoice in, one callback out."""

import asyncio
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click
import orjson

from service.app.process import DEVELOPMENT
from service.app.running import running
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.event_loop import run, stop_signal
from service.cli.receiver import print_as_text
from service.development import DEV_SECRET, for_development
from service.receiver.sample import Received, make_receiver
from service.settings import Settings, read_settings
from service.web.server import Server

HOST = "127.0.0.1"
RECEIVER_PORT = 9000
TIMEOUT_SECONDS = 30

INVOICE = {"id": "2expen51ve", "customer": "Mr. Richie Rich", "total": "9999"}
"""The invoice of the README."""


MAILED_INVOICE = {
    "id": "2expen51ve",
    "title": "Expensive invoice",
    "customer": "Mr. Richie Rich+never",
    "customer_email": "richie@example.com",
    "total": "9999",
}
"""The same invoice with an address, and a tag with which it is not paid by itself."""


@click.command("demo")
@click.option("--mail", is_flag=True, help="Mail an invoice, and let you pay or decline it.")
def demo_command(mail: bool) -> None:
    """Run the service and a receiver here: one invoice in, one callback out."""
    settings = for_development(read_settings())
    sys.exit(run(_demonstrate(settings, is_mailed=mail)))


async def _demonstrate(settings: Settings, *, is_mailed: bool) -> int:
    """
    Send one invoice, print its callback, then keep both sides running.

    If it *is_mailed*, print where its mail and its page are instead of waiting for the callback.

    Ports that are taken are replaced by free ones, and the database is deleted at the end.

    Returns:
        1 if the callback did not arrive or was not recorded as delivered.
    """
    stop, arrived = stop_signal(), asyncio.Event()

    def print_received(received: Received) -> None:
        print_as_text(received)
        arrived.set()

    receiver = Server(make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, print_received))
    with tempfile.TemporaryDirectory(prefix="invoices-demo-") as folder:
        port = _free_port(settings.port)
        settings = replace(
            settings,
            host=(HOST,),
            port=port,
            public_url=f"http://{HOST}:{port}",
            database_url=f"sqlite:///{Path(folder, 'demo.db')}",
        )
        async with running(settings, DEVELOPMENT):
            receiver_port = await receiver.start(HOST, _free_port(RECEIVER_PORT))
            try:
                receiver_url = f"http://{HOST}:{receiver_port}"
                _print_addresses(settings.public_url, receiver_url)
                if is_mailed:
                    await _mail_invoice(settings, receiver_url)
                elif not await _send_invoice(settings.public_url, receiver_url, arrived):
                    return 1
                await stop.wait()
                return 0
            finally:
                await receiver.stop()


def _print_addresses(service_url: str, receiver_url: str) -> None:
    click.echo(f"The service runs at   {service_url}, its documentation at {service_url}/api/docs")
    click.echo(f"A receiver runs at    {receiver_url}")


async def _post(service_url: str, receiver_url: str, invoice: dict[str, str]) -> None:
    """Send *invoice*, and print the request and its answer."""
    target = f"{service_url}/invoices/?callback_url={receiver_url}"
    body = orjson.dumps(invoice).decode()
    click.echo(f"\n$ curl -X POST '{target}' \\\n       -H 'Content-Type: application/json' \\")
    click.echo(f"       -d '{body}'")
    click.echo(await asyncio.to_thread(_fetch, target, body))


async def _mail_invoice(settings: Settings, receiver_url: str) -> None:
    """Send an invoice with an address, and print where its mail and its page are."""
    invoice_url = f"{settings.public_url}/invoices/{MAILED_INVOICE['id']}"
    await _post(settings.public_url, receiver_url, MAILED_INVOICE)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            (mail,) = orjson.loads(await asyncio.to_thread(_fetch, f"{invoice_url}/mails"))[
                "items"
            ] or [{"status": "pending"}]
            if mail["status"] == "sent":
                break
            await asyncio.sleep(0.05)
    invoice = orjson.loads(await asyncio.to_thread(_fetch, invoice_url))
    if settings.smtp_url:
        click.echo(f"\nIts mail has gone to {mail['to']}.")
    else:
        file = (settings.mail_outbox / f"{mail['id']}.eml").absolute()
        click.echo(f"\nIts mail is in        {file}")
    click.echo(f"The customer pays at  {invoice['payment_url']}")
    click.echo("\nOpen that page, and pay or decline. The receiver then prints the callback here.")
    click.echo("Everything keeps running until Ctrl-C.")


async def _send_invoice(service_url: str, receiver_url: str, arrived: asyncio.Event) -> bool:
    """Send the invoice and print what happens; whether its callback was delivered in time."""
    await _post(service_url, receiver_url, INVOICE)
    click.echo("\nThe sandbox sends the invoice and collects the money. Then the receiver gets:")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await arrived.wait()
            delivery = await _settled(f"{service_url}/invoices/{INVOICE['id']}/deliveries")
    except TimeoutError:
        click.echo("The callback did not arrive; the log above says why.", err=True)
        return False
    took_ms = delivery["attempts"][-1]["duration_ms"]
    click.echo(f"\nRecorded as {delivery['status']}, attempt 1 took {took_ms} ms:")
    click.echo(f"  {service_url}/deliveries/{delivery['id']}")
    click.echo("\nBoth keep running until Ctrl-C: send invoices of your own.")
    return True


async def _settled(url: str) -> dict[str, Any]:
    """The delivery, once its attempt is recorded: a moment after the receiver answered."""
    while True:
        page = orjson.loads(await asyncio.to_thread(_fetch, url))
        delivery: dict[str, Any] = page["items"][0]
        if delivery["status"] != "pending":
            return delivery
        await asyncio.sleep(0.05)


def _fetch(url: str, body: str | None = None) -> str:
    headers = {"Content-Type": "application/json"} if body else {}
    request = Request(url, body.encode() if body else None, headers)  # noqa: S310 -- our own address
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 -- our own address
        text: str = response.read().decode()
        return text


def _free_port(wanted: int) -> int:
    """*wanted* if no program listens there, or any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port")
