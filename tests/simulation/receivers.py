"""The receivers of one world: their behaviour changes during the faults and is fixed afterwards."""

from __future__ import annotations

import asyncio
from bisect import bisect
from dataclasses import dataclass
from enum import Enum

from service.delivery.failures import NoAnswer
from service.domain.delivery import Delivery, base_of
from service.domain.outcomes import AttemptOutcome
from tests.fakes import OK, answer
from tests.simulation.link import delay
from tests.simulation.plan import Behaviour

BEYOND_SECONDS = 12
"""How long after its deadline a delayed sender continues: later than its lease."""


class Reaction(Enum):
    """The reaction of a receiver to one request."""

    OK = "answers ok"
    FAIL = "answers 500"
    REFUSE = "answers 404"
    WRONG = "answers 200 with another body"
    BUSY = "asks for a hold"
    GONE = "answers 410"
    HANG = "does not answer in time"
    LATE = "answers ok, and the sender is delayed beyond its lease"
    DIE = "takes the request and crashes"
    DROP = "closes the connection"


REACTIONS = {
    Behaviour.WELL: (Reaction.OK,),
    Behaviour.FLAKY: (Reaction.OK, Reaction.OK, Reaction.OK, *Reaction),
    Behaviour.FAILING: (Reaction.FAIL, Reaction.FAIL, Reaction.REFUSE),
    Behaviour.WRONG: (Reaction.WRONG, Reaction.OK),
    Behaviour.BUSY: (Reaction.BUSY, Reaction.BUSY, Reaction.OK),
    Behaviour.HANGING: (Reaction.HANG, Reaction.HANG, Reaction.LATE),
    Behaviour.LOSING: (Reaction.DROP, Reaction.DIE),
    Behaviour.GONE: (Reaction.GONE, Reaction.GONE, Reaction.OK),
}
"""The possible reactions for each behaviour, all equally likely."""

_LOST = NoAnswer(AttemptOutcome.UNREACHABLE, "the connection was lost")
_NOT_CONNECTED = NoAnswer(AttemptOutcome.UNREACHABLE, "no connection", is_connected=False)
_LATE = NoAnswer(AttemptOutcome.TIMEOUT, "no answer in time")


@dataclass(slots=True, eq=False)
class Request:
    """One request, as its receiver got it; *delivery* is as the process leased it."""

    process: object
    delivery: Delivery
    body: bytes
    answer: object = None


class Receivers:
    """Every receiver of a world."""

    def __init__(self, world):
        self._world = world
        self._behaviours = {
            one.base: (
                [at for at, _ in one.behaviours],
                [Behaviour.WELL, *(behaviour for _, behaviour in one.behaviours)],
            )
            for one in world.plan.receivers
        }
        self._last = {one.base: one.last for one in world.plan.receivers}
        self.faults_are_over = False

    def behaviour_of(self, base):
        """The present behaviour of the receiver."""
        if self.faults_are_over:
            return self._last[base]
        instants, behaviours = self._behaviours[base]
        return behaviours[bisect(instants, asyncio.get_running_loop().time())]

    def is_away(self, origin):
        """Whether no connection to *origin* can be made now."""
        now = asyncio.get_running_loop().time()
        return not self.faults_are_over and any(
            one.origin == origin and one.since <= now < one.until
            for one in self._world.plan.outages
        )

    async def answer(self, request):
        """The answer to *request*, after a delay."""
        chance, plan, delivery = self._world.chance, self._world.plan, request.delivery
        if self.is_away(delivery.origin):
            self._world.log.add(delivery.origin, "cannot be reached by {}", delivery.id)
            await delay(chance, 0.2)
            return _NOT_CONNECTED
        reaction = chance.choice(REACTIONS[self.behaviour_of(base_of(delivery.receiver))])
        self._world.log.add(delivery.receiver, "{} to {}", reaction.value, delivery.id)
        timeout_seconds = plan.timeout.total_seconds()
        if reaction is Reaction.HANG:
            await asyncio.sleep(timeout_seconds)
        elif reaction is Reaction.LATE:
            await asyncio.sleep(timeout_seconds + BEYOND_SECONDS)
        else:
            # A slow receiver delays its own account, and would hide what another one does.
            slowness = 0.01 if plan.reads else chance.choice((0.01, 0.2, 0.2, timeout_seconds))
            await delay(chance, slowness)
        return self._of(reaction, chance)

    def _of(self, reaction, chance):
        known = {
            Reaction.OK: OK,
            Reaction.LATE: OK,
            Reaction.FAIL: answer(500),
            Reaction.REFUSE: answer(404),
            Reaction.WRONG: answer(200, b"<html>hello</html>"),
            Reaction.GONE: answer(410),
            Reaction.HANG: _LATE,
        }
        if reaction is Reaction.BUSY:
            return answer(chance.choice((429, 503)), retry_after=str(chance.randint(1, 7)))
        return known.get(reaction, _LOST)
