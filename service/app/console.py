"""What the console reads and does, with the parts of a service."""

from collections.abc import Sequence

from service.accounts.console_sessions import ConsoleSessions
from service.accounts.signing_secrets import SigningSecrets
from service.api.dependencies import Dependencies
from service.api.receivers import test_event
from service.app.policies import egress_policy_of
from service.app.process import Process
from service.callbacks.url import parse_url
from service.checking import ReceiverChecks
from service.delivery.proxy import Proxy
from service.development import DEV_ACCOUNT, DEV_SECRET
from service.domain.receivers import KnownReceiver
from service.loops import Loop
from service.pages.console.wiring import Console
from service.settings import Settings


def console_of(
    settings: Settings,
    process: Process,
    dependencies: Dependencies,
    signing_secrets: SigningSecrets,
    loops: Sequence[Loop],
) -> Console:
    """The console of *process*."""
    store, clock = dependencies.store, dependencies.clock

    async def secret_of(account_id: str) -> str:
        if account_id == DEV_ACCOUNT:
            return DEV_SECRET
        return (await signing_secrets.secrets_of(account_id))[0]

    async def send_test(account_id: str, known: KnownReceiver, request_id: str) -> str:
        delivery = test_event(account_id, known, clock.now(), request_id)
        await dependencies.admit_delivery(account_id)
        await store.receivers.add_test_event(delivery)
        return delivery.id

    checks = ReceiverChecks(
        egress_policy_of(settings),
        Proxy.of(settings.callback_proxy) if settings.callback_proxy else None,
        settings.callback_timeout.total_seconds(),
        dependencies.judge,
        secret_of,
        clock,
    )
    return Console(
        store=store,
        sessions=ConsoleSessions(store.console, dependencies.authenticate, clock),
        limit=dependencies.limit,
        turn=dependencies.reads.turn,
        pay_url_of=dependencies.pay_links.url_of,
        origin_of=lambda url: parse_url(url).origin,
        loops=lambda: {type(one).__name__: one.is_running for one in loops},
        is_mail_paused=dependencies.is_mail_paused,
        check_receiver=checks.run,
        send_test=send_test,
        metrics=dependencies.metrics,
        clock=clock,
        public_url=settings.public_url,
        public_path=settings.public_path,
        default_account_id=DEV_ACCOUNT if process.is_development else None,
    )
