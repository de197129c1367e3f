"""The requests of a listener to the service."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from service.domain.listening import LISTENER_SILENCE
from service.listener.events import EventReader, NotEvents, ServerEvent

REQUEST_SECONDS = 20
"""How long a request may take that is answered at once."""

DETAIL_BYTES_MAX = 64 * 1024

LOOK_SECONDS = 1.0
"""How often it is checked that this program was not stopped while it waited for an event."""

SLEPT_SECONDS = 10.0
"""After a wait that was so much longer than it should be, what has arrived is out of date."""


class LinkLost(Exception):
    """The service cannot be reached now, or has ended the connection; the text says why."""


class Refused(Exception):
    """The service refuses the listener: trying again would change nothing."""


class ServiceConnection:
    """
    The service at *url*, as the listener *name* uses it; an asynchronous context manager.

    *key* is that of an account, or one that permits nothing but to listen; empty for none.
    """

    def __init__(self, url: str, name: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._name = name
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession
        self.stream = ""
        """The token of the newest connection for events."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS),
            # The way to the service may lead through a proxy, which the environment names.
            trust_env=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[ServerEvent]]:
        """
        Connect, and give the events as they come.

        Raises:
            LinkLost: if that fails, here or while the events are read.
            Refused: if the service takes no such listener.
        """
        query = {"acknowledge": "true", **({"replaces": self.stream} if self.stream else {})}
        path = f"/listen/{self._name}/stream"
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._session.get(
                    self._url + path, params=query, allow_redirects=False
                )
            try:
                if response.status != HTTPStatus.OK:
                    raise await _refusal(response)
                if response.content_type != "text/event-stream":
                    raise Refused(f"{self._url} is not this service: it sends no events.")
                yield self._read(response)
            finally:
                response.close()
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise LinkLost(_text_of(failure)) from None

    async def acknowledge(self, stream: str, number: int) -> None:
        """Say that the events up to *number* have arrived; LinkLost if the connection has ended."""
        status, detail = await self._post("seen", {"stream": stream, "event": number})
        if status != HTTPStatus.NO_CONTENT:
            raise LinkLost(detail)

    async def answer(
        self, delivery_id: str, attempt: int, answer: Mapping[str, Any]
    ) -> tuple[int, str]:
        """Send the answer of an attempt; status and words of the service. LinkLost if neither."""
        return await self._post(f"{quote(delivery_id, safe='')}/{attempt}", answer)

    async def redeliver(self, delivery_id: str) -> tuple[int, str]:
        """Ask for a redelivery; status and words of the service. LinkLost if there are neither."""
        path = f"/listen/{self._name}/{quote(delivery_id, safe='')}/redeliver"
        return await self._send(self._url + path, None)

    async def _post(self, path: str, document: Mapping[str, Any]) -> tuple[int, str]:
        url = f"{self._url}/listen/{self._name}/{path}"
        return await self._send(url, orjson.dumps(document))

    async def _send(self, url: str, body: bytes | None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                self._session.post(
                    URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return response.status, await _detail_of(response)
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise LinkLost(_text_of(failure)) from None

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncIterator[ServerEvent]:
        reader = EventReader()
        try:
            while piece := await _next_piece(response):
                for event in reader.read(piece):
                    if event.name == "connected":
                        self.stream = str(event.data.get("stream", ""))
                    yield event
        except NotEvents:
            raise Refused(f"{self._url} is not this service: it sends other events.") from None
        raise LinkLost("the service has closed the connection")


async def _next_piece(response: aiohttp.ClientResponse) -> bytes:
    """
    The next bytes; empty at the end.

    Raises:
        LinkLost: if none come for so long that the link is dead, or if this program was stopped,
            or its machine asleep: what has arrived meanwhile is out of date.
    """
    loop = asyncio.get_running_loop()
    silent_at = loop.time() + LISTENER_SILENCE.total_seconds()
    reading = asyncio.ensure_future(response.content.readany())
    try:
        while True:
            before, at = loop.time(), time.time()
            await asyncio.wait({reading}, timeout=LOOK_SECONDS)
            # One of the two clocks may stand still while the machine sleeps.
            slept_seconds = max(loop.time() - before, time.time() - at)
            if slept_seconds > SLEPT_SECONDS:
                raise LinkLost(f"this program did not run for {slept_seconds:.0f} s")
            if reading.done():
                return reading.result()
            if loop.time() >= silent_at:
                raise LinkLost("nothing came from the service for too long")
    finally:
        reading.cancel()


async def _refusal(response: aiohttp.ClientResponse) -> Exception:
    """What the answer to an attempt to connect means."""
    detail = await _detail_of(response)
    is_passing = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if is_passing or response.status == HTTPStatus.TOO_MANY_REQUESTS:
        return LinkLost(f"{response.status}: {detail}")
    return Refused(f"The service refuses the listener ({response.status}): {detail}")


async def _detail_of(response: aiohttp.ClientResponse) -> str:
    """What a problem document says; the reason phrase of what is none."""
    text = await response.content.read(DETAIL_BYTES_MAX)
    try:
        document = orjson.loads(text)
        messages = [one["message"] for one in document.get("errors", ())]
        return " ".join([document["detail"], *messages])
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.reason or ""


def _text_of(failure: Exception) -> str:
    if isinstance(failure, TimeoutError):
        return f"no answer from the service within {REQUEST_SECONDS} s"
    return str(failure) or type(failure).__name__
