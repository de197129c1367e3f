"""`invoices why`: why a callback did or did not come."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import click
import orjson

from schemas.explanation import ExplanationSchema
from service.app.databases import database_of
from service.callbacks.url import parse_url
from service.cli.api_client import ApiClient
from service.cli.terminal import printable
from service.clock import SystemClock
from service.development import DEV_ACCOUNT
from service.domain.explanation import NextStep, explain_delivery, explain_invoice
from service.domain.subjects import is_url, subjects_of
from service.errors import InvoicesError, NotFound, UnknownAccount
from service.settings import Settings, parse_api_url, read_settings
from service.storage.history import DeliveryFilter
from service.storage.schema import prepare
from service.storage.store import Store

DELIVERIES_MAX = 5
"""How many deliveries to a URL are explained, the newest."""

PAGES_MAX = 10
"""How many pages of deliveries are looked through for a URL."""

PAGE = 200

Read = TypeVar("Read")

Told = dict[str, Any]
"""An explanation as it is told over HTTP."""


class NothingFound(InvoicesError):
    """There is nothing to explain."""


class Explains(Protocol):
    """Where explanations come from; each method raises NotFound for an unknown id."""

    def delivery(self, delivery_id: str) -> Told:
        """Why a delivery has come or not."""
        ...

    def invoice(self, invoice_id: str) -> Told:
        """Why the callback of an invoice has come or not."""
        ...

    def deliveries_to(self, origin: str) -> Iterator[tuple[str, str]]:
        """Id and URL of the deliveries to *origin*, newest first; bounded by `PAGES_MAX`."""
        ...


class OverHttp:
    """Asks a running service."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def delivery(self, delivery_id: str) -> Told:
        """Why a delivery has come or not."""
        return self._client.get("deliveries", delivery_id, "why")

    def invoice(self, invoice_id: str) -> Told:
        """Why the callback of an invoice has come or not."""
        return self._client.get("invoices", invoice_id, "why")

    def deliveries_to(self, origin: str) -> Iterator[tuple[str, str]]:
        """Id and URL of the deliveries to *origin*, newest first."""
        after: dict[str, str] = {}
        for _ in range(PAGES_MAX):
            page = self._client.get("deliveries", origin=origin, limit=str(PAGE), **after)
            yield from ((one["id"], one["url"]) for one in page["items"])
            if page["next"] is None:
                return
            after = {"after": page["next"]}


class InDatabase:
    """Reads the database of the service; nothing is written to it."""

    def __init__(self, settings: Settings, account_name: str | None) -> None:
        self._settings = settings
        self._account_name = account_name

    def delivery(self, delivery_id: str) -> Told:
        """Why a delivery has come or not."""

        async def read(store: Store, account_id: str) -> Told:
            facts = await store.history.facts_of_delivery(account_id, delivery_id)
            return _told(explain_delivery(facts, SystemClock().now()))

        return self._run(read)

    def invoice(self, invoice_id: str) -> Told:
        """Why the callback of an invoice has come or not."""

        async def read(store: Store, account_id: str) -> Told:
            facts = await store.history.facts_of_invoice(account_id, invoice_id)
            return _told(explain_invoice(facts, SystemClock().now()))

        return self._run(read)

    def deliveries_to(self, origin: str) -> Iterator[tuple[str, str]]:
        """Id and URL of the deliveries to *origin*, newest first."""

        async def read(store: Store, account_id: str) -> list[tuple[str, str]]:
            found, after = list[tuple[str, str]](), None
            wanted = DeliveryFilter(origin=origin)
            for _ in range(PAGES_MAX):
                rows, after = await store.history.list_deliveries(
                    account_id, wanted, after=after, limit=PAGE
                )
                found += [(row["id"], row["url"]) for row in rows]
                if after is None:
                    break
            return found

        return iter(self._run(read))

    def _run(self, read: Callable[[Store, str], Awaitable[Read]]) -> Read:
        async def run() -> Read:
            async with database_of(self._settings) as database:
                await prepare(database)
                store = Store(database)
                return await read(store, await self._account_id(store))

        if self._settings.is_embedded and not self._settings.database_file.exists():
            raise NothingFound(
                f"There is no database at {self._settings.database_file}. Set "
                "INVOICES_DATABASE_URL to that of the service, or ask the service itself with "
                "--url and --key."
            )
        return asyncio.run(run())

    async def _account_id(self, store: Store) -> str:
        if self._account_name is not None:
            account = await store.accounts.find(self._account_name)
            if account is None and self._account_name != DEV_ACCOUNT:
                raise UnknownAccount(f"There is no account {self._account_name!r}.")
            return account.id if account else DEV_ACCOUNT
        known = await store.accounts.list_all(SystemClock().now())
        if len(known) > 1:
            raise click.UsageError("There are several accounts: name one with --account NAME.")
        account_id: str = known[0]["id"] if known else DEV_ACCOUNT
        return account_id


