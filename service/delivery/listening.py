"""
The listeners that are connected to this process, and the attempts that they work on.

A delivery for a listener is leased only by the process that has its connection: the request goes
down this connection, and the answer comes as a request of its own, perhaps to another process,
which leaves it in the database. An attempt counts from when the request is known to have arrived:
if the link dies before that, the delivery is as due as it was.

Of several connections for one name the newest is the one; the loop finds those that are not, pings
the others, and ends links that are dead.
"""

import asyncio
import logging
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

from service.callbacks.listening import ListenUrls
from service.clock import Clock
from service.delivery.connection import ANSWER_LIMIT
from service.delivery.failures import NoAnswer
from service.delivery.listener_answers import no_answer_within, read_answer
from service.delivery.listener_stream import Stream
from service.delivery.sender import Answer, OutgoingRequest
from service.domain.delivery import (
    Attempt,
    Dead,
    Delivery,
    Retry,
    account_of,
    base_of,
    receiver_of,
)
from service.domain.listening import (
    LISTENER_PING,
    WAITING_MAX,
    AttemptKey,
    StreamEnd,
    is_for_listener,
    listener_origin,
)
from service.errors import (
    ListenerAway,
    ListenersUnavailable,
    StorageUnavailable,
    TooManyRequests,
)
from service.loops import Loop, Round
from service.storage.listeners import GivenAttempt, ListenerRow
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.delivery")

ACCOUNT_STREAMS_MAX = 10
"""Listeners of one account that may be connected to one process."""

LOOK = timedelta(seconds=1)
"""How often the loop looks while a listener is connected."""

LOOK_FOR_ANSWERS = timedelta(milliseconds=250)
"""The same while answers may come to another process, and that cannot notify this one."""

IDLE = timedelta(hours=1)
"""The wait of the loop while no listener is connected: a connection ends it."""

ANSWER_HEADERS_BYTES = 3 * 1024
"""What an answer of a listener takes besides its body."""

ANSWER_BYTES_MAX = ANSWER_LIMIT + 1
"""What is taken of the body of an answer: one byte above the limit shows that it is longer."""

NOT_HERE = (
    "This process does not deliver, and listeners connect to one that does: of the role "
    "all or dispatcher."
)
STOPPING = "This process stops. Connect again at once."
FULL = "As many listeners are connected to this process as may be. Connect again later."


@dataclass(slots=True, eq=False)
class Pending:
    """An attempt that waits for its answer; *signal* ends the wait."""

    stream: Stream
    event_number: int = 0
    content: bytes | None = None
    signal: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, content: bytes) -> None:
        """End the wait: there is an answer."""
        self.content = content
        self.signal.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """How long an attempt takes, and how many listeners may be connected."""

    timeout: timedelta
    streams_max: int


