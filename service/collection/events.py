"""The events of an invoice, as a collector tells them."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from service.clock import Clock
from service.domain.invoice import Event, Step
from service.domain.states import IS_PAID, Acceptance, InvoiceStatus

EventOf = Callable[[str, InvoiceStatus], Event]
"""Makes the event with that description, which leads to that status."""

Record = Callable[[Step], Awaitable[bool]]
"""
Commits a step or a report, with its settlement and the deliveries of its event.

False if the invoice is as it was: the lease of the step was no longer held, the move of the report
was not legal, or its settlement was not new.
"""


class Recorder(Protocol):
    """Commits what the collection has decided."""

    async def record(self, step: Step) -> bool:
        """See `Record`."""
        ...

    async def accept(self, step: Step) -> Acceptance:
        """Commit the invoice of *step* with it, its first, unless its account has used the id."""
        ...


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
