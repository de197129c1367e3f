"""
Worlds with a greedy account, and the promises that its neighbour is made.

The greedy account has many receivers that answer at first and hang then, sends them more than there
are slots, and reads all the time. The quiet one has one receiver that answers and one that fails,
and sends them an invoice now and then. No process ends and no commit is lost: all that delays the
quiet account is what the greedy one does.

* Each attempt at the receiver that answers begins a moment after its event, as if it were alone.
* A scan begins with the accounts that have nothing in flight.
* An account has two reads in the database at a time.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from service.loops import POLL
from service.storage import waiting
from tests.simulation.plan import Behaviour, InvoicePlan, ReceiverPlan, draw

GREEDY, QUIET = 0, 1
"""The numbers of the accounts."""

ANSWERING = "https://quiet.example:443"
"""The receiver of the quiet account that always answers."""

PATIENCE = timedelta(milliseconds=250)
"""How long an attempt of the quiet account may be late."""

READS_MAX = 2
"""Reads of an account that may be in the database at a time."""

CHAINS = 1
"""How many accounts a scan goes along at once, so that two accounts are more than that."""

TIRED_AT, FAULTS_UNTIL = 4.0, 18.0
"""Seconds after which the receivers of the greedy account hang, and after which they answer."""


def draw_greedy(seed):
    """The plan of the greedy world of *seed*, which is always the same."""
    chance = random.Random(f"greedy {seed}")
    hanging = tuple(
        ReceiverPlan(
            f"https://{number}.example:443",
            "/a",
            ((TIRED_AT, Behaviour.HANGING),),
            Behaviour.WELL,
        )
        for number in range(chance.choice((15, 25)))
    )
    quiet = ReceiverPlan(ANSWERING, "", (), Behaviour.WELL)
    failing = ReceiverPlan(
        "https://failing.example:443", "", ((0.0, Behaviour.FAILING),), Behaviour.WELL
    )
    invoices = [(at, GREEDY, one) for one in hanging for at in _instants(chance, 0, 2, 1)]
    invoices += [(at, GREEDY, one) for one in hanging for at in _instants(chance, 4, 7, 3)]
    invoices += [(at, QUIET, quiet) for at in _instants(chance, 0.5, FAULTS_UNTIL - 2, 12)]
    invoices += [(at, QUIET, failing) for at in _instants(chance, 0.5, FAULTS_UNTIL - 2, 6)]
    return replace(
        draw(seed),
        is_calm=True,
        is_skewed=False,
        offsets=(timedelta(0),) * chance.choice((1, 2)),
        concurrency=32,
        origin_concurrency=4,
        timeout=timedelta(seconds=5),
        schedule=(timedelta(seconds=4),),
        retention=timedelta(days=30),
        poll=POLL,
        drain_seconds=10,
        commit_seconds=0.005,
        loss_chance=0,
        notification_loss_chance=0,
        kill_chance=0,
        slow_chance=0,
        receivers=(*hanging, quiet, failing),
        outages=(),
        invoices=tuple(
            InvoicePlan(
                number=number,
                at=at,
                account=account,
                receivers=(receiver,),
                event_count=1,
                silent_count=0,
                wait=0.02,
                is_sent_twice=False,
                events=(),
                recipient=None,
            )
            for number, (at, account, receiver) in enumerate(sorted(invoices, key=_at), 1)
        ),
        faults=(),
        faults_until=FAULTS_UNTIL,
        reads=tuple(_instants(chance, TIRED_AT, FAULTS_UNTIL, 8)),
    )


def _instants(chance, since, until, count):
    return sorted(round(chance.uniform(since, until), 3) for _ in range(count))


def _at(invoice):
    at, account, receiver = invoice
    return at, account, receiver.origin


class Fairness:
    """Checks one run of a greedy world."""

    def __init__(self, world):
        self._world = world
        self._idle = {}
        """Of each process, the accounts that its scan has not looked at and has to begin with."""
        self._reading = Counter()

    @contextmanager
    def reading(self, process, account_id):
        """A process reads what *account_id* has asked for."""
        self._reading[process, account_id] += 1
        if self._reading[process, account_id] > READS_MAX:
            self._world.log.violate("{} makes too many reads of {} at once", process, account_id)
        try:
            yield
        finally:
            self._reading[process, account_id] -= 1

    def has_read(self, process, work, args, result):
        """A process has read: a scan begins, or goes on along some accounts."""
        if work is waiting.find_accounts:
            count_in_flight = process.service.dispatcher._receivers.count_in_flight
            self._idle[process] = {one for one in result if not count_in_flight(one)}
        elif work is waiting.look_along:
            looked, idle = {one.account_id for one in args[0]}, self._idle[process]
            if looked - idle and idle - looked:
                self._world.log.violate(
                    "{} scans {} before accounts with nothing in flight", process, min(looked)
                )
            self._idle[process] = idle - looked

    def check(self, account_id):
        """No first attempt of the quiet account *account_id* was late."""
        tables = self._world.memory.tables
        for attempt in tables.attempts:
            if attempt["account_id"] != account_id or attempt["number"] > 1:
                continue
            delivery = tables.deliveries.get(account_id, attempt["delivery_id"])
            if delivery["origin"] == ANSWERING:
                late = attempt["started_at"] - delivery["created_at"]
                if late > PATIENCE:
                    self._world.log.violate("{} was attempted {} late", delivery["id"], late)
