"""
The plan of a world: everything that a seed decides before the run starts, including its faults.

A plan is a value. Its times are seconds of virtual time. Three kinds of worlds are drawn:

* *calm* worlds: no process ends, no commit is lost, every notification arrives and no loop polls.
  A loop that waits for something that is not signalled waits for ever there, and is found;
* worlds with faults and equal clocks, where every promise holds;
* worlds with faults and clocks that differ and jump, where leases may overlap (see `invariants`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from service.loops import POLL

CLOCK_LIMIT = timedelta(seconds=10)
"""The largest error of a clock; leases and due rows are late by at most twice that."""

ACCOUNT_COUNT = 2

MAIL_LEASE = timedelta(seconds=15)
"""The lease of a mail in a world; that of the service is longer."""

MAIL_PAUSE = timedelta(seconds=3)
"""How long no mail is sent after the service itself was refused."""

CALLBACKS = ("invoice_notification", "invoice_copy")
"""The callback of the service and one more; the collection fires only the first one."""


class Behaviour(Enum):
    """The behaviour of a receiver for a while."""

    WELL = "well"
    FLAKY = "flaky"
    FAILING = "failing"
    WRONG = "answering with wrong bodies"
    BUSY = "asking for holds"
    HANGING = "hanging"
    LOSING = "losing connections"
    GONE = "gone"


class MailBehaviour(Enum):
    """The behaviour of the mail server for a while."""

    WELL = "well"
    FLAKY = "flaky"
    AWAY = "away"
    CLOSED = "taking no mail of the service"


class Recipient(Enum):
    """Whether the mail server knows the customer of an invoice."""

    KNOWN = "known"
    UNKNOWN = "unknown"


class FaultKind(Enum):
    """The kinds of faults and operations in a world; `world` implements them."""

    KILL = "kill"
    DRAIN = "drain"
    JUMP = "jump"
    AWAY = "away"
    CUT_OFF = "cut off"
    REDELIVER = "redeliver"
    ROTATE = "rotate a secret"
    PAUSE = "pause a receiver"
    CANCEL = "cancel a delivery"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, at an instant; *size* is from 0 to 1."""

    at: float
    kind: FaultKind
    machine: int
    size: float


@dataclass(frozen=True, slots=True)
class ReceiverPlan:
    """A receiver: its behaviours, each from an instant on, and its last one after the faults."""

    origin: str
    path: str
    behaviours: tuple[tuple[float, Behaviour], ...]
    last: Behaviour

    @property
    def base(self):
        """The URL that its accounts give."""
        return self.origin + self.path

    @property
    def is_well(self):
        """Whether it never fails."""
        return {self.last, *(one for _, one in self.behaviours)} == {Behaviour.WELL}


@dataclass(frozen=True, slots=True)
class OutagePlan:
    """A time in which no connection to an origin can be made."""

    origin: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class EventPlan:
    """An event that an operator records, at an instant; it fires *callbacks*."""

    at: float
    description: str
    callbacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InvoicePlan:
    """An invoice that a client sends, and the answers of its collector."""

    number: int
    at: float
    account: int
    """The number of its account in the world."""
    receivers: tuple[ReceiverPlan, ...]
    """The receiver of each of `CALLBACKS` that it asks for; empty if there is none."""
    event_count: int
    """The number of events of its collection."""
    silent_count: int
    """How often the collector answers without an event."""
    wait: float
    is_sent_twice: bool
    events: tuple[EventPlan, ...]
    """The events that are recorded beside its collection."""
    recipient: Recipient | None
    """The customer that gets a mail; None if its account gives no address."""

    @property
    def id(self):
        """The id of the invoice."""
        return f"inv_{self.number}"

    def asked_for(self, callbacks):
        """The ones of *callbacks* that it asks for."""
        return [one for one in CALLBACKS[: len(self.receivers)] if one in callbacks]

    @property
    def traceparent(self):
        """The trace of its request, which identifies its attempts."""
        return f"00-{self.number:032x}-{self.number:016x}-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is decided about a world before it starts."""

    seed: int
    is_calm: bool
    is_skewed: bool
    has_one_writer: bool
    offsets: tuple[timedelta, ...]
    """The error of the clock of each machine at the start."""
    concurrency: int
    origin_concurrency: int
    timeout: timedelta
    schedule: tuple[timedelta, ...]
    is_strict: bool
    retention: timedelta
    poll: timedelta
    drain_seconds: float
    commit_seconds: float
    """The longest delay on the way to the memory, and on the way back."""
    loss_chance: float
    notification_loss_chance: float
    """The probability that a notification to another process is lost."""
    kill_chance: float
    """The probability that a process is killed in the middle of an operation."""
    slow_chance: float
    """The probability that a collector takes about as long as a lease."""
    receivers: tuple[ReceiverPlan, ...]
    outages: tuple[OutagePlan, ...]
    mail_schedule: tuple[timedelta, ...]
    mail_behaviours: tuple[tuple[float, MailBehaviour], ...]
    """The behaviours of the mail server, each from an instant on."""
    invoices: tuple[InvoicePlan, ...]
    faults: tuple[Fault, ...]
    faults_until: float
    reads: tuple[float, ...] = ()
    """When the greedy account reads, if there is one: many times at once; see `greedy`."""
    payments: object = None
    """What is decided about payments, if Stripe collects; see `paying`."""


