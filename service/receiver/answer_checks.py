"""The checks that send nothing: they judge the answers to all events that were accepted."""

from math import ceil

from service.receiver.judging import Finding, Run, Skipped

TARGET_SECONDS = 1.0
"""How long 95 of 100 answers may take: a receiver that works first is late under load."""


async def answer_content_type(run: Run) -> Finding | Skipped | None:
    """The answers are declared as JSON."""
    for call, reply in run.accepted:
        media_type = (reply.content_type or "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            declared = f"as {reply.content_type!r}" if reply.content_type else "without a type"
            return Finding(
                cause=f"A good event: the answer is sent {declared}.",
                mending="Answer with Content-Type: application/json.",
                call=call,
            )
    return _judged(run)


async def answer_body(run: Run) -> Finding | Skipped | None:
    """The answers are what the callback declares."""
    for call, reply in run.accepted:
        if not reply.is_truncated and (mismatch := run.mismatch(reply)):
            return Finding(
                cause=f"A good event, answered {reply.status_code}: {mismatch}.",
                mending="Answer with the declared body, in UTF-8 and not compressed.",
                call=call,
            )
    return _judged(run)


async def answer_size(run: Run) -> Finding | Skipped | None:
    """The answers are short enough to be read."""
    for call, reply in run.accepted:
        if reply.is_truncated:
            return Finding(
                cause=f"A good event: the answer is longer than {len(reply.body) // 1024} KiB.",
                mending="Answer with the declared body alone.",
                call=call,
            )
    return _judged(run)


async def answer_time(run: Run) -> Finding | Skipped | None:
    """Nearly all answers come soon."""
    mending = "Store the event, answer, and work afterwards."
    if run.late:
        cause = f"{len(run.late)} good events were not answered before the deadline."
        return Finding(cause=cause, mending=mending, call=run.late[0])
    ordered = sorted(run.accepted, key=lambda one: one[1].duration_seconds)
    if not ordered:
        return _judged(run)
    call, reply = ordered[ceil(0.95 * len(ordered)) - 1]
    if reply.duration_seconds <= TARGET_SECONDS:
        return None
    return Finding(
        cause=f"95 % of the answers to good events took up to {reply.duration_seconds:.1f} s, more"
        f" than {TARGET_SECONDS:g} s.",
        mending=mending,
        call=call,
    )


def _judged(run: Run) -> Skipped | None:
    return None if run.accepted else Skipped("no good event was accepted")
