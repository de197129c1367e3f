"""
The promises that a receiver can see, and the limits that a process keeps while it asks.

* Each lease makes one request at most; all requests of a delivery have the same URL and bytes, and
  are signed with the secrets that their account has.
* The first request for an event comes after all earlier ones of the same callback of its invoice
  were settled.
* A process has no more attempts in flight than slots, in all and for each origin. An origin that
  has not answered, or has just failed, gets one attempt at a time. It is left alone for as long as
  it has asked for, and for a moment after such a probe has failed.

Where clocks agree, a request is made only under a lease that holds, and that outlasts its
deadline: so two processes never attempt one delivery at the same time, and nothing is sent once
a delivery is settled. Where clocks differ, one may believe that the lease of another has run out.
Both ask then, and one of them settles.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from service.accounts.cache import CACHE_SECONDS
from service.delivery.fairness import COOLDOWN_FIRST
from service.delivery.sender import Answer
from service.delivery.signing import Signer
from tests.simulation.receivers import Request


@dataclass(slots=True, eq=False)
class Attempt:
    """An attempt, as its process made it."""

    process: object
    origin: str
    is_probe: bool
    began_at: datetime
    """By the clock of the process."""
    began_seconds: float
    """The virtual time."""
    request: Request | None = None


@dataclass(slots=True)
class OriginHistory:
    """What a process has learned of an origin; each fact with the number of tasks before it."""

    is_open: list[tuple[int, bool]] = field(default_factory=list)
    """Whether it answers."""
    left_alone_until: list[tuple[int, datetime]] = field(default_factory=list)


class Requests:
    """Watches the attempts of one run."""

    def __init__(self, world, ledger):
        self._world = world
        self._plan = world.plan
        self._memory = world.memory
        self._story = world.story
        self._ledger = ledger
        self._histories = defaultdict(OriginHistory)

    def attempt_begins(self, process, callback, traceparent):
        """
        An attempt has begun, of the running task.

        It was given its slot when that task was created: what its process has learned of the
        origin since then came too late for it.
        """
        loop = asyncio.get_running_loop()
        origin, created = self._world.origin_of(callback, traceparent), loop.number_of_task()
        history, now = self._histories[process, origin], process.clock.now()
        is_open = next((one for at, one in reversed(history.is_open) if at < created), False)
        attempt = Attempt(process, origin, not is_open, now, loop.time())
        self._check_limits(process, attempt)
        for at, until in history.left_alone_until:
            if at < created and now < until and not self._plan.is_skewed:
                self._story.violate(
                    "{} attempts a delivery though {} is left alone until {}",
                    process,
                    origin,
                    until,
                )
        return attempt

    def attempt_ends(self, attempt, failure):
        """An attempt has ended with the answer to its request, or was none: we have failed."""
        attempt.process.in_flight.remove(attempt)
        if failure is not None:
            self._story.add(attempt.process, "cannot attempt: {}", type(failure).__name__)
            return
        history = self._histories[attempt.process, attempt.origin]
        at = asyncio.get_running_loop().task_count
        answer = attempt.request and attempt.request.answer
        code = getattr(answer, "status_code", None) or 599
        is_open = code < 500 and code != 429
        history.is_open.append((at, is_open))
        is_failed_probe = attempt.is_probe and not is_open
        wait = max(_asked_for(answer), COOLDOWN_FIRST if is_failed_probe else timedelta(0))
        if wait:
            history.left_alone_until.append((at, attempt.process.clock.now() + wait))

    def request_begins(self, attempt, outgoing):
        """A request is on its way; the bytes that it sends show under which lease."""
        process = attempt.process
        _, leased_by, delivery = self._ledger.leases[id(outgoing.body)]
        id_, token = delivery.id, delivery.lease_token
        attempt.request = request = Request(process, delivery, outgoing.body)
        self._story.add(process, "asks for {} (token {})", id_, token)
        if leased_by is not process or outgoing.headers["webhook-id"] != id_:
            self._story.violate("{} sent {} as {}", process, id_, outgoing.headers["webhook-id"])
        if (id_, token) in self._ledger.requests:
            self._story.violate("{} asked twice under one lease of {}", process, id_)
        self._ledger.requests[id_, token] = request
        self._ledger.request_counts[id_] += 1
        content = self._ledger.contents.setdefault(id_, (outgoing.url, outgoing.body))
        if content != (outgoing.url, outgoing.body):
            self._story.violate("{} was sent with other bytes than before", id_)
        self._check_signatures(attempt, outgoing, delivery)
        self._check_row(request)
        return request

    def _check_limits(self, process, attempt):
        of_origin = [one for one in process.in_flight if one.origin == attempt.origin]
        process.in_flight.append(attempt)
        if len(process.in_flight) > self._plan.concurrency:
            self._story.violate("{} uses more slots than it has", process)
        if len(of_origin) >= self._plan.origin_concurrency:
            self._story.violate("{} uses too many slots for {}", process, attempt.origin)
        if of_origin and attempt.is_probe:
            self._story.violate("{} probes {} with several attempts", process, attempt.origin)

    def _check_signatures(self, attempt, outgoing, delivery):
        """What changed lately may be unknown to a process, which keeps secrets for a moment."""
        headers, now = outgoing.headers, attempt.began_at
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        known_since = attempt.began_seconds - CACHE_SECONDS
        for secret in self._world.secrets[delivery.account_id]:
            expected = Signer((secret.text,)).headers(delivery.id, at, outgoing.body)
            is_signed = expected["webhook-signature"] in headers["webhook-signature"].split(" ")
            is_valid = secret.expires_at is None or secret.expires_at > now
            if is_signed and not is_valid and secret.expired_since <= known_since:
                self._story.violate("{} is signed with a secret that has expired", delivery.id)
            # A process whose clock was set back has forgotten a secret that is valid again.
            is_certain = secret.expires_at is None or not self._plan.is_skewed
            if is_valid and not is_signed and is_certain and secret.since <= known_since:
                self._story.violate("{} is not signed with a secret of its account", delivery.id)

    def _check_row(self, request):
        tx, delivery, process = self._memory.tables, request.delivery, request.process
        row = tx.deliveries.get(delivery.account_id, delivery.id)
        if row is None:
            if delivery.id not in self._ledger.swept or not self._plan.is_skewed:
                self._story.violate("{} asked for {}, which is not stored", process, delivery.id)
            return
        for earlier in tx.earlier_of(row):
            if earlier["id"] not in self._ledger.final:
                self._story.violate(
                    "{} asked for {} before {} was settled", process, row["id"], earlier["id"]
                )
        until = row["leased_until"]
        holds = row["lease_token"] == delivery.lease_token and until is not None
        lasts = holds and until > process.clock.now() + self._plan.timeout
        if not lasts and not self._plan.is_skewed:
            self._story.violate("{} asked for {} without a lease that lasts", process, delivery.id)


def _asked_for(answer):
    """How long a receiver has asked to be left alone."""
    header = answer.retry_after if isinstance(answer, Answer) else None
    return timedelta(seconds=int(header or 0))
