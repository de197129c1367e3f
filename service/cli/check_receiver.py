"""`invoices check-receiver`: tests a receiver against the contract."""

import ipaddress
import sys
from dataclasses import replace
from pathlib import Path

import click
import orjson

from service.app.policies import egress_policy_of
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.url import CallbackUrl
from service.checking import calling
from service.cli.event_loop import run
from service.cli.options import AS_JSON, SECRET
from service.cli.terminal import printable
from service.clock import SystemClock
from service.delivery.egress import EgressPolicy
from service.delivery.proxy import Proxy
from service.development import DEV_NETWORKS
from service.errors import EvaluationError
from service.receiver.conformance import Result, Status, conforms, run_checks
from service.receiver.judging import Run
from service.receiver.reports import as_junit, as_object, curl_of
from service.receiver.requests import Requests
from service.settings import Network, Settings, read_settings

LOOPBACK: tuple[Network, ...] = (
    ipaddress.IPv4Network("127.0.0.0/8"),
    ipaddress.IPv6Network("::1/128"),
)
MARKS = {Status.PASSED: "passed ", Status.FAILED: "FAILED ", Status.SKIPPED: "skipped"}


class Progress:
    """Prints the results as they come; on a terminal, the name of the running check before."""

    def __init__(self, is_printed: bool) -> None:
        self._is_printed = is_printed
        self._stream = sys.stdout if is_printed else sys.stderr
        self._is_terminal = self._stream.isatty()

    def begin(self, name: str) -> None:
        """Show that the check *name* runs."""
        if self._is_terminal:
            click.echo(f"\r\x1b[Kchecking {name} …", nl=False, file=self._stream)

    def show(self, result: Result) -> None:
        """Show how a check ended."""
        if self._is_terminal:
            click.echo("\r\x1b[K", nl=False, file=self._stream)
        if not self._is_printed:
            return
        line = f"{MARKS[result.status]} {result.name}"
        click.echo(f"{line:<32} {result.duration_ms:>6} ms")
        for text in _explained(result):
            click.echo("          " + printable(text))

    def end(self, results: list[Result]) -> None:
        """Show what all of it came to."""
        if self._is_printed:
            counts = {status: sum(one.status is status for one in results) for status in Status}
            verdict = "conforms" if conforms(results) else "does not conform"
            numbers = ", ".join(f"{count} {status}" for status, count in counts.items())
            click.echo(f"\nThe receiver {verdict}: {numbers}.")


def _explained(result: Result) -> list[str]:
    if result.finding is None:
        return [result.cause] if result.cause else []
    return [result.finding.cause, result.finding.mending, curl_of(result.finding)]


@click.command("check-receiver")
@click.argument("url")
@SECRET
@click.option(
    "--allow-private",
    is_flag=True,
    help="Call private addresses too. Loopback is called where URL names it: 127.0.0.1, localhost.",
)
@AS_JSON
@click.option(
    "--junit",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    show_default="no XML",
    help="Write the result as JUnit XML, to FILE or, without one, to the output.",
)
def check_receiver_command(
    url: str, secret: str, junit: str | None, *, allow_private: bool, as_json: bool
) -> None:
    """
    Test the receiver at URL, which is what one would give as callback_url.

    Exit status: 0 the receiver conforms, 1 it does not, 2 wrong usage.
    """
    try:
        requests = Requests(INVOICE_NOTIFICATION, url, secret, SystemClock().now)
    except EvaluationError as error:
        raise click.BadParameter(f"It {error.reason}.", param_hint="URL") from None
    settings = read_settings()
    policy = _policy(settings, requests.target, allow_private=allow_private)
    if not policy.permits_host(requests.target.host):
        sentence = "It is an address that is not called without --allow-private, if at all."
        raise click.BadParameter(sentence, param_hint="URL")
    is_printed = not as_json and junit != "-"
    results: list[Result] = []
    status = run(_check(requests, policy, settings, results, Progress(is_printed)))
    if as_json:
        click.echo(orjson.dumps(as_object(url, results), option=orjson.OPT_INDENT_2))
    if junit == "-":
        click.echo(as_junit(url, results), nl=False)
    elif junit is not None:
        Path(junit).write_bytes(as_junit(url, results))
    sys.exit(status)


def _policy(settings: Settings, target: CallbackUrl, *, allow_private: bool) -> EgressPolicy:
    """The policy of the service, and what the person at the terminal has asked for."""
    policy = egress_policy_of(settings)
    more = DEV_NETWORKS if allow_private else LOOPBACK if _is_loopback(target.host) else ()
    return replace(policy, allow=(*policy.allow, *more))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _check(
    requests: Requests,
    policy: EgressPolicy,
    settings: Settings,
    results: list[Result],
    progress: Progress,
) -> int:
    is_behind_proxy = settings.callback_proxy and not _is_loopback(requests.target.host)
    proxy = Proxy.of(settings.callback_proxy) if is_behind_proxy else None
    async with calling(policy, proxy, settings.callback_timeout.total_seconds()) as caller:
        results += await run_checks(
            Run(INVOICE_NOTIFICATION, requests, caller), progress.show, progress.begin
        )
    progress.end(results)
    return 0 if conforms(results) else 1
