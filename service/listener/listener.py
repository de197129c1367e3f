"""
A listener: takes deliveries from the service, forwards them, and sends the answers back.

It connects again whenever the link is lost, until it is stopped, refused or displaced. Events that
arrived while this program did not run are not forwarded: the service sends them again.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from time import monotonic
from typing import Any

from service.listener.connection import LinkLost, Refused, ServiceConnection
from service.listener.events import ServerEvent
from service.listener.forwarding import Forwarder, LocalAnswer, LocalRequest
from service.listener.notices import (
    Connected,
    Disconnected,
    Displaced,
    Forwarded,
    Report,
    Told,
)

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""The waits between tries to connect; the last one repeats."""

SETTLED_SECONDS = 3.0
"""How long the word of the service about an answer is waited for."""

FINISH_SECONDS = 5.0
"""How long a stop waits for what is being forwarded."""

ANSWER_TRIES = 3
"""How often an answer is sent if the link fails meanwhile."""

ANSWER_BYTES = 32 * 1024
"""How long a body may be that is passed on, if the service does not say so."""


@dataclass(slots=True, eq=False)
class Link:
    """One connection: what has arrived over it, and the clock of the service."""

    stream: str = ""
    seen_count: int = 0
    has_seen: asyncio.Event = field(default_factory=asyncio.Event)
    answer_bytes_max: int = ANSWER_BYTES
    is_displaced: bool = False
    _lead_seconds: float = 0.0
    """What the clock of the service has more than the one of this machine that never jumps."""

    def note(self, event: ServerEvent) -> None:
        """*event* has arrived."""
        if now := event.data.get("now"):
            self._lead_seconds = datetime.fromisoformat(now).timestamp() - monotonic()
        if event.name == "connected":
            self.stream = str(event.data["stream"])
            self.answer_bytes_max = int(event.data.get("answer_bytes_max", ANSWER_BYTES))
        self.seen_count = event.number
        self.has_seen.set()

    def seconds_until(self, instant: str) -> float:
        """How many seconds an *instant* of the service is ahead."""
        return datetime.fromisoformat(instant).timestamp() - self._lead_seconds - monotonic()