class Listeners(Loop):
    """The connected listeners of a process, whose callback URLs are *urls*."""

    answer_request_bytes: ClassVar = -(-ANSWER_BYTES_MAX // 3) * 4 + ANSWER_HEADERS_BYTES
    """The bytes of the largest request with an answer: in Base64, a body is longer by a third."""

    def __init__(
        self,
        store: Store,
        urls: ListenUrls,
        limits: ListenerLimits,
        new_token: Callable[[], str],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        super().__init__(clock, signal=store.listening.changed)
        self._store = store.listening
        self._deliveries_due = store.deliveries_due
        self.urls = urls
        self._timeout = limits.timeout
        self._new_token = new_token
        self._metrics = metrics
        self._streams_max = limits.streams_max
        self._streams: dict[tuple[str, str], Stream] = {}
        self._pending: dict[AttemptKey, Pending] = {}
        self._connecting = asyncio.Lock()
        self._is_closed = False
        self._beat_at = timedelta(0)

    # What the dispatcher asks

    def permits(self, receiver: str, origin: str) -> bool:
        """Whether deliveries for *receiver* may be leased here: a listener has to be connected."""
        return not is_for_listener(origin) or (account_of(receiver), origin) in self._streams

    async def send(self, delivery: Delivery, request: OutgoingRequest) -> Answer | NoAnswer:
        """
        Have the listener of *delivery* send *request* once; ends within the deadline.

        Raises:
            ListenerAway: if the request is not known to have reached the listener.
            StorageUnavailable: if it could not be stored that the listener works on it.
        """
        stream = self._streams.get((delivery.account_id, delivery.origin))
        if stream is None:
            raise ListenerAway
        number, deadline_at = delivery.attempt_count + 1, self.clock.now() + self._timeout
        key = AttemptKey(
            account_id=delivery.account_id,
            origin=delivery.origin,
            delivery_id=delivery.id,
            number=number,
        )
        await self._store.give(GivenAttempt(key=key, deadline_at=deadline_at))
        pending = self._pending[key] = Pending(stream)
        try:
            if stream.end is None:
                event = {
                    "id": delivery.id,
                    "attempt": number,
                    "deadline_at": deadline_at,
                    "method": request.method,
                    "path": delivery.url.removeprefix(base_of(delivery.receiver)),
                    "headers": dict(request.headers),
                    "body_base64": b64encode(request.body).decode(),
                }
                pending.event_number = stream.put("delivery", event)
                if not self._store.has_notifications:
                    self.signal.wake()
                await self.clock.wait(pending.signal, deadline_at)
        finally:
            del self._pending[key]
        return await self._finish(key, pending)

    def tell(self, attempt: Attempt) -> None:
        """Tell the listener that *attempt* is recorded, and what follows from it."""
        delivery, decision = attempt.delivery, attempt.decision
        stream = self._streams.get((delivery.account_id, delivery.origin))
        if stream is not None:
            due_at = attempt.ended_at + decision.delay if isinstance(decision, Retry) else None
            event = {
                "id": delivery.id,
                "attempt": attempt.number,
                "outcome": attempt.outcome.value,
                "detail": attempt.detail,
                "status": decision.status.value,
                "reason": decision.reason.value if isinstance(decision, Dead) else None,
                "due_at": due_at,
            }
            stream.put("settled", event)

    async def _finish(self, key: AttemptKey, pending: Pending) -> Answer | NoAnswer:
        """What became of an attempt that has ended; no process takes its answer after this."""
        try:
            stored = await self._store.finish(key)
        except StorageUnavailable:
            if pending.content is None:
                raise
            stored = None
        content = pending.content or stored
        if content is not None:
            return read_answer(content)
        if pending.event_number and pending.stream.has_received(pending.event_number):
            return no_answer_within(self._timeout.total_seconds())
        # What was sent a whole deadline ago and has not arrived shows that the link is dead.
        self._end(pending.stream, StreamEnd.SILENT)
        raise ListenerAway

    # What listeners ask

    async def connect(
        self, account_id: str, name: str, *, acknowledges: bool, replaces: str = ""
    ) -> Stream:
        """
        Connect a listener; an older connection for *name* is displaced.

        *replaces* is the token of a connection that the listener itself has lost.

        Raises:
            ListenersUnavailable: if this process takes no listener now.
            TooManyRequests: if the account has too many listeners.
        """
        origin = listener_origin(name)
        async with self._connecting:
            self._check_place(account_id, origin)
            stream = Stream(
                account_id, origin, self._new_token(), acknowledges, self.clock.elapsed()
            )
            receiver = receiver_of(account_id, self.urls.url_of(name))
            has_displaced = await self._store.connect(stream.row, self.clock.now(), replaces)
            waiting_count = await self._store.count_waiting(receiver, WAITING_MAX)
            self._check_place(account_id, origin)
            if before := self._streams.get((account_id, origin)):
                self._end(before, StreamEnd.DISPLACED)
            self._streams[account_id, origin] = stream
        stream.put(
            "connected",
            {
                "stream": stream.token,
                "callback_url": self.urls.url_of(name),
                "waiting_count": waiting_count,
                "has_displaced": has_displaced,
                "answer_bytes_max": ANSWER_BYTES_MAX,
                "now": self.clock.now(),
            },
        )
        self._metrics.listeners_connected(len(self._streams))
        fields = {"account_id": account_id, "origin": origin, "waiting_count": waiting_count}
        log.info("listener.connected", extra={"fields": fields})
        self._deliveries_due.set_for([receiver])
        self.signal.wake()
        return stream

    async def disconnect(self, stream: Stream, end: StreamEnd = StreamEnd.GONE) -> None:
        """End the connection of a listener; its deliveries wait for another one."""
        self._end(stream, end)
        await self._store.disconnect(stream.account_id, stream.origin, stream.token)

    async def note_seen(self, account_id: str, name: str, token: str, count: int) -> bool:
        """The first *count* events have arrived; False if the connection has ended."""
        origin = listener_origin(name)
        stream = self._streams.get((account_id, origin))
        if stream is not None and stream.token == token:
            stream.note_seen(count, self.clock.elapsed())
            return True
        if stream is not None:
            return False
        row = ListenerRow(account_id=account_id, origin=origin, token=token, seen_count=count)
        return await self._store.note_seen(row)

    async def answer(self, key: AttemptKey, content: bytes) -> bool:
        """Take the answer of an attempt; False if it has ended, or is answered already."""
        # Always by the database: of answers that reach several processes, one counts.
        is_taken = await self._store.answer(key, content, self.clock.now())
        if is_taken and (pending := self._pending.get(key)):
            pending.answer(content)
        return is_taken

    def close(self) -> None:
        """End all connections; what their listeners have not answered yet is due again."""
        self._is_closed = True
        for stream in list(self._streams.values()):
            self._end(stream, StreamEnd.STOPPING)
        for pending in self._pending.values():
            pending.event_number = 0
            pending.signal.set()

    # The loop

    def drain(self) -> None:
        """End all connections, and begin nothing more."""
        self.close()
        super().drain()

    async def run_round(self) -> Round:
        """Ping the listeners, end those that are gone, and read what other processes took."""
        if not self._streams and not self._pending:
            return Round(0, IDLE)
        now, instant = self.clock.elapsed(), self.clock.now()
        for stream in list(self._streams.values()):
            if stream.is_silent(now):
                self._end(stream, StreamEnd.SILENT)
            else:
                stream.ping_if_due(now, {"now": instant})
        try:
            await self._exchange()
        except StorageUnavailable as error:
            # The pings go on.
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        has_to_look = self._pending and not self._store.has_notifications
        return Round(0, LOOK_FOR_ANSWERS if has_to_look else LOOK)

    async def _exchange(self) -> None:
        """Say that the connections work, and learn what other processes know of them."""
        now = self.clock.elapsed()
        rows = [stream.row for stream in self._streams.values()]
        if rows and now >= self._beat_at:
            await self._store.beat(rows, self.clock.now())
            self._beat_at = now + LISTENER_PING
        known = {(one.account_id, one.origin): one for one in await self._store.look(rows)}
        for key, stream in list(self._streams.items()):
            found = known.get(key)
            if found and found.token == stream.token:
                stream.note_seen(found.seen_count, now)
            elif stream.row in rows:
                self._end(stream, StreamEnd.DISPLACED)
        for attempt, content in (await self._store.answers_of(list(self._pending))).items():
            if pending := self._pending.get(attempt):
                pending.answer(content)

    def _check_place(self, account_id: str, origin: str) -> None:
        if self._is_closed:
            raise ListenersUnavailable(STOPPING)
        if not self.is_running:
            raise ListenersUnavailable(NOT_HERE)
        if (account_id, origin) in self._streams:
            return
        if len(self._streams) >= self._streams_max:
            raise ListenersUnavailable(FULL)
        own_count = sum(1 for owner, _ in self._streams if owner == account_id)
        if own_count >= ACCOUNT_STREAMS_MAX:
            raise TooManyRequests(
                LISTENER_PING.total_seconds(),
                f"Your account has {ACCOUNT_STREAMS_MAX} listeners connected, as many as may be. "
                "Stop one of them.",
            )

    def _end(self, stream: Stream, end: StreamEnd) -> None:
        """End a connection, and release the requests that are not known to have arrived."""
        if stream.end is not None:
            return
        del self._streams[stream.account_id, stream.origin]
        stream.close(end)
        for pending in self._pending.values():
            if pending.stream is stream and not stream.has_received(pending.event_number):
                pending.signal.set()
        self._metrics.listeners_connected(len(self._streams))
        fields = {"account_id": stream.account_id, "origin": stream.origin, "reason": end.value}
        log.info("listener.ended", extra={"fields": fields})
