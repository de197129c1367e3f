"""The receivers of one world: in changing moods until the trouble ends, then in their last one."""

from __future__ import annotations

import asyncio
from bisect import bisect
from dataclasses import dataclass
from enum import Enum

from service.delivery.failures import NoAnswer
from service.domain.delivery import Delivery
from service.domain.outcomes import AttemptOutcome
from tests.fakes import OK, answer
from tests.simulation.link import delay
from tests.simulation.plan import Mood

BEYOND_SECONDS = 12
"""How long after its deadline a sender that was held up comes back: later than its lease."""


class Deed(Enum):
    """What a receiver does with one request."""

    OK = "answers ok"
    FAIL = "answers 500"
    REFUSE = "answers 404"
    WRONG = "answers 200 with another body"
    BUSY = "asks to be left alone"
    GONE = "answers 410"
    HANG = "does not answer in time"
    LATE = "answers ok, and the sender is held up beyond its lease"
    DIE = "takes the request and dies with it"
    REJECT = "cannot be reached"


DEEDS = {
    Mood.WELL: (Deed.OK,),
    Mood.FLAKY: (Deed.OK, Deed.OK, Deed.OK, *Deed),
    Mood.FAILING: (Deed.FAIL, Deed.FAIL, Deed.REFUSE),
    Mood.WRONG: (Deed.WRONG, Deed.OK),
    Mood.BUSY: (Deed.BUSY, Deed.BUSY, Deed.OK),
    Mood.HANGING: (Deed.HANG, Deed.HANG, Deed.LATE),
    Mood.UNREACHABLE: (Deed.REJECT, Deed.DIE),
    Mood.GONE: (Deed.GONE, Deed.GONE, Deed.OK),
}
"""What receivers do in a mood, each as likely as the next."""

_LOST = NoAnswer(AttemptOutcome.UNREACHABLE, "the connection was lost")
_LATE = NoAnswer(AttemptOutcome.TIMEOUT, "no answer in time")


@dataclass(slots=True, eq=False)
class Request:
    """One request, as its receiver saw it; *delivery* is as the process leased it."""

    process: object
    delivery: Delivery
    body: bytes
    answer: object = None


class Receivers:
    """Every receiver of a world."""

    def __init__(self, world):
        self._world = world
        self._moods = {
            one.name: ([at for at, _ in one.moods], [Mood.WELL, *(mood for _, mood in one.moods)])
            for one in world.plan.origins
        }
        self._last = {one.name: one.last for one in world.plan.origins}
        self.are_calm = False

    def mood_of(self, origin):
        """What the receiver is like now."""
        if self.are_calm:
            return self._last[origin]
        instants, moods = self._moods[origin]
        return moods[bisect(instants, asyncio.get_running_loop().time())]

    async def answer(self, request):
        """What comes back for *request*, after its time."""
        chance, plan, origin = self._world.chance, self._world.plan, request.delivery.origin
        deed = chance.choice(DEEDS[self.mood_of(origin)])
        self._world.story.add(origin, "{} to {}", deed.value, request.delivery.id)
        timeout_seconds = plan.timeout.total_seconds()
        if deed is Deed.HANG:
            await asyncio.sleep(timeout_seconds)
        elif deed is Deed.LATE:
            await asyncio.sleep(timeout_seconds + BEYOND_SECONDS)
        else:
            slowness = chance.choice((0.01, 0.2, 0.2, timeout_seconds))
            await delay(chance, slowness)
        return self._of(deed, chance)

    def _of(self, deed, chance):
        known = {
            Deed.OK: OK,
            Deed.LATE: OK,
            Deed.FAIL: answer(500),
            Deed.REFUSE: answer(404),
            Deed.WRONG: answer(200, b"<html>hello</html>"),
            Deed.GONE: answer(410),
            Deed.HANG: _LATE,
        }
        if deed is Deed.BUSY:
            return answer(chance.choice((429, 503)), retry_after=str(chance.randint(1, 7)))
        return known.get(deed, _LOST)
