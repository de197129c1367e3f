"""One conformance run: what it sends with, what came back, and what is wrong with an answer."""

from dataclasses import dataclass, field
from http import HTTPStatus

from service.callbacks.answers import Meaning
from service.callbacks.declaration import Callback
from service.receiver.caller import Call, Caller, Missing, NoReply, Reply
from service.receiver.requests import Requests

CATCH_THE_ERROR = "Catch the error, and answer 401 or 400: the request is wrong, not your API."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with a receiver: *cause* and *mending* are one sentence each."""

    cause: str
    mending: str
    call: Call
    count: int = 1
    """How many times *call* has to be sent, to show it."""
    is_parallel: bool = False
    """Whether it has to be sent at the same moment."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why a check does not apply."""

    reason: str


@dataclass(slots=True)
class Run:
    """How to call the receiver, and the calls that it has accepted or left without an answer."""

    callback: Callback
    requests: Requests
    caller: Caller
    accepted: list[tuple[Call, Reply]] = field(default_factory=list)
    late: list[Call] = field(default_factory=list)
    """Good events that were not answered in time, before any was."""
    _first: tuple[Call, Reply | NoReply] | None = None

    async def first(self) -> tuple[Call, Reply | NoReply]:
        """The first good event and what came back; it is sent once in a run."""
        if self._first is None:
            call = self.requests.event()
            self._first = call, await self.caller.send(call)
        return self._first

    async def accepts(self, call: Call, subject: str, mending: str) -> Finding | None:
        """Send *call*, which has to be accepted; the cause of a finding begins with *subject*."""
        return self.judge(call, await self.caller.send(call), subject, mending)

    def judge(
        self,
        call: Call,
        reply: Reply | NoReply,
        subject: str,
        mending: str,
        *,
        is_timed: bool = True,
    ) -> Finding | None:
        """
        Return a finding if *reply* does not accept *call*.

        A good answer is kept for the checks that judge all of them, if it *is_timed*. So is one
        whose body is wrong, if that of the first answer was wrong too: those checks will say so.
        """
        wrong = self._wrong(reply)
        if isinstance(reply, Reply) and wrong is None:
            if is_timed:
                self.accepted.append((call, reply))
            return None
        if isinstance(reply, NoReply) and reply.missing is Missing.TIME and not self.accepted:
            self.late.append(call)
        return Finding(cause=f"{subject}: {wrong}.", mending=mending, call=call)

    def _wrong(self, reply: Reply | NoReply) -> str | None:
        """What is wrong with *reply* to a good event, as the end of a sentence."""
        if isinstance(reply, NoReply) or not self.is_accepted(reply):
            return answered(reply)
        mismatch = self.mismatch(reply)
        first = self._first and self._first[1]
        if mismatch is None or (isinstance(first, Reply) and self.mismatch(first)):
            return None
        return f"{answered(reply)}, and {mismatch}"

    async def refuses(self, call: Call, subject: str, mending: str) -> Finding | None:
        """Send *call*, which has to be refused with 4xx; *mending* is for one that is accepted."""
        reply = await self.caller.send(call)
        if isinstance(reply, Reply) and reply.status_code // 100 == 4:
            return None
        is_accepted = isinstance(reply, Reply) and self.is_accepted(reply)
        return Finding(
            cause=f"{subject}: {answered(reply)}.",
            mending=mending if is_accepted else CATCH_THE_ERROR,
            call=call,
        )

    def is_accepted(self, reply: Reply) -> bool:
        """Whether the status of *reply* acknowledges."""
        return (
            200 <= reply.status_code <= 599
            and self.callback.rule_for(reply.status_code).meaning is Meaning.DELIVERED
        )

    def mismatch(self, reply: Reply) -> str | None:
        """How the body of *reply*, whose status acknowledges, differs from what is declared."""
        return self.callback.classify(
            reply.status_code,
            reply.body,
            is_truncated=reply.is_truncated,
            is_strict=True,
            content_encoding=reply.content_encoding,
        ).detail


def answered(reply: Reply | NoReply) -> str:
    """What came back, as the end of a sentence."""
    if isinstance(reply, NoReply):
        return reply.detail
    try:
        phrase = f" {HTTPStatus(reply.status_code).phrase}"
    except ValueError:
        phrase = ""
    redirect = ", and redirects are not followed" if reply.status_code // 100 == 3 else ""
    return f"the receiver answered {reply.status_code}{phrase}{redirect}"
