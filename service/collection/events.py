"""The events of an invoice, as a collector tells them."""

from collections.abc import Callable
from functools import partial

from service.clock import Clock
from service.domain.invoice import Event
from service.domain.states import IS_PAID, InvoiceStatus

EventOf = Callable[[str, InvoiceStatus], Event]
"""Makes the event with that description, which leads to that status."""


def event_maker(collector: str, callback: str, clock: Clock) -> EventOf:
    """The function that makes the events of *collector*, which fire *callback*."""
    return partial(_event, collector, (callback,), clock)


def _event(
    collector: str,
    callbacks: tuple[str, ...],
    clock: Clock,
    description: str,
    status: InvoiceStatus,
) -> Event:
    return Event(
        description=description,
        paid=status in IS_PAID,
        at=clock.now(),
        collector=collector,
        callbacks=callbacks,
    )
