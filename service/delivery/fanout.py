"""Makes the deliveries of an event: one for each of its callbacks that the invoice asks for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from service.callbacks.declaration import Callback
from service.callbacks.invoices import invoice_content
from service.domain.delivery import Delivery, receiver_of
from service.domain.invoice import FIRST_LEASE_TOKEN, Step

Reserve = Callable[[str, str], datetime | None]
"""Reserves a lease for a receiver at an origin; returns its end, or None without capacity."""


def with_bodies(step: Step, callbacks: Mapping[str, Callback]) -> Step:
    """
    *step* with the body that each callback of its event declares, if the event has a content.

    The bodies are stored with the event: it is told in the feed also where nobody is called.
    """
    event = step.event
    if event is None or event.content is None:
        return step
    bodies = {
        name: callbacks[name].render(event.content) for name in event.callbacks if name in callbacks
    }
    return replace(step, event=replace(event, bodies=bodies))


def deliveries_of(
    step: Step, callbacks: Mapping[str, Callback], new_id: Callable[[], str], reserve: Reserve
) -> Iterator[Delivery]:
    """
    The deliveries of the event of *step*, with the body that each callback declares.

    If one of the bodies cannot be rendered, nothing is reserved.
    """
    invoice, event = step.invoice, step.event
    if event is None:
        return
    content = event.content
    if content is None:
        content = invoice_content(event.description, event.paid, invoice.id)
    known = event.bodies or {}
    bodies = [
        (evaluated, known.get(evaluated.callback) or callbacks[evaluated.callback].render(content))
        for evaluated in invoice.callbacks
        if evaluated.callback in event.callbacks
    ]
    for evaluated, body in bodies:
        receiver = receiver_of(invoice.account_id, evaluated.base or evaluated.origin)
        yield Delivery(
            id=f"msg_{new_id()}",
            account_id=invoice.account_id,
            invoice_key=invoice.key,
            invoice_id=invoice.id,
            sequence=invoice.event_count + 1,
            collector=event.collector,
            callback=evaluated.callback,
            url=evaluated.url,
            origin=evaluated.origin,
            receiver=receiver,
            body=body,
            accepted_at=invoice.created_at,
            created_at=event.at,
            leased_until=reserve(receiver, evaluated.origin),
            lease_token=FIRST_LEASE_TOKEN,
            request_id=invoice.request_id,
            traceparent=invoice.traceparent,
        )
