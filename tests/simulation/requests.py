"""
The promises that a receiver can check, and the limits of a process for its attempts.

* Each lease makes one request at most. All requests of a delivery have the same URL and bytes, and
are signed with the secrets of their account.
* The first request for an event comes after all earlier ones of the same callback of its invoice
  were settled.
* A process has no more attempts in flight than slots, in all and for each origin. A receiver that
has not answered, or has just failed, gets one attempt at a time: a probe. It gets none during the
hold that it has asked for, nor during the cooldown after a failed probe. All probes together have
half of the slots, those of one account a quarter of that. What is asked for by hand is attempted
all the same.

If clocks agree, a request is made only under a lease that lasts longer than its deadline. So two
processes never attempt one delivery at the same time, and no request is made after the delivery
is settled. If clocks differ, a process may consider the lease of another one as expired. Then both
make a request, and one of them settles.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from service.accounts.cache import CACHE_SECONDS
from service.delivery.failures import NoAnswer
from service.delivery.health import COOLDOWN_FIRST, REFUSALS_MAX
from service.delivery.sender import Answer
from service.delivery.signing import Signer
from service.domain.delivery import account_of
from tests.fakes import OK
from tests.simulation.receivers import Request


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of a process."""

    process: object
    receiver: str
    origin: str
    is_probe: bool
    is_asked: bool
    began_at: datetime
    """By the clock of the process."""
    began_seconds: float
    """The virtual time."""
    request: Request | None = None


@dataclass(slots=True)
class History:
    """The facts that a process knows about a receiver, each with the number of tasks before it."""

    is_open: list[tuple[int, bool]] = field(default_factory=list)
    """Whether it answers."""
    refusal_count: int = 0
    """Refusals since the last delivery."""
    blocked_until: list[tuple[int, datetime]] = field(default_factory=list)


