"""
A service under a steady load: how long each event takes to arrive.

Invoices become due at the rate, whatever the service does. At a low rate nothing is shared: each
invoice has its own wake-ups and its own commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import quantiles
from urllib.request import urlopen

from benchmarks.bursts import Target, new_run, wait_until_quiet
from benchmarks.load import Order, send

PAGE = 200
"""Events in one answer."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds until the arrival at the receiver."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Steady:
    """
    One load of *rate* invoices a second.

    The delays are *from_post*, from the moment when the request was sent; *from_answer*, from the
    202; and *from_event*, from the instant that the event has, which is what is left where a real
    collector reports a payment. That is None for a service that records no events.
    """

    rate: float
    from_post: Delays
    from_answer: Delays
    from_event: Delays | None


class Feed:
    """The events of a service, each read once; without *has_events* there are none."""

    def __init__(self, url: str, *, has_events: bool) -> None:
        self._url = url
        self._has_events = has_events
        self._after = ""

    def read(self) -> dict[str, float]:
        """When each new event happened, by the id of its invoice."""
        return dict(self._read()) if self._has_events else {}

    def _read(self) -> Iterator[tuple[str, float]]:
        while True:
            after = f"&after={self._after}" if self._after else ""
            with urlopen(f"{self._url}/events?limit={PAGE}{after}") as answer:
                page = json.load(answer)
            for event in page["items"]:
                yield event["invoice_id"], datetime.fromisoformat(event["at"]).timestamp()
            self._after = page["next"] or self._after
            if not page["items"]:
                return


def measure_steady(target: Target, feed: Feed, rate: float, count: int) -> Steady:
    """Send *count* invoices at *rate* per second, and wait until all are recorded."""
    feed.read()
    run, service = new_run(), target.service
    order = Order(service.url, run, count, (target.receiver.url,), rate)
    load = send(order, service.folder)
    arrived = target.receiver.wait_for(run, count)
    wait_until_quiet(service.pid)
    happened = feed.read()
    return Steady(
        rate=rate,
        from_post=delays_of(load.sent, arrived),
        from_answer=delays_of(load.answered, arrived),
        from_event=delays_of(happened, arrived) if happened else None,
    )


def delays_of(since: Mapping[str, float], arrived: Mapping[str, float]) -> Delays:
    """How long each invoice needed from *since* until it *arrived*."""
    seconds = [at - since[name] for name, at in arrived.items()]
    cuts = quantiles(seconds, n=100, method="inclusive")
    return Delays(*(cuts[number - 1] * 1000 for number in (50, 95, 99)))
