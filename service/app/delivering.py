"""The parts that deliver, from the stored delivery to the recorded attempt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service import __version__
from service.accounts.signing_secrets import SigningSecrets
from service.app.edges import Edges
from service.app.policies import signer_of
from service.callbacks.declaration import Callback
from service.callbacks.listening import ListenUrls
from service.delivery.attempt import Attempts, Rules
from service.delivery.dispatcher import Dispatcher, Limits
from service.delivery.listening import ListenerLimits, Listeners
from service.delivery.observer import Observer
from service.settings import Settings
from service.storage.store import Store
from service.telemetry.metrics import Metrics

LISTENER_SHARE = 4
"""Of the connections of clients, one in so many may be that of a listener."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """The loops that deliver; the observer stores what the last attempts have shown."""

    listeners: Listeners
    dispatcher: Dispatcher
    observer: Observer


def delivering_with(
    settings: Settings,
    edges: Edges,
    store: Store,
    signing_secrets: SigningSecrets,
    callbacks: Mapping[str, Callback],
    metrics: Metrics,
) -> Delivering:
    """What delivers the *callbacks*, signed with *signing_secrets*."""
    observer = Observer(store, edges.clock)
    listeners = _listeners(settings, edges, store, metrics)
    attempts = Attempts(
        store=store,
        observe=observer.count,
        sender=edges.sender,
        listeners=listeners,
        signer_of=signer_of(signing_secrets),
        callbacks=callbacks,
        rules=_rules(settings, edges.chance),
        clock=edges.clock,
        metrics=metrics,
        tracing=edges.tracing,
    )
    return Delivering(
        listeners=listeners,
        dispatcher=Dispatcher(attempts, _limits(settings), edges.new_id),
        observer=observer,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        concurrency=settings.callback_concurrency,
        origin_concurrency=settings.origin_concurrency,
        account_rate=settings.account_attempt_rate,
        timeout=settings.callback_timeout,
    )


def _rules(settings: Settings, chance: Callable[[], float]) -> Rules:
    return Rules(
        retry_schedule=settings.retry_schedule,
        is_strict=settings.receiver_contract == "strict",
        user_agent=f"invoices/{__version__}",
        chance=chance,
    )


def _listeners(settings: Settings, edges: Edges, store: Store, metrics: Metrics) -> Listeners:
    return Listeners(
        store,
        ListenUrls(settings.public_url),
        ListenerLimits(
            timeout=settings.callback_timeout,
            streams_max=max(1, settings.connection_limit // LISTENER_SHARE),
        ),
        edges.new_id,
        edges.clock,
        metrics,
    )
