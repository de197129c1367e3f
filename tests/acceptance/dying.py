"""
The service, killed by SIGKILL at a step: `python -m tests.acceptance.dying STEP serve`.

A signal from another process comes at an unknown moment. This program wraps the one or two
functions of the service with which the named step begins, so that the process kills itself when it
first reaches it, and then runs the ordinary command line. The service itself has no code for this.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from service.__main__ import main
from service.collection.smtp import Smtp
from service.database import group_commit
from service.database.engine import Database
from service.delivery.sender import Sender
from service.storage import accepting, attempts, deliveries, invoices, mails, schema, steps


@dataclass(frozen=True, slots=True)
class Step:
    """A step before or after the function *name* of *owner*; *is_it* decides by the arguments."""

    owner: object
    name: str
    is_after: bool
    is_it: Callable[..., bool]


def written(work):
    """
    A transaction with *work* is written; its COMMIT is next.

    Where one statement does it, which PostgreSQL commits at once, that statement is next.
    """

    def is_in(_tx, batch):
        return work in batch

    def is_done_by(_database, statement):
        results = getattr(statement.results, "func", statement.results)
        return results.__module__ == work.__module__

    return (
        Step(group_commit, "run_batch", is_after=True, is_it=is_in),
        Step(Database, "write_at_once", is_after=False, is_it=is_done_by),
    )


def committed(work, wanted=lambda _: True):
    """A transaction with a *wanted* result of *work* is committed; no caller has its result yet."""

    def is_it(waiting, results):
        answers = dict(zip(waiting, results, strict=True))
        return any(map(wanted, answers.get(work, ())))

    return (Step(group_commit, "_resolve", is_after=False, is_it=is_it),)


def always(*_arguments):
    """The first call is the step."""
    return True


STEPS = {
    "schema-written": (Step(schema, "_upgrade", is_after=True, is_it=always),),
    "begun-written": written(accepting.accept),
    "begun-committed": committed(accepting.accept),
    "acceptance-written": written(invoices.accept),
    "acceptance-committed": committed(invoices.accept),
    "invoice-leased": committed(steps.lease_due, lambda due: due.invoices),
    "step-written": written(steps.take_steps),
    "step-committed": committed(steps.take_steps),
    "delivery-leased": committed(deliveries.lease_due, lambda due: due.deliveries),
    "request-ready": (Step(Sender, "send", is_after=False, is_it=always),),
    "answer-received": (Step(Sender, "send", is_after=True, is_it=always),),
    "settlement-written": written(attempts.settle),
    "settlement-committed": committed(attempts.settle),
    "mail-leased": committed(mails.lease_due, lambda due: due.mails),
    "mail-ready": (Step(Smtp, "send", is_after=False, is_it=always),),
    "mail-answered": (Step(Smtp, "send", is_after=True, is_it=always),),
    "report-written": written(steps.report),
    "report-committed": committed(steps.report),
}
"""The steps at which a process can be killed, in the order of the work."""


def wrap(step):
    """Kill this process at *step*."""
    function = getattr(step.owner, step.name)

    def end_if_it(is_after, arguments):
        if is_after == step.is_after and step.is_it(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def call(*arguments):
        end_if_it(False, arguments)
        result = function(*arguments)
        end_if_it(True, arguments)
        return result

    @functools.wraps(function)
    async def call_and_wait(*arguments):
        end_if_it(False, arguments)
        result = await function(*arguments)
        end_if_it(True, arguments)
        return result

    is_waiting = inspect.iscoroutinefunction(function)
    setattr(step.owner, step.name, call_and_wait if is_waiting else call)


if __name__ == "__main__":
    for one in STEPS[sys.argv.pop(1)]:
        wrap(one)
    main()