class Listener:
    """
    Forwards what *service* sends to *forwarder*, and reports what happens.

    With *is_once*, it stops after one delivery.
    """

    def __init__(
        self,
        service: ServiceConnection,
        forwarder: Forwarder,
        report: Report,
        *,
        name: str,
        forward_to: str,
        is_once: bool = False,
    ) -> None:
        self._service = service
        self._forwarder = forwarder
        self._report = report
        self._name = name
        self._forward_to = forward_to
        self._is_once = is_once
        self._wishes_changed = asyncio.Event()
        self._is_stopped = False
        self._is_paused = False
        self._is_taken = False
        self._tasks = set[asyncio.Task[None]]()
        self._settled: dict[tuple[str, int], asyncio.Future[Mapping[str, Any]]] = {}
        self._last_id: str | None = None
        self.is_delivered = False
        """Whether the delivery of a listener for one has been delivered."""

    # What the person at the terminal, or a signal, asks for

    def stop(self) -> None:
        """Take no more deliveries; `run` returns when those in hand are answered."""
        self._is_stopped = True
        self._wishes_changed.set()

    def pause(self) -> None:
        """Disconnect, so that deliveries wait; the next call connects again."""
        self._is_paused = not self._is_paused
        if not self._is_paused:
            self._report(Told(text="Going on."))
        self._wishes_changed.set()

    def redeliver_last(self) -> None:
        """Ask the service to deliver again what came last."""
        if self._last_id is None:
            self._report(Told(text="Nothing has come yet."))
        else:
            self._begin(self._redeliver(self._last_id))

    async def run(self, stop: asyncio.Event) -> int:
        """Listen until *stop* is set, or `stop` is called; returns the exit status."""
        stopping = asyncio.create_task(self._stop_when(stop))
        try:
            status = await self._keep_listening()
        finally:
            stopping.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=FINISH_SECONDS)
            for task in self._tasks:
                task.cancel()
        return status

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.stop()

    async def _keep_listening(self) -> int:
        tries = 0
        while not self._is_stopped:
            if self._is_paused:
                self._report(Disconnected(reason="paused", again_in_seconds=None))
                await self._wish()
                continue
            link = Link()
            reason = await self._listen(link)
            if self._has_other_wishes() or (reason is None and not link.is_displaced):
                continue
            if isinstance(reason, Refused):
                self._report(Disconnected(reason=str(reason), again_in_seconds=None))
                return 1
            if reason is None:
                self._report(Displaced(name=self._name))
                return 1
            tries = 0 if link.stream else tries
            seconds = BACKOFF_SECONDS[min(tries, len(BACKOFF_SECONDS) - 1)]
            tries += 1
            self._report(Disconnected(reason=str(reason), again_in_seconds=seconds))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._wish()
        if self._is_once:
            return 0 if self.is_delivered else 1
        return 0

    def _has_other_wishes(self) -> bool:
        """Whether deliveries should not be taken, so that it does not matter why none are."""
        return self._is_stopped or self._is_paused

    async def _wish(self) -> None:
        """Wait until something is asked for."""
        await self._wishes_changed.wait()
        self._wishes_changed.clear()

    async def _listen(self, link: Link) -> Exception | None:
        """
        Take deliveries over one connection.

        Returns:
            Why it was lost, or refused; None if it was displaced, or something else is asked for.
        """
        parts = [
            asyncio.ensure_future(one)
            for one in (self._take(link), self._acknowledge(link), self._wish())
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    part.result()
        except (LinkLost, Refused) as error:
            return error
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        return None

    async def _take(self, link: Link) -> None:
        """Take the events of *link*; returns when another listener has taken the name."""
        async with self._service.events() as events:
            async for event in events:
                if event.name == "displaced":
                    link.is_displaced = True
                    return
                if event.name == "closed":
                    raise LinkLost(f"the service has ended it ({event.data.get('reason')})")
                try:
                    self._handle(link, event)
                except (KeyError, TypeError, ValueError):
                    raise Refused(
                        "The service sends what this version does not know. Update it."
                    ) from None

    def _handle(self, link: Link, event: ServerEvent) -> None:
        if event.name == "delivery" and self._is_once and self._is_taken:
            # Not acknowledged: the service keeps it.
            return
        link.note(event)
        match event.name:
            case "connected":
                self._report(
                    Connected(
                        callback_url=str(event.data["callback_url"]),
                        forward_to=self._forward_to,
                        waiting_count=int(event.data["waiting_count"]),
                        has_displaced=bool(event.data["has_displaced"]),
                    )
                )
            case "delivery":
                self._is_taken = True
                request, seconds = (
                    LocalRequest.of(event.data),
                    link.seconds_until(event.data["deadline_at"]),
                )
                if seconds > 0:
                    key = str(event.data["id"]), int(event.data["attempt"])
                    self._begin(self._forward(key, request, seconds, link.answer_bytes_max))
            case "settled":
                key = str(event.data["id"]), int(event.data["attempt"])
                settled = self._settled.get(key)
                if settled is not None and not settled.done():
                    settled.set_result(event.data)

    async def _acknowledge(self, link: Link) -> None:
        """Say which events of *link* have arrived, as they arrive."""
        while True:
            await link.has_seen.wait()
            link.has_seen.clear()
            if link.stream:
                await self._service.acknowledge(link.stream, link.seen_count)

    # One delivery

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, key: tuple[str, int], request: LocalRequest, seconds: float, bytes_max: int
    ) -> None:
        self._last_id = key[0]
        settled = self._settled[key] = asyncio.get_running_loop().create_future()
        began = monotonic()
        try:
            answer = await self._forwarder.forward(request, seconds, bytes_max)
            duration_ms = round((monotonic() - began) * 1000)
            told = await self._send(key, answer, settled)
        finally:
            del self._settled[key]
        self._report(
            Forwarded(
                delivery_id=key[0],
                attempt=key[1],
                method=request.method,
                path=request.path,
                status_code=answer.status_code,
                failure=answer.failure.value if answer.failure else None,
                duration_ms=duration_ms,
                outcome=told.get("outcome"),
                status=told.get("status"),
                reason=told.get("reason"),
                due_at=told.get("due_at"),
                detail=answer.detail or told.get("detail"),
            )
        )
        if self._is_once:
            self.is_delivered = told.get("status") == "delivered"
            self.stop()

    async def _send(
        self, key: tuple[str, int], answer: LocalAnswer, settled: asyncio.Future[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Send an answer; returns what the service makes of it, or why it makes nothing of it."""
        detail = ""
        for number in range(ANSWER_TRIES):
            try:
                status, detail = await self._service.answer(*key, answer.as_object())
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise LinkLost(f"{status}: {detail}")
            except LinkLost as error:
                detail = f"the answer did not reach the service: {error}"
                if number + 1 < ANSWER_TRIES:
                    await asyncio.sleep(BACKOFF_SECONDS[number])
                continue
            if status != HTTPStatus.NO_CONTENT and not settled.done():
                return {"detail": f"the service does not take the answer: {detail}"}
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLED_SECONDS):
                    return await settled
            return {"detail": "the service has the answer, and has not said what follows"}
        return {"detail": detail}

    async def _redeliver(self, delivery_id: str) -> None:
        try:
            status, detail = await self._service.redeliver(delivery_id)
        except LinkLost as error:
            self._report(Told(text=f"Not redelivered: {error}"))
            return
        if status == HTTPStatus.NO_CONTENT:
            self._report(Told(text=f"{delivery_id} is delivered again."))
        else:
            self._report(Told(text=f"Not redelivered ({status}): {detail}"))
