"""
What a seed draws before anything happens: the world, and the trouble that it is in for.

A plan is a value. Its times are seconds of virtual time. Three kinds of worlds are drawn:

* *calm* ones, where no process ends, no commit is lost, every notification arrives and no loop
  polls: a loop that waits there for something that is not signalled waits for ever, and is found.
  With several processes, no callback of an invoice has a second event there: a process that
  settles the first one does not always know of the second, which is then found by polling;
* worlds in trouble whose clocks agree, where everything is promised;
* worlds in trouble whose clocks differ and jump, where leases may overlap (see `invariants`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from service.loops import POLL

CLOCK_LIMIT = timedelta(seconds=10)
"""How wrong a clock may be; what is leased or due comes later by twice that, and no more."""

ACCOUNT_COUNT = 2

CALLBACKS = ("invoice_notification", "invoice_copy")
"""The callbacks of the service, and one more: the collection fires the first one alone."""


class Mood(Enum):
    """What a receiver is like for a while."""

    WELL = "well"
    FLAKY = "flaky"
    FAILING = "failing"
    WRONG = "answering with wrong bodies"
    BUSY = "asking to be left alone"
    HANGING = "hanging"
    UNREACHABLE = "unreachable"
    GONE = "gone"


class Trouble(Enum):
    """What may happen to a world; `world` says how."""

    KILL = "kill"
    DRAIN = "drain"
    JUMP = "jump"
    AWAY = "away"
    CUT_OFF = "cut off"
    REDELIVER = "redeliver"
    ROTATE = "rotate a secret"


@dataclass(frozen=True, slots=True)
class Accident:
    """One trouble, at an instant; *size* is from 0 to 1."""

    at: float
    trouble: Trouble
    machine: int
    size: float


@dataclass(frozen=True, slots=True)
class OriginPlan:
    """A receiver: its moods, each until an instant, and the one that it ends in."""

    name: str
    moods: tuple[tuple[float, Mood], ...]
    last: Mood


@dataclass(frozen=True, slots=True)
class EventPlan:
    """An event that is recorded beside the collection, at an instant; it fires *callbacks*."""

    at: float
    description: str
    callbacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InvoicePlan:
    """An invoice that is sent in, and what its collector will say about it."""

    number: int
    at: float
    account: int
    """The number of its account among those of the world."""
    origins: tuple[str, ...]
    """The receiver of each of `CALLBACKS` that it asks for; empty if it asks for none."""
    event_count: int
    """How many events its collection has."""
    silent_count: int
    """How often the collector wants to be asked again, and has no event."""
    wait: float
    is_sent_twice: bool
    events: tuple[EventPlan, ...]
    """What is recorded beside its collection."""

    @property
    def id(self):
        """The id that its account gave it."""
        return f"inv_{self.number}"

    def asked_for(self, callbacks):
        """Those of *callbacks* that it asks for."""
        return [one for one in CALLBACKS[: len(self.origins)] if one in callbacks]

    @property
    def traceparent(self):
        """The trace that its request belongs to, by which its attempts are recognised."""
        return f"00-{self.number:032x}-{self.number:016x}-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is known of a world before it begins."""

    seed: int
    is_calm: bool
    is_skewed: bool
    has_one_writer: bool
    offsets: tuple[timedelta, ...]
    """By how much the clock of each machine is wrong at first; there is one for each."""
    concurrency: int
    origin_concurrency: int
    timeout: timedelta
    schedule: tuple[timedelta, ...]
    is_strict: bool
    retention: timedelta
    poll: timedelta
    drain_seconds: float
    commit_seconds: float
    """How long the way to the memory may take, and the way back."""
    loss_chance: float
    deaf_chance: float
    """How likely a notification is lost on its way to another process."""
    doom_chance: float
    """How likely a process is killed in the middle of something that it does."""
    slow_chance: float
    """How likely a collector takes about as long as a lease."""
    origins: tuple[OriginPlan, ...]
    invoices: tuple[InvoicePlan, ...]
    accidents: tuple[Accident, ...]
    trouble_until: float


