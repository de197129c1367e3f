"""
What a seed draws before anything happens: the world, and the trouble that it is in for.

A plan is a value. Its times are seconds of virtual time. Three kinds of worlds are drawn:

* *calm* ones, where no process ends, no commit is lost, every wake-up arrives and nobody polls:
  whoever waits there for something that nobody announces waits for ever, and is found out.
  Where several processes are, no event follows another there: who settles the first one does not
  always know that a second one waits, which another process then finds by polling;
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
class InvoicePlan:
    """An invoice that is sent in, and what its collector will say about it."""

    id: str
    at: float
    origin: str | None
    event_count: int
    silent_count: int
    """How often the collector asks to be asked again, with nothing to tell."""
    wait: float
    is_sent_twice: bool


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
    poll: timedelta
    drain_seconds: float
    commit_seconds: float
    """How long the way to the memory may take, and the way back."""
    loss_chance: float
    deaf_chance: float
    """How likely a wake-up is lost on its way to another process."""
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
            event_counts=(1,) if is_calm and machine_count > 1 else (1, 1, 2, 3),
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


def _draw_invoices(chance, origins, trouble_until, event_counts):
    """Some invoices come one by one, others as a burst for the same receiver."""
    at, origin, drawn = 0.0, chance.choice(origins), []
    for number in range(chance.randint(2, 9)):
        if chance.random() < 0.6:
            at, origin = chance.uniform(0, trouble_until * 0.7), chance.choice(origins)
        drawn.append(
            InvoicePlan(
                id=f"inv_{number + 1}",
                at=round(at, 3),
                origin=None if chance.random() < 0.05 else origin,
                event_count=chance.choice(event_counts),
                silent_count=chance.choice((0, 0, 1)),
                wait=chance.choice((0.02, 0.5, 2)),
                is_sent_twice=chance.random() < 0.1,
            )
        )
    return tuple(sorted(drawn, key=lambda one: one.at))


def _draw_accidents(chance, machine_count, trouble_until, is_calm, is_skewed):
    kinds = [Trouble.REDELIVER]
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
