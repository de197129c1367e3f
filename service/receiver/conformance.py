"""
Runs the checks against one receiver, one after the other, in bounded time.

A check that every other one depends on ends the run if it fails; what is left is skipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic

from service.receiver.check import Check
from service.receiver.checks import CHECKS
from service.receiver.judging import Finding, Run, Skipped

RUN_SECONDS = 45
"""How long a run lasts at most, but for the last answer; a sound receiver takes a second."""


class Status(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one check came to; *cause* is also the reason why it was skipped."""

    name: str
    status: Status
    duration_ms: int
    cause: str | None = None
    finding: Finding | None = None


async def run_checks(
    run: Run,
    show: Callable[[Result], None],
    begin: Callable[[str], None],
    checks: Sequence[Check] = CHECKS,
) -> list[Result]:
    """
    Perform *checks* in their order, and return their results.

    *begin* is called with the name of each check before it is performed, and *show* with its
    result. The checks that judge what the others have seen are always performed.
    """
    deadline = monotonic() + RUN_SECONDS
    results: list[Result] = []
    stopped = ""
    for check in checks:
        if not stopped and monotonic() > deadline:
            stopped = f"the run has taken more than {RUN_SECONDS} s"
        begin(check.name)
        if stopped and not check.is_last:
            result = Result(name=check.name, status=Status.SKIPPED, duration_ms=0, cause=stopped)
        else:
            result = await _performed(check, run)
        show(result)
        results.append(result)
        if check.is_first and result.status is Status.FAILED:
            stopped = f"{check.name} failed"
    return results


async def _performed(check: Check, run: Run) -> Result:
    started = monotonic()
    found = await check.perform(run)
    duration_ms = round((monotonic() - started) * 1000)
    match found:
        case Finding():
            return Result(
                name=check.name,
                status=Status.FAILED,
                duration_ms=duration_ms,
                cause=found.cause,
                finding=found,
            )
        case Skipped(reason):
            return Result(
                name=check.name, status=Status.SKIPPED, duration_ms=duration_ms, cause=reason
            )
    return Result(name=check.name, status=Status.PASSED, duration_ms=duration_ms)


def conforms(results: Sequence[Result]) -> bool:
    """Whether no check failed."""
    return all(one.status is not Status.FAILED for one in results)