def _check_url(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    try:
        return parse_api_url(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("why")
@click.argument("subject", metavar="ID|URL")
@click.option(
    "--account",
    "account_name",
    metavar="NAME",
    show_default="the only one",
    help="The account, where the database is read.",
)
@click.option(
    "--url",
    callback=_check_url,
    show_default="INVOICES_API_URL",
    help="Ask the service that is there.",
)
@click.option("--key", show_default="INVOICES_API_KEY", help="The key for --url, inv_….")
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
def why_command(
    subject: str, account_name: str | None, url: str | None, key: str | None, *, as_json: bool
) -> None:
    """
    Tell why a callback did or did not come.

    ID is that of a delivery (the webhook-id, msg_…) or of an invoice; URL is a callback_url, whose
    newest deliveries are explained.

    With --url or INVOICES_API_URL, the service there is asked; otherwise the database of
    INVOICES_DATABASE_URL is read.
    """
    settings = read_settings()
    explains = _explains(settings, account_name, url, key)
    subjects = subjects_of(subject) or [subject]
    is_of_url = is_url(subjects[-1])
    told = (
        _explained_of_url(explains, subjects[-1])
        if is_of_url
        else [_explained_of_any(explains, subjects)]
    )
    if as_json:
        click.echo(orjson.dumps({"items": told} if is_of_url else told[0]))
        return
    for number, one in enumerate(told):
        if number:
            click.echo()
        for line in lines_of(one):
            click.echo(printable(line))


def _explains(
    settings: Settings, account_name: str | None, url: str | None, key: str | None
) -> Explains:
    base = url or settings.api_url
    if key and not base:
        raise click.UsageError("--key needs --url, or INVOICES_API_URL.")
    if not base:
        return InDatabase(settings, account_name)
    if account_name is not None:
        raise click.UsageError("--account is for the database: a key belongs to one account.")
    return OverHttp(ApiClient(base, key or settings.api_key))


def _explained_of_any(explains: Explains, subjects: Sequence[str]) -> Told:
    """The explanation of the first of *subjects* that is known."""
    for subject in subjects[:-1]:
        with suppress(NothingFound):
            return _explained(explains, subject)
    return _explained(explains, subjects[-1])


def _explained(explains: Explains, subject: str) -> Told:
    """The explanation of a delivery or an invoice; an invoice may have the id of a delivery."""
    ways: list[Callable[[str], Told]] = [explains.invoice]
    if subject.startswith("msg_"):
        ways.insert(0, explains.delivery)
    for way in ways:
        try:
            return way(subject)
        except NotFound:
            continue
    raise NothingFound(f"{subject!r} is not the id of {_MISSING[len(ways)]}")


_MISSING = {
    1: "an invoice of this account. Ids of deliveries begin with msg_, and callback URLs with "
    "http:// or https://.",
    2: "a delivery of this account. Deliveries are removed some time after they have ended "
    "(INVOICES_RETENTION); invoices are kept, and can be asked for by their own ids.",
}
"""What is said where neither an invoice nor, as the second of two ways, a delivery is found."""


def _explained_of_url(explains: Explains, url: str) -> list[Told]:
    try:
        origin = parse_url(url).origin
    except ValueError as error:
        raise click.UsageError(f"{url} is no URL that can be called: {error}.") from None
    base = _path_of(url)
    ids = (
        id_
        for id_, called in explains.deliveries_to(origin)
        if f"{_path_of(called)}/".startswith(f"{base}/")
    )
    told = [explains.delivery(id_) for id_ in islice(ids, DELIVERIES_MAX)]
    if not told:
        raise NothingFound(
            f"There is no delivery to {url} in this account. Is it the callback_url of an invoice? "
            f"Deliveries to {urlsplit(url).netloc} that ended long ago are removed."
        )
    return told


def _path_of(url: str) -> str:
    """What follows the origin of *url*, whose port may be left out, without a slash at the end."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}".removesuffix("?").removesuffix("/")


def _told(explanation: object) -> Told:
    told: Told = orjson.loads(orjson.dumps(_schema.dump(explanation)))
    return told


_schema = ExplanationSchema()


def lines_of(told: Told) -> Iterator[str]:
    """The lines that show an explanation to a person."""
    yield f"{told['verdict']}: {told['sentence']}"
    evidence = dict(told["evidence"])
    attempt = evidence.pop("attempt", None)
    rows: list[tuple[str, Any]] = [
        (name.replace("_", " "), text) for name, text in evidence.items()
    ]
    if attempt:
        code = f" {attempt['status_code']}" if attempt["status_code"] else ""
        text = f"{attempt['number']} at {attempt['started_at']}, {attempt['duration_ms']} ms:"
        rows.append(("attempt", f"{text} {attempt['outcome']}{code}"))
        rows += [(name, attempt[name]) for name in ("detail", "response_body") if attempt[name]]
    if step := told["next"]:
        meaning = NextStep[step["what"].upper()].meaning.replace("`at`", step["at"] or "some time")
        rows.append(("next", meaning))
    if told["do"]:
        rows.append(("do", told["do"]))
    yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, Any]]) -> Iterator[str]:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        yield f"  {name.replace('_', ' '):<{width}}  {' '.join(str(text).split())}"
