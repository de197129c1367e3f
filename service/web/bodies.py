"""Reads the body of a request, within limits of size and time."""

import asyncio
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from service.errors import MalformedRequest, RequestTimedOut, RequestTooLarge, UnsupportedMedia


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large the body of a request may be, and how long it may take to arrive."""

    size: int = 64 * 1024
    """Bytes: several hundred times the size of an ordinary invoice."""
    seconds: float = 10
    """Without this limit, a body that never ends would occupy a handler forever."""

    def check(self, request: web.Request) -> None:
        """
        Check the length that *request* announces, if it announces one.

        Raises:
            RequestTooLarge: if it is above the limit.
        """
        if (request.content_length or 0) > self.size:
            raise self.too_large()

    def too_large(self) -> RequestTooLarge:
        """The error for a body above the limit."""
        return RequestTooLarge(f"The body is larger than {self.size} bytes.")


async def read_body(request: web.Request, limits: BodyLimits) -> int:
    """
    Read the body of *request*; from then on `request.read()` returns it at once.

    Returns:
        Its length in bytes.

    Raises:
        RequestTooLarge: if it is larger than *limits* allow.
        RequestTimedOut: if it does not arrive in time.
        UnsupportedMedia: if it has a Content-Encoding.
        MalformedRequest: if its framing does not match the headers.
    """
    limits.check(request)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMedia("The body must be sent without a Content-Encoding.")
    try:
        if request.content.is_eof():
            # It arrived together with the head, as most do: no timeout is needed, and no loop of
            # reads, which takes 1 % of all instructions for a delivered invoice.
            body = request._read_bytes = request.content.read_nowait()
        else:
            async with asyncio.timeout(limits.seconds):
                body = await request.read()
    except TimeoutError:
        raise RequestTimedOut(
            f"The body was not complete after {limits.seconds:g} seconds."
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise limits.too_large() from None
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError) as error:
        # The connection keeps the error, and its frames keep the connection: a reference cycle
        # that would hold the body until the garbage collector runs.
        error.__traceback__ = None
        raise MalformedRequest("The body does not match the headers of the request.") from None
    if len(body) > limits.size:
        # The application bounds all bodies by its largest limit alone.
        raise limits.too_large()
    return len(body)
