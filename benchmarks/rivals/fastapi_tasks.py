"""
What one would write instead: FastAPI, BackgroundTasks and httpx.

`fastapi_tasks shared` keeps one AsyncClient; `fastapi_tasks post` calls `httpx.post`. Nothing
is stored and nothing repeated: a process that ends, or a receiver that is down, loses callbacks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import uvicorn
from fastapi import BackgroundTasks, FastAPI
from pydantic import BaseModel

EVENT = {"description": "Invoice paid", "paid": True}


class Invoice(BaseModel):
    """What comes in."""

    id: str
    title: str | None = None
    customer: str
    total: Decimal


class Received(BaseModel):
    """What is answered."""

    msg: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for the life of the application."""
    async with httpx.AsyncClient(timeout=httpx.Timeout(15, pool=None)) as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)


async def send_shared(url: str, event: dict[str, Any]) -> None:
    """Call back over the shared client."""
    (await app.state.client.post(url, json=event)).raise_for_status()


def send_post(url: str, event: dict[str, Any]) -> None:
    """Call back over a connection of its own, in a thread."""
    httpx.post(url, json=event, timeout=15).raise_for_status()


SENDERS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "shared": send_shared,
    "post": send_post,
}


@app.post("/invoices/", status_code=202)
async def create_invoice(
    invoice: Invoice, tasks: BackgroundTasks, callback_url: str | None = None
) -> Received:
    """Accept, and call back afterwards."""
    if callback_url:
        event = {**EVENT, "invoice_id": invoice.id}
        tasks.add_task(app.state.send, f"{callback_url}/invoices/{invoice.id}", event)
    return Received(msg="Invoice received")


if __name__ == "__main__":
    app.state.send = SENDERS[sys.argv[1]]
    uvicorn.run(app, port=int(os.environ["INVOICES_PORT"]), log_level="warning", access_log=False)
