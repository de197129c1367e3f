"""The checks that send the same event again, which every receiver gets one day."""

import asyncio
from dataclasses import replace

from service.receiver.check import STORE_FIRST
from service.receiver.judging import Finding, Run

PARALLEL_COUNT = 5
"""How many times an event is sent at the same moment."""


async def repeated_event(run: Run) -> Finding | None:
    """The same event is accepted again."""
    call = run.requests.event()
    if finding := await run.accepts(call, "A correct event", STORE_FIRST):
        return finding
    finding = await run.accepts(
        call,
        "The same event again",
        "Give a repeated webhook-id the same answer as the first time.",
    )
    return finding and replace(finding, count=2)


async def repeated_at_once(run: Run) -> Finding | None:
    """The same event several times at the same moment is accepted each time."""
    call = run.requests.event()
    replies = await asyncio.gather(*(run.caller.send(call) for _ in range(PARALLEL_COUNT)))
    for reply in replies:
        finding = run.judge(
            call,
            reply,
            f"The same event {PARALLEL_COUNT} times at the same moment",
            "Insert the webhook-id into a unique column first, in the transaction of the work, and"
            " take a conflict for a repetition.",
            is_timed=False,
        )
        if finding:
            return replace(finding, count=PARALLEL_COUNT, is_parallel=True)
    return None


async def repeated_after_cut(run: Run) -> Finding | None:
    """An event whose connection was cut behind the request is accepted when it comes again."""
    call = run.requests.event()
    await run.caller.cut(call)
    finding = await run.accepts(
        call,
        "The same event again, after the connection was cut behind the first request",
        "Commit the work and the webhook-id together, so that one that was not answered is either"
        " done or not begun.",
    )
    return finding and replace(finding, count=2)