def draw(seed):
    """The plan of *seed*: always the same one."""
    chance = random.Random(seed)
    is_calm = chance.random() < 0.25
    is_skewed = not is_calm and chance.random() < 0.35
    machine_count = chance.choice((1, 2, 2, 3))
    trouble_until = chance.uniform(6, 22)
    origins = _draw_origins(chance, trouble_until)
    return Plan(
        seed=seed,
        is_calm=is_calm,
        is_skewed=is_skewed,
        has_one_writer=chance.random() < 0.5,
        offsets=tuple(_draw_offset(chance, is_skewed) for _ in range(machine_count)),
        concurrency=chance.randint(1, 4),
        origin_concurrency=chance.randint(1, 3),
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
        deaf_chance=0 if is_calm else chance.choice((0, 0.3, 1)),
        doom_chance=0 if is_calm else chance.choice((0, 0.3, 0.7)),
        slow_chance=0 if is_calm else chance.choice((0, 0, 0.2)),
        origins=origins,
        invoices=_draw_invoices(
            chance,
            [one.name for one in origins],
            trouble_until,
            has_followers=not is_calm or machine_count == 1,
        ),
        accidents=_draw_accidents(chance, machine_count, trouble_until, is_calm, is_skewed),
        trouble_until=trouble_until,
    )


def _draw_offset(chance, is_skewed):
    return timedelta(seconds=chance.uniform(-3, 3)) if is_skewed else timedelta(0)


def _draw_origins(chance, trouble_until):
    return tuple(
        OriginPlan(
            f"https://{name}.example:443",
            tuple(
                (at, chance.choice(tuple(Mood)))
                for at in sorted(
                    chance.uniform(0, trouble_until) for _ in range(chance.randint(0, 3))
                )
            ),
            chance.choice((Mood.WELL,) * 6 + (Mood.FAILING, Mood.UNREACHABLE, Mood.GONE)),
        )
        for name in ("one", "two", "three", "four")[: chance.randint(1, 4)]
    )


def _draw_retention(chance, is_calm):
    """Mostly longer than a run; else so short that a run sees deliveries removed."""
    if is_calm or chance.random() < 0.8:
        return timedelta(days=30)
    return timedelta(seconds=chance.choice((4, 12)))


def _draw_invoices(chance, origins, trouble_until, has_followers):
    """Some invoices come one by one, others as a burst for the same receiver."""
    at, origin, drawn = 0.0, chance.choice(origins), []
    for number in range(1, chance.randint(2, 9) + 1):
        if chance.random() < 0.6:
            at, origin = chance.uniform(0, trouble_until * 0.7), chance.choice(origins)
        called = () if chance.random() < 0.05 else (origin,)
        if called and chance.random() < 0.3:
            called = (origin, chance.choice(origins))
        drawn.append(
            InvoicePlan(
                number=number,
                at=round(at, 3),
                account=chance.randrange(ACCOUNT_COUNT),
                origins=called,
                event_count=chance.choice((1, 1, 2, 3)) if has_followers else 1,
                silent_count=chance.choice((0, 0, 1)),
                wait=chance.choice((0.02, 0.5, 2)),
                is_sent_twice=chance.random() < 0.1,
                events=_draw_events(chance, number, at, trouble_until, has_followers),
            )
        )
    return tuple(sorted(drawn, key=lambda one: one.at))


def _draw_events(chance, number, at, trouble_until, has_followers):
    """Events beside the collection of invoice *number*; most invoices have none."""
    count = chance.choice((0, 0, 0, 1, 2 if has_followers else 1))
    fired = ((), CALLBACKS[:1], CALLBACKS[1:], CALLBACKS) if has_followers else (CALLBACKS[1:],)
    return tuple(
        EventPlan(
            round(chance.uniform(at, (at + trouble_until) / 2), 3),
            f"inv_{number} beside {letter}",
            chance.choice(fired),
        )
        for letter in "ab"[:count]
    )


def _draw_accidents(chance, machine_count, trouble_until, is_calm, is_skewed):
    kinds = [Trouble.REDELIVER, Trouble.ROTATE]
    if not is_calm:
        kinds += [Trouble.KILL, Trouble.KILL, Trouble.DRAIN, Trouble.AWAY, Trouble.CUT_OFF]
    if is_skewed:
        kinds += [Trouble.JUMP] * 4
    drawn = [
        Accident(
            round(chance.uniform(0, trouble_until), 3),
            chance.choice(kinds),
            chance.randrange(machine_count),
            chance.random(),
        )
        for _ in range(chance.randint(0, 6))
    ]
    return tuple(sorted(drawn, key=lambda one: one.at))
