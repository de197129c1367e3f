"""
The promises that a receiver can see, and the limits that a process keeps while it asks.

* Each lease makes one request at most; all requests of a delivery have the same URL and bytes.
* The first request for an event comes after all earlier ones of its invoice were settled.
* A process has no more attempts in flight than slots, in all and for each origin, and leaves an
  origin alone for as long as that has asked it to, and for a moment after a probe that failed.

Where clocks agree, a request is made only under a lease that holds, and that outlasts its
deadline: so two processes never attempt one delivery at the same time, and nothing is sent once
a delivery is settled. Where clocks differ, one may believe that the lease of another has run out.
Both ask then, and one of them settles.
"""

from __future__ import annotations

from datetime import timedelta

from service.delivery.fairness import REST_FIRST
from service.delivery.sender import Answer


class Requests:
    """Watches the attempts of one run."""

    def __init__(self, world, ledger):
        self._plan = world.plan
        self._memory = world.memory
        self._story = world.story
        self._ledger = ledger

    def turn_given(self, process, turn):
        """An attempt is about to begin."""
        delivery = turn.delivery
        if turn.is_probe:
            self._ledger.probes.add((delivery.id, delivery.lease_token))
        until = self._ledger.held_until.get((process, delivery.origin))
        if until and process.clock.now() < until and not self._plan.is_skewed:
            self._story.violate(
                "{} attempts {} though {} is left alone until {}",
                process,
                delivery.id,
                delivery.origin,
                until,
            )

    def attempt_begins(self, process, delivery):
        """A slot was taken for *delivery*."""
        process.in_flight.append(delivery)
        of_origin = [one for one in process.in_flight if one.origin == delivery.origin]
        if len(process.in_flight) > self._plan.concurrency:
            self._story.violate("{} uses more slots than it has", process)
        if len(of_origin) > self._plan.origin_concurrency:
            self._story.violate("{} uses too many slots for {}", process, delivery.origin)

    def attempt_ends(self, process, delivery):
        """Its slot is free again."""
        process.in_flight.remove(delivery)

    def request_begins(self, request, delivery):
        """A request is on its way."""
        id_, token = request.delivery_id, request.token
        self._story.tell(request.process, "asks for {} (token {})", id_, token)
        if (id_, token) in self._ledger.requests:
            self._story.violate("{} asked twice under one lease of {}", request.process, id_)
        self._ledger.requests[id_, token] = request
        self._ledger.request_counts[id_] += 1
        content = self._ledger.contents.setdefault(id_, (request.url, request.body))
        if content != (request.url, request.body):
            self._story.violate("{} was sent with other bytes than before", id_)
        self._check_row(request, delivery)

    def request_ends(self, request, delivery):
        """Its answer has come back."""
        answer, process = request.answer, request.process
        self._story.tell(process, "has the answer for {}: {}", request.delivery_id, answer)
        rest = max(_asked_for(answer), self._of_probe(request))
        if rest:
            until = process.clock.now() + rest
            known = self._ledger.held_until.get((process, delivery.origin), until)
            self._ledger.held_until[process, delivery.origin] = max(known, until)

    def _of_probe(self, request):
        """How long an origin rests at least whose probe has failed."""
        is_probe = (request.delivery_id, request.token) in self._ledger.probes
        code = getattr(request.answer, "status_code", None) or 599
        return REST_FIRST if is_probe and (code >= 500 or code == 429) else timedelta(0)

    def _check_row(self, request, delivery):
        tx = self._memory.tables
        row = tx.deliveries.get(delivery.account_id, delivery.id)
        if row is None:
            self._story.violate(
                "{} asked for {}, which is not stored", request.process, delivery.id
            )
            return
        self._check_order(request, tx, row)
        until = row["leased_until"]
        holds = row["lease_token"] == request.token and until is not None
        lasts = holds and until > request.process.clock.now() + self._plan.timeout
        if not lasts and not self._plan.is_skewed:
            self._story.violate(
                "{} asked for {} without a lease that lasts", request.process, delivery.id
            )

    def _check_order(self, request, tx, row):
        for earlier in tx.earlier_of(row):
            if earlier["id"] not in self._ledger.final:
                self._story.violate(
                    "{} asked for {} before {} was settled",
                    request.process,
                    row["id"],
                    earlier["id"],
                )


def _asked_for(answer):
    """How long a receiver has asked to be left alone."""
    header = answer.retry_after if isinstance(answer, Answer) else None
    return timedelta(seconds=int(header or 0))