class Requests:
    """Checks the attempts of one run."""

    def __init__(self, world, ledger):
        self._world = world
        self._plan = world.plan
        self._memory = world.memory
        self._log = world.log
        self._ledger = ledger
        self._histories = defaultdict(History)
        self._answered = set()

    def attempt_begins(self, process, callback, traceparent):
        """
        The running task begins an attempt.

        It got its slot when that task was created: facts about the origin that its process
        has learned since then could not stop it.
        """
        loop = asyncio.get_running_loop()
        receiver, origin = self._world.receiver_of(callback, traceparent)
        created, now = loop.number_of_task(), process.clock.now()
        history = self._histories[process, receiver]
        # Whoever answered another process, or the one before, may be known as answering.
        unknown = receiver in self._answered
        is_open = next((one for at, one in reversed(history.is_open) if at < created), unknown)
        is_asked = (callback, traceparent) in self._world.asked
        attempt = Attempt(process, receiver, origin, not is_open, is_asked, now, loop.time())
        self._check_limits(process, attempt)
        for at, until in history.blocked_until:
            is_blocked = at < created and now < until and not self._plan.is_skewed
            if is_blocked and not attempt.is_asked:
                self._log.violate(
                    "{} attempts a delivery though {} is on hold until {}",
                    process,
                    receiver,
                    until,
                )
        return attempt

    def attempt_ends(self, attempt, failure):
        """An attempt has ended: with an answer, or with an error on our side before the request."""
        attempt.process.in_flight.remove(attempt)
        if failure is not None:
            self._log.add(attempt.process, "cannot attempt: {}", type(failure).__name__)
            return
        history = self._histories[attempt.process, attempt.receiver]
        at = asyncio.get_running_loop().task_count
        answer = attempt.request and attempt.request.answer
        if isinstance(answer, NoAnswer) and not answer.is_connected:
            return
        code = getattr(answer, "status_code", None) or 599
        is_ok = code == 200 and (answer.body == OK.body or not self._plan.is_strict)
        history.refusal_count = 0 if is_ok else history.refusal_count + 1
        is_open = code < 500 and code != 429 and history.refusal_count < REFUSALS_MAX
        history.is_open.append((at, is_open))
        if is_open:
            self._answered.add(attempt.receiver)
        # What was asked for by hand is attempted in a cooldown too, and then begins no other one.
        is_by_hand = attempt.request is not None and attempt.request.delivery.is_asked
        is_failed_probe = attempt.is_probe and not is_open and not is_by_hand
        wait = max(_asked_for(answer), COOLDOWN_FIRST if is_failed_probe else timedelta(0))
        if wait:
            history.blocked_until.append((at, attempt.process.clock.now() + wait))

    def request_begins(self, attempt, outgoing):
        """A request is made; the bytes of its body identify its lease."""
        process = attempt.process
        _, leased_by, delivery = self._ledger.leases[id(outgoing.body)]
        id_, token = delivery.id, delivery.lease_token
        attempt.request = request = Request(process, delivery, outgoing.body)
        self._log.add(process, "asks for {} (token {})", id_, token)
        if leased_by is not process or outgoing.headers["webhook-id"] != id_:
            self._log.violate("{} sent {} as {}", process, id_, outgoing.headers["webhook-id"])
        if (id_, token) in self._ledger.requests:
            self._log.violate("{} asked twice under one lease of {}", process, id_)
        self._ledger.requests[id_, token] = request
        self._ledger.request_counts[id_] += 1
        content = self._ledger.contents.setdefault(id_, (outgoing.url, outgoing.body))
        if content != (outgoing.url, outgoing.body):
            self._log.violate("{} was sent with other bytes than before", id_)
        self._check_signatures(attempt, outgoing, delivery)
        self._check_row(request)
        return request

    def _check_limits(self, process, attempt):
        of_origin = [one for one in process.in_flight if one.origin == attempt.origin]
        of_receiver = [one for one in of_origin if one.receiver == attempt.receiver]
        probes = [one for one in process.in_flight if one.is_probe]
        of_account = [
            one for one in probes if account_of(one.receiver) == account_of(attempt.receiver)
        ]
        half = max(1, self._plan.concurrency // 2)
        process.in_flight.append(attempt)
        if len(process.in_flight) > self._plan.concurrency:
            self._log.violate("{} uses more slots than it has", process)
        if len(of_origin) >= self._plan.origin_concurrency:
            self._log.violate("{} uses too many slots for {}", process, attempt.origin)
        if of_receiver and attempt.is_probe and not attempt.is_asked:
            self._log.violate("{} probes {} with several attempts", process, attempt.receiver)
        if attempt.is_probe and len(probes) >= half:
            self._log.violate("{} probes with more than half of its slots", process)
        if attempt.is_probe and len(of_account) >= max(1, half // 4):
            self._log.violate("{} probes with too many slots of one account", process)

    def _check_signatures(self, attempt, outgoing, delivery):
        """A process keeps secrets for a moment, so it may not know the latest changes."""
        headers, now = outgoing.headers, attempt.began_at
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        known_since = attempt.began_seconds - CACHE_SECONDS
        for secret in self._world.secrets[delivery.account_id]:
            expected = Signer((secret.text,)).headers(delivery.id, at, outgoing.body)
            is_signed = expected["webhook-signature"] in headers["webhook-signature"].split(" ")
            is_valid = secret.expires_at is None or secret.expires_at > now
            if is_signed and not is_valid and secret.expired_since <= known_since:
                self._log.violate("{} is signed with a secret that has expired", delivery.id)
            # A process whose clock was set back has dropped a secret that is valid again.
            is_certain = secret.expires_at is None or not self._plan.is_skewed
            if is_valid and not is_signed and is_certain and secret.since <= known_since:
                self._log.violate("{} is not signed with a secret of its account", delivery.id)

    def _check_row(self, request):
        tx, delivery, process = self._memory.tables, request.delivery, request.process
        row = tx.deliveries.get(delivery.account_id, delivery.id)
        if row is None:
            if delivery.id not in self._ledger.swept or not self._plan.is_skewed:
                self._log.violate("{} asked for {}, which is not stored", process, delivery.id)
            return
        for earlier in tx.earlier_of(row):
            if earlier["id"] not in self._ledger.final:
                self._log.violate(
                    "{} asked for {} before {} was settled", process, row["id"], earlier["id"]
                )
        until = row["leased_until"]
        holds = row["lease_token"] == delivery.lease_token and until is not None
        lasts = holds and until > process.clock.now() + self._plan.timeout
        # Its process cannot know yet that it was cancelled.
        is_cancelled = (delivery.id, delivery.lease_token) in self._ledger.cancelled
        if not lasts and not self._plan.is_skewed and not is_cancelled:
            self._log.violate("{} asked for {} without a lease that lasts", process, delivery.id)


def _asked_for(answer):
    """The length of the hold that a receiver has asked for."""
    header = answer.retry_after if isinstance(answer, Answer) else None
    return timedelta(seconds=int(header or 0))
