import dataclasses
from itertools import count

import pytest

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.delivery.fanout import deliveries_of, with_bodies
from service.domain.invoice import FIRST_LEASE_TOKEN, Event
from service.domain.states import Cause
from tests.clock import START
from tests.rows import ONE, SECOND, TWO, a_callback, a_receiver, a_step, an_invoice

OTHER = dataclasses.replace(INVOICE_NOTIFICATION, name="other")
CALLBACKS = {one.name: one for one in (INVOICE_NOTIFICATION, OTHER)}
BOTH = (a_callback(ONE), a_callback(TWO, name=OTHER.name))
BODY = b'{"description":"Invoice paid","paid":true,"invoice_id":"1"}'


def fired(*names, content=None):
    """An event that fires the callbacks with these names."""
    return Event(
        description="Invoice paid",
        paid=True,
        at=START + SECOND,
        collector="sandbox",
        callbacks=names,
        content=content,
    )


def made(event, *, callbacks=BOTH, reserve=lambda *_: None, **changes):
    """The deliveries of *event*, with ids that count up."""
    invoice = an_invoice(callbacks=callbacks, traceparent="a trace", **changes)
    numbers = count(1)
    new_id = lambda: str(next(numbers))  # noqa: E731 -- a stand-in of one line
    return list(deliveries_of(a_step(invoice, event=event), CALLBACKS, new_id, reserve))


def test_a_delivery_has_all_that_an_attempt_needs():
    """A delivery is made of the invoice, the event and the evaluated callback."""
    (delivery,) = made(
        fired(INVOICE_NOTIFICATION.name), reserve=lambda *_: START + 9 * SECOND, key="the key"
    )

    assert ("msg_1", "dev", "the key", "1", 1) == (
        delivery.id,
        delivery.account_id,
        delivery.invoice_key,
        delivery.invoice_id,
        delivery.sequence,
    )
    assert ("invoice_notification", f"{ONE}/invoices/1", ONE, BODY) == (
        delivery.callback,
        delivery.url,
        delivery.origin,
        delivery.body,
    )
    assert ("sandbox", "request of 1", "a trace") == (
        delivery.collector,
        delivery.request_id,
        delivery.traceparent,
    )
    assert (START, START + SECOND) == (delivery.accepted_at, delivery.created_at)
    assert (START + 9 * SECOND, FIRST_LEASE_TOKEN) == (delivery.leased_until, delivery.lease_token)
    assert (0, 0, Cause.EVENT) == (delivery.attempt_count, delivery.failure_count, delivery.cause)


def test_events_are_numbered_within_their_invoice():
    """The next event of an invoice has the next number."""
    (delivery,) = made(fired(OTHER.name), event_count=4)

    assert 5 == delivery.sequence


@pytest.mark.parametrize(
    ("expected", "event", "callbacks"),
    [
        ([ONE, TWO], fired("invoice_notification", "other"), BOTH),
        ([TWO], fired("other"), BOTH),
        ([ONE], fired("invoice_notification", "other"), BOTH[:1]),
        ([], fired("invoice_notification"), BOTH[1:]),
        ([], fired(), BOTH),
        ([], fired("other"), ()),
        ([], None, BOTH),
    ],
    ids=["both", "one fired", "one asked for", "another", "none fired", "none asked for", "none"],
)
def test_fired_callbacks_with_a_url_are_delivered(expected, event, callbacks):
    """There is one delivery for each callback that the event fires and the invoice asks for."""
    assert expected == [delivery.origin for delivery in made(event, callbacks=callbacks)]


def test_a_lease_is_reserved_for_each_receiver():
    """Capacity is counted by receiver, so that one of two deliveries may get a lease alone."""
    leases = {(a_receiver(ONE), ONE): None, (a_receiver(TWO), TWO): START + SECOND}

    deliveries = made(
        fired("invoice_notification", "other"),
        reserve=lambda receiver, origin: leases[receiver, origin],
    )

    assert leases == {(one.receiver, one.origin): one.leased_until for one in deliveries}


def test_a_callback_renders_the_content_of_an_event():
    """A callback with its own schema renders the content of the event alone."""
    content = {"description": "Another", "paid": False}

    (delivery,) = made(fired("other", content=content))

    assert b'{"description":"Another","paid":false}' == delivery.body


def test_the_bodies_of_a_content_are_stored_with_the_event():
    """What each callback makes of a content is kept, also where nobody is called."""
    content = {"description": "Another", "paid": False}
    step = a_step(an_invoice(origin=None), event=fired("other", "gone", content=content))

    assert {"other": b'{"description":"Another","paid":false}'} == (
        with_bodies(step, CALLBACKS).event.bodies
    )


def test_an_event_without_a_content_stores_no_body():
    """The body of a usual event is made again from its description whenever it is told."""
    step = a_step(an_invoice(), event=fired("other"))

    assert step is with_bodies(step, CALLBACKS)


@pytest.mark.parametrize("fault", ["an unknown callback", "a body that cannot be rendered"])
def test_an_event_that_cannot_be_rendered_reserves_nothing(fault):
    """A callback that cannot be rendered leaves no reserved capacity for another one."""
    reserved = []
    event = fired("invoice_notification", "gone")
    callbacks = (a_callback(ONE), a_callback(TWO, name="gone"))
    if fault != "an unknown callback":
        event, callbacks = fired("invoice_notification", "other", content=Unreadable()), BOTH

    with pytest.raises((KeyError, ZeroDivisionError)):
        made(event, callbacks=callbacks, reserve=reserved.append)

    assert [] == reserved


class Unreadable:
    """An event whose second rendering fails."""

    paid = True

    def __init__(self):
        self.read_count = 0

    @property
    def description(self):
        """Fail at the second call."""
        self.read_count += 1
        return 1 / (2 - self.read_count)
