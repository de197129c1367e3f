"""`invoices listen`: takes callbacks on this machine, without a tunnel."""

import ipaddress
import json
import re
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from urllib.parse import urlsplit

import click
import orjson

from service.callbacks.url import parse_url
from service.cli.event_loop import run, stop_signal
from service.cli.terminal_keys import keys_pressed
from service.domain.listening import WAITING_MAX, is_listener_name
from service.listener.connection import ServiceConnection
from service.listener.forwarding import Forwarder, loopback_only
from service.listener.listener import Listener
from service.listener.notices import (
    Connected,
    Disconnected,
    Displaced,
    Forwarded,
    Notice,
    Told,
    as_object,
)
from service.settings import parse_public_url, read_settings

KEYS = "Keys: r redeliver the last, p pause, q quit."


@click.command("listen")
@click.option(
    "--forward-to",
    required=True,
    metavar="URL",
    help="The receiver on this machine, such as http://localhost:3000.",
)
@click.option(
    "--name",
    show_default="the name of this machine",
    help="The name in the callback URL: lower-case letters, digits and hyphens.",
)
@click.option(
    "--url",
    show_default="INVOICES_API_URL, or the service on this machine",
    help="Where the service is.",
)
@click.option(
    "--key",
    show_default="INVOICES_API_KEY",
    help="The key of your account, or one from POST /listen-keys.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="HOST",
    show_default="this machine alone",
    help="Forward to this host although it is not this machine; may be repeated.",
)
@click.option("--once", is_flag=True, help="Exit after one delivery.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
def listen_command(
    forward_to: str,
    name: str | None,
    url: str | None,
    key: str | None,
    allowed_hosts: tuple[str, ...],
    *,
    once: bool,
    as_json: bool,
) -> None:
    """
    Take callbacks on this machine, without a tunnel: forward each, and send the answer back.

    Exit status: 0 stopped, or delivered with --once; 1 not delivered, refused, or another listener
    has taken the name; 2 wrong usage.
    """
    settings = read_settings()
    name = name or _name_of_machine()
    if not is_listener_name(name):
        sentence = "It must be 1 to 64 lower-case letters, digits and hyphens, no hyphen first."
        raise click.BadParameter(sentence, param_hint="--name")
    try:
        url = parse_public_url(url or settings.api_url or settings.public_url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None
    is_loopback_only = _check_target(forward_to, allowed_hosts)
    service = ServiceConnection(url, name, key or settings.api_key)
    forwarder = Forwarder(forward_to, loopback_only if is_loopback_only else None)
    report = print_as_json if as_json else print_as_text
    listener = Listener(service, forwarder, report, name=name, forward_to=forward_to, is_once=once)
    has_keys = not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    sys.exit(run(_listen(service, forwarder, listener, has_keys=has_keys)))


def _check_target(forward_to: str, allowed_hosts: tuple[str, ...]) -> bool:
    """Check where is forwarded to; returns whether that has to be this machine."""
    try:
        target = parse_url(forward_to)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--forward-to") from None
    if urlsplit(forward_to).query:
        sentence = "It must have no query: the path of each callback is put behind it."
        raise click.BadParameter(sentence, param_hint="--forward-to")
    if target.host in {host.lower().strip("[]") for host in allowed_hosts}:
        return False
    if target.host != "localhost" and not _is_loopback(target.host):
        sentence = (
            f"{target.host} is not this machine. What is sent there leaves it: "
            f"--allow-host {target.host} permits that."
        )
        raise click.BadParameter(sentence, param_hint="--forward-to")
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of_machine() -> str:
    name = re.sub("[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower())
    return name.strip("-")[:64] or "listener"


async def _listen(
    service: ServiceConnection, forwarder: Forwarder, listener: Listener, *, has_keys: bool
) -> int:
    stop = stop_signal()
    actions: dict[str, Callable[[], None]] = {
        "r": listener.redeliver_last,
        "p": listener.pause,
        "q": listener.stop,
    }
    if has_keys:
        click.echo(KEYS)
    async with service, forwarder:
        with keys_pressed(actions) if has_keys else nullcontext():
            return await listener.run(stop)


def print_as_text(notice: Notice) -> None:
    """Print *notice* for a person, without characters that a terminal would obey."""
    for line in _lines(notice):
        click.echo(
            "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
        )
    sys.stdout.flush()


def print_as_json(notice: Notice) -> None:
    """Print *notice* for a program: one line of JSON, flushed, safe on a terminal as well."""
    text = orjson.dumps(as_object(notice)).decode()
    click.echo("".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text))
    sys.stdout.flush()


def _lines(notice: Notice) -> list[str]:
    match notice:
        case Connected():
            return _lines_of_connection(notice)
        case Disconnected(reason=reason, again_in_seconds=None):
            return [f"Not connected: {reason}."] if reason == "paused" else [reason]
        case Disconnected(reason=reason, again_in_seconds=seconds):
            return [f"Not connected: {reason}. Callbacks wait. Trying again in {seconds:g} s."]
        case Displaced(name=name):
            return [f"Another listener has taken the name {name}, and gets the callbacks now."]
        case Forwarded():
            return [_line_of_delivery(notice)]
        case Told(text=text):
            return [text]


def _lines_of_connection(notice: Connected) -> list[str]:
    count = notice.waiting_count
    waiting = {0: "No callback waits.", 1: "One callback waits."}.get(count)
    if count >= WAITING_MAX:
        waiting = f"{WAITING_MAX} or more callbacks wait."
    lines = [
        f"Connected. The callback_url is {notice.callback_url}",
        f"Forwarding to {notice.forward_to}. {waiting or f'{count} callbacks wait.'}",
    ]
    if notice.has_displaced:
        lines.append("Another listener had this name, and was disconnected.")
    return lines


def _line_of_delivery(notice: Forwarded) -> str:
    answer = notice.status_code or notice.failure
    result = notice.status or "not settled"
    if notice.status == "pending":
        result = f"again at {(notice.due_at or '')[:19].replace('T', ' ')} UTC"
    elif notice.reason:
        result += f" ({notice.reason})"
    detail = f": {notice.detail}" if notice.detail else ""
    number = f", attempt {notice.attempt}" if notice.attempt > 1 else ""
    return (
        f"{notice.method} {notice.path}  {answer}  {notice.duration_ms} ms  "
        f"{result}{number}{detail}"
    )
