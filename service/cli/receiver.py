"""`invoices receiver`: a receiver of callbacks that prints what arrives; `new` writes another."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from service.app.documents import receiver_document_of
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.cli.event_loop import run, stop_signal
from service.cli.group import WholeHelpGroup
from service.cli.options import SECRET
from service.development import DEV_SECRET
from service.receiver.projects.languages import LANGUAGES
from service.receiver.projects.writing import FolderNotEmpty, write_project
from service.receiver.sample import Failure, Received, make_receiver
from service.receiver.vectors import vectors_document
from service.settings import parse_duration, read_settings
from service.web.server import Server


def _seconds(_context: click.Context, _option: click.Parameter, text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group("receiver", cls=WholeHelpGroup, invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9000,
    show_default=True,
    help="The port to listen on; 0 takes any free one.",
)
@SECRET
@click.option(
    "--answer",
    "status_code",
    type=click.IntRange(200, 599),
    show_default="200, as declared",
    help="The status to answer instead of the declared one, such as 500 or 410.",
)
@click.option(
    "--fail-first",
    type=click.IntRange(min=0),
    metavar="COUNT",
    show_default="none, or with --answer all",
    help="Fail the first COUNT requests of each event, with --answer or 500; accept the others.",
)
@click.option(
    "--delay",
    "delay_seconds",
    callback=_seconds,
    default="0s",
    show_default=True,
    metavar="DURATION",
    help="Wait before each answer, such as 20s.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each callback as a line of JSON.")
def receiver_group(
    host: str,
    port: int,
    secret: str,
    status_code: int | None,
    fail_first: int | None,
    delay_seconds: float,
    as_json: bool,
) -> None:
    """Receive callbacks: verify each, print it, and send the declared answer or fail on purpose."""
    if click.get_current_context().invoked_subcommand:
        return
    failure = Failure(status_code=status_code, first=fail_first, delay_seconds=delay_seconds)
    sys.exit(run(_receive(host, port, secret, failure, as_json=as_json)))


@receiver_group.command("new")
@click.option(
    "--lang",
    "language",
    type=click.Choice(list(LANGUAGES)),
    required=True,
    metavar="L",
    help=f"The language and the framework: {', '.join(LANGUAGES)}.",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def new_command(language: str, folder: Path) -> None:
    """
    Write a small project that receives callbacks into DIR, which must be empty or missing.

    The project verifies, stores each event once and answers as declared. Its README.md says how to
    start and test it.
    """
    document = receiver_document_of(read_settings())
    try:
        write_project(
            language, folder, document, vectors_document(INVOICE_NOTIFICATION), DEV_SECRET
        )
    except FolderNotEmpty as error:
        raise click.BadParameter(str(error), param_hint="DIR") from None
    click.echo(f"Wrote a receiver to {folder}. Its ./run starts it, its ./test tests it.")


async def _receive(host: str, port: int, secret: str, failure: Failure, *, as_json: bool) -> int:
    stop = stop_signal()
    print_received = print_as_json if as_json else print_as_text
    server = Server(make_receiver(INVOICE_NOTIFICATION, secret, print_received, failure))
    bound_port = await server.start(host, port)
    if not as_json:
        click.echo(f"Receiving at http://{host}:{bound_port}: use that as the callback_url.")
    await stop.wait()
    await server.stop()
    return 0


def print_as_text(received: Received) -> None:
    """Print a callback for a person, without characters that a terminal would obey."""
    wait = f" after {received.delay_seconds:g} s" if received.delay_seconds else ""
    again = ", processed before" if received.is_repeated else ""
    for line in (
        "",
        f"POST {received.path}",
        f"  webhook-id  {received.webhook_id}{again}",
        f"  signature   {received.signature}",
        f"  body        {received.body}",
        f"  answered    {received.status_code} {received.answer}{wait}",
    ):
        click.echo(
            "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
        )


def print_as_json(received: Received) -> None:
    """Print a callback for a program: one line of JSON, flushed, safe on a terminal as well."""
    text = orjson.dumps(asdict(received)).decode()
    click.echo("".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text))