def draw(seed):
    """The plan of *seed*, which is always the same."""
    chance = random.Random(seed)
    is_calm = chance.random() < 0.25
    is_skewed = not is_calm and chance.random() < 0.35
    machine_count = chance.choice((1, 2, 2, 3))
    faults_until = chance.uniform(6, 22)
    receivers = _draw_receivers(chance, faults_until)
    # A generator of its own: what it draws changes nothing else of a world.
    mail_chance = random.Random(f"mails of {seed}")
    pauses = _draw_by_hand(seed, FaultKind.PAUSE, machine_count, faults_until)
    cancels = _draw_by_hand(seed, FaultKind.CANCEL, machine_count, faults_until)
    return Plan(
        seed=seed,
        is_calm=is_calm,
        is_skewed=is_skewed,
        has_one_writer=chance.random() < 0.5,
        offsets=tuple(_draw_offset(chance, is_skewed) for _ in range(machine_count)),
        concurrency=chance.choice((1, 2, 4, 16)),
        origin_concurrency=chance.randint(1, 4),
        timeout=timedelta(seconds=chance.choice((2, 3, 5))),
        schedule=tuple(
            timedelta(seconds=chance.choice((0.5, 1, 2, 4))) for _ in range(chance.randint(1, 3))
        ),
        is_strict=chance.random() < 0.8,
        retention=_draw_retention(chance, is_calm),
        poll=timedelta(hours=1) if is_calm else POLL,
        drain_seconds=chance.choice((1, 10, 40)),
        commit_seconds=chance.choice((0.005, 0.03, 0.3)),
        loss_chance=0 if is_calm else chance.choice((0, 0, 0.03, 0.15)),
        notification_loss_chance=0 if is_calm else chance.choice((0, 0.3, 1)),
        kill_chance=0 if is_calm else chance.choice((0, 0.3, 0.7)),
        slow_chance=0 if is_calm else chance.choice((0, 0, 0.2)),
        receivers=receivers,
        outages=_draw_outages(chance, {one.origin for one in receivers}, faults_until),
        mail_schedule=tuple(
            timedelta(seconds=mail_chance.choice((0.5, 1, 2)))
            for _ in range(mail_chance.randint(1, 4))
        ),
        mail_behaviours=tuple(
            (at, mail_chance.choice((*MailBehaviour, MailBehaviour.FLAKY)))
            for at in sorted(
                mail_chance.choice((0, mail_chance.uniform(0, faults_until)))
                for _ in range(mail_chance.randint(1, 4))
            )
        ),
        invoices=_draw_invoices(chance, mail_chance, receivers, faults_until),
        faults=_in_order(
            *_draw_faults(chance, machine_count, faults_until, is_calm, is_skewed),
            *pauses,
            *cancels,
        ),
        faults_until=faults_until,
    )


def _draw_offset(chance, is_skewed):
    return timedelta(seconds=chance.uniform(-3, 3)) if is_skewed else timedelta(0)


