"""`invoices receiver`: a receiver of callbacks that prints what arrives."""

import sys
from dataclasses import asdict

import click
import orjson

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.event_loop import run, stop_signal
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.receiver.sample import Received, make_receiver
from service.web.server import Server


@click.command("receiver")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True)
@click.option(
    "--secret",
    default=DEV_SECRET,
    help="The signing secret, whsec_…; by default the public one of the dev account.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each callback as a line of JSON.")
def receiver_command(host: str, port: int, secret: str, as_json: bool) -> None:
    """Receive callbacks: verify each, print it, and send the declared answer."""
    try:
        Signer((secret,))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--secret") from None
    sys.exit(run(_receive(host, port, secret, as_json=as_json)))


async def _receive(host: str, port: int, secret: str, *, as_json: bool) -> int:
    stop = stop_signal()
    print_received = print_as_json if as_json else print_as_text
    server = Server(make_receiver(INVOICE_NOTIFICATION, secret, print_received))
    bound_port = await server.start(host, port)
    if not as_json:
        click.echo(f"Receiving at http://{host}:{bound_port}: use that as the callback_url.")
    await stop.wait()
    await server.stop()
    return 0


def print_as_text(received: Received) -> None:
    """Print a callback for a person."""
    click.echo(f"\nPOST {received.path}")
    click.echo(f"  webhook-id  {received.webhook_id}")
    click.echo(f"  signature   {received.signature}")
    click.echo(f"  body        {received.body}")
    click.echo(f"  answered    {received.status_code} {received.answer}")


def print_as_json(received: Received) -> None:
    """Print a callback for a program: one line of JSON, flushed."""
    click.echo(orjson.dumps(asdict(received)))
