"""What a check of a conformance run is, and the forms that many checks have."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.receiver.caller import Call
from service.receiver.judging import Finding, Run, Skipped

OTHER_SECRET = "whsec_YW5vdGhlci1zZWNyZXQtb2YtdGhlLWNoZWNrcy1vbmx5"  # noqa: S105 -- public
"""A secret that no receiver has."""

STORE_FIRST = "Store the event, answer as declared, and work afterwards."

Perform = Callable[[Run], Awaitable[Finding | Skipped | None]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check with its name; *perform* returns None if it passed."""

    name: str
    perform: Perform
    is_first: bool = False
    """Whether no other check makes sense if it fails."""
    is_last: bool = False
    """Whether it judges what the others have seen, and sends nothing."""


# --- Forms that many checks have.


def accepting(
    name: str,
    subject: str,
    mending: str,
    make: Callable[[Run], Sequence[Call]],
) -> Check:
    """A check that sends calls one after the other, all of which have to be accepted."""

    async def perform(run: Run) -> Finding | None:
        for call in make(run):
            if finding := await run.accepts(call, subject, mending):
                return finding
        return None

    return Check(name, perform)


def refusing(name: str, subject: str, mending: str, make: Callable[[Run], Call]) -> Check:
    """A check that sends a call which has to be refused with 4xx."""

    async def perform(run: Run) -> Finding | None:
        return await run.refuses(make(run), subject, mending)

    return Check(name, perform)
