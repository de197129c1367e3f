"""
Runs the checks of a receiver over the connections that callbacks have, by the same address policy.

For the command line, and for the console, whose runs are bounded: one of an account at a time, and
few in a process.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import BaseConnector

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.url import CallbackUrl
from service.clock import Clock
from service.delivery.connection import ANSWER_LIMIT, BoundedConnector, verified_tls
from service.delivery.egress import EgressPolicy
from service.delivery.failures import no_answer
from service.delivery.proxy import Proxy
from service.delivery.resolver import Resolver
from service.errors import EvaluationError, TooManyRequests
from service.receiver.caller import Caller
from service.receiver.conformance import RUN_SECONDS, run_checks
from service.receiver.judging import Run
from service.receiver.reports import as_object
from service.receiver.requests import Requests

LOOKUPS = 4

RUNS_MAX = 4
"""Runs of all accounts at a time in one process."""

BUSY = "A check runs already. Try again when it has ended, in a minute at most."


@asynccontextmanager
async def calling(
    policy: EgressPolicy, proxy: Proxy | None, timeout_seconds: float
) -> AsyncIterator[Caller]:
    """What sends the requests of checks, to addresses that *policy* permits."""
    resolver = Resolver(policy, concurrency=LOOKUPS, queue_seconds=timeout_seconds)
    context = verified_tls()

    def connect() -> BaseConnector:
        return BoundedConnector(policy, resolver, context, proxy)

    def explain(failure: Exception) -> str:
        return no_answer(failure, timeout_seconds).detail

    try:
        yield Caller(connect, explain, timeout_seconds=timeout_seconds, body_limit=ANSWER_LIMIT)
    finally:
        await resolver.close()


class ReceiverChecks:
    """
    Runs the checks against receivers of accounts.

    *judge* returns why a URL may not be called, *secret_of* the secret that signs the events of an
    account.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        proxy: Proxy | None,
        timeout_seconds: float,
        judge: Callable[[CallbackUrl], str | None],
        secret_of: Callable[[str], Awaitable[str]],
        clock: Clock,
    ) -> None:
        self._policy = policy
        self._proxy = proxy
        self._timeout_seconds = timeout_seconds
        self._judge = judge
        self._secret_of = secret_of
        self._clock = clock
        self._running = set[str]()

    async def run(self, account_id: str, url: str) -> dict[str, Any]:
        """
        The result of all checks of the receiver that would give *url* as callback_url.

        Raises:
            ValueError: if that URL would be refused; the text is for the account.
            TooManyRequests: if a check of this account runs already, or too many others.
        """
        secret = await self._secret_of(account_id)
        try:
            requests = Requests(INVOICE_NOTIFICATION, url, secret, self._clock.now)
        except EvaluationError as error:
            raise ValueError(f"This URL {error.reason}.") from None
        if reason := self._judge(requests.target):
            raise ValueError(f"This URL {reason}.")
        if account_id in self._running or len(self._running) >= RUNS_MAX:
            raise TooManyRequests(RUN_SECONDS, BUSY)
        self._running.add(account_id)
        try:
            async with calling(self._policy, self._proxy, self._timeout_seconds) as caller:
                run = Run(INVOICE_NOTIFICATION, requests, caller)
                results = await run_checks(run, lambda _: None, lambda _: None)
        finally:
            self._running.discard(account_id)
        return _without_signatures(as_object(url, results))


def _without_signatures(result: dict[str, Any]) -> dict[str, Any]:
    """*result* without the commands, which have signatures that are valid for some minutes."""
    checks = [{**one, "curl": None} for one in result["checks"]]
    return {**result, "checks": checks}