def _draw_receivers(chance, faults_until):
    """Up to three receivers at each of one or two origins."""
    return tuple(
        ReceiverPlan(
            f"https://{name}.example:443",
            path,
            tuple(
                (at, chance.choice(tuple(Behaviour)))
                for at in sorted(
                    chance.uniform(0, faults_until) for _ in range(chance.randint(0, 3))
                )
            ),
            chance.choice(
                (Behaviour.WELL,) * 6 + (Behaviour.FAILING, Behaviour.LOSING, Behaviour.GONE)
            ),
        )
        for name in ("one", "two")[: chance.randint(1, 2)]
        for path in ("/a", "/b", "/c")[: chance.randint(1, 3)]
    )


def _draw_outages(chance, origins, faults_until):
    drawn = []
    for origin in sorted(origins):
        if chance.random() < 0.3:
            since = chance.uniform(0, faults_until)
            drawn.append(OutagePlan(origin, since, chance.uniform(since, faults_until)))
    return tuple(drawn)


def _draw_retention(chance, is_calm):
    """Usually longer than a run; otherwise so short that deliveries are removed during the run."""
    if is_calm or chance.random() < 0.8:
        return timedelta(days=30)
    return timedelta(seconds=chance.choice((4, 12)))


def _draw_invoices(chance, mail_chance, receivers, faults_until):
    """Some invoices come one by one, others in a burst for the same receiver."""
    at, receiver, drawn = 0.0, chance.choice(receivers), []
    recipients = (None,)
    if mail_chance.random() < 0.5:
        recipients = (None, None, *2 * (Recipient.KNOWN,), Recipient.UNKNOWN)
    for number in range(1, chance.randint(2, 9) + 1):
        if chance.random() < 0.6:
            at, receiver = chance.uniform(0, faults_until * 0.7), chance.choice(receivers)
        called = () if chance.random() < 0.05 else (receiver,)
        if called and chance.random() < 0.3:
            called = (receiver, chance.choice(receivers))
        drawn.append(
            InvoicePlan(
                number=number,
                at=round(at, 3),
                account=chance.randrange(ACCOUNT_COUNT),
                receivers=called,
                event_count=chance.choice((1, 1, 2, 3)),
                silent_count=chance.choice((0, 0, 1)),
                wait=chance.choice((0.02, 0.5, 2)),
                is_sent_twice=chance.random() < 0.1,
                events=_draw_events(chance, number, at, faults_until),
                recipient=mail_chance.choice(recipients),
            )
        )
    return tuple(sorted(drawn, key=lambda one: one.at))


def _draw_events(chance, number, at, faults_until):
    """Events beside the collection of invoice *number*; most invoices have none."""
    count = chance.choice((0, 0, 0, 1, 2))
    fired = ((), CALLBACKS[:1], CALLBACKS[1:], CALLBACKS)
    return tuple(
        EventPlan(
            round(chance.uniform(at, (at + faults_until) / 2), 3),
            f"inv_{number} beside {letter}",
            chance.choice(fired),
        )
        for letter in "ab"[:count]
    )


def _draw_faults(chance, machine_count, faults_until, is_calm, is_skewed):
    kinds = [FaultKind.REDELIVER, FaultKind.ROTATE]
    if not is_calm:
        kinds += [
            FaultKind.KILL,
            FaultKind.KILL,
            FaultKind.DRAIN,
            FaultKind.AWAY,
            FaultKind.CUT_OFF,
        ]
    if is_skewed:
        kinds += [FaultKind.JUMP] * 4
    return [
        Fault(
            round(chance.uniform(0, faults_until), 3),
            chance.choice(kinds),
            chance.randrange(machine_count),
            chance.random(),
        )
        for _ in range(chance.randint(0, 6))
    ]


def _draw_by_hand(seed, kind, machine_count, faults_until):
    """Some worlds have operations by hand, drawn apart: nothing else depends on them."""
    chance = random.Random(f"{_DRAWN_AS[kind]} of {seed}")
    count = chance.choice((0, 0, 0, 0, 1, 2))
    return [
        Fault(
            round(chance.uniform(0, faults_until), 3),
            kind,
            chance.randrange(machine_count),
            chance.random(),
        )
        for _ in range(count)
    ]


_DRAWN_AS = {FaultKind.PAUSE: "pauses", FaultKind.CANCEL: "cancels"}


def _in_order(*faults):
    return tuple(sorted(faults, key=lambda one: one.at))
