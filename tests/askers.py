"""Clients of the API, with a key or without one, and the answers that they get."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.api.application import OPERATIONS

PRIVATE = [(operation.method, operation.path) for operation in OPERATIONS if operation.is_private]
"""Method and path of every operation that only an account may call."""


NAMES = {"name": "laptop", "attempt": "1"}
"""What else than an id stands in paths."""


@dataclass(frozen=True)
class Answer:
    """All that a client sees of an answer, except what differs in every answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def without(self, id_):
        """The same, with *id_* removed from the body."""
        return replace(self, body=self.body.replace(id_.encode(), b"..."))


class Asker:
    """Sends requests with the key of an account, or without a key."""

    def __init__(self, client, authorization=None):
        self.client = client
        self.headers = {"Authorization": authorization} if authorization else {}

    async def ask(self, method, path, **options):
        """Send one request; returns the answer."""
        headers = {**self.headers, **options.pop("headers", {})}
        answer = await self.client.request(method, path, headers=headers, **options)
        own = {"DATE", "X-REQUEST-ID"}
        shared = {name: value for name, value in answer.headers.items() if name.upper() not in own}
        return Answer(answer.status, shared, await answer.read())

    async def get(self, path):
        """The document at *path*, which must exist."""
        answer = await self.client.get(path, headers=self.headers)
        assert 200 == answer.status, await answer.text()
        return await answer.json()

    async def send(self, id_, **changes):
        """Send an invoice; returns the answer."""
        body = {"id": id_, "customer": "c", "total": "1", **changes}
        return await self.ask("POST", "/invoices/", json=body)


def raw_post(*headers, body=b"", length=None):
    """The bytes of a POST of an invoice, after which the connection is closed."""
    length = len(body) if length is None else length
    lines = ["POST /invoices/ HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
