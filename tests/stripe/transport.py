"""The library of Stripe connected to a `FakeStripe` without a network."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from stripe import APIConnectionError, HTTPClient

from tests.stripe.fake import Cut


class Transport(HTTPClient):
    """
    Passes requests to *fake*, and waits at *pause* before and after each of them.

    Implements what the library calls in `AIOHTTPClient`.
    """

    name = "fake"

    def __init__(self, fake, pause=None):
        super().__init__()
        self._fake = fake
        self._pause = pause

    async def request_async(self, method, url, headers, post_data=None):
        """The answer to one request."""
        parts = urlsplit(url)
        if self._pause:
            await self._pause()
        try:
            text = post_data if method == "post" else parts.query
            status, body = self._fake.answer(method.upper(), parts.path, text or "", headers)
        except Cut:
            raise APIConnectionError("The connection was lost", should_retry=True) from None
        finally:
            if self._pause:
                await self._pause()
        return json.dumps(body).encode(), status, {}

    async def sleep_async(self, secs):
        """No time passes between two requests of one call."""

    async def close_async(self):
        """Nothing is open."""
