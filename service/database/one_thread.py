"""
One thread that runs one call after the other, for the loop that asks for them.

An executor of the standard library makes two futures for each call, with a lock, and copies the
result from one to the other: in three transactions for a lone invoice, that is felt.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Call = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class OneThread:
    """A thread named *name*, which begins with the first call and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._calls = SimpleQueue[_Call | None]()
        # As with an executor, a process that ends without `close` does not wait for it.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._has_begun = False

    def run(
        self, function: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> "asyncio.Future[T]":
        """Call *function* in the thread; a call whose future is cancelled before it is left out."""
        if not self._has_begun:
            self._has_begun = True
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((future, function, args, options))
        return future

    async def close(self) -> None:
        """Return once all calls have ended; there may be no others."""
        self._calls.put(None)
        if self._has_begun:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while call := self._calls.get():
            future, function, args, options = call
            if future.cancelled():
                continue
            result, failure = None, None
            try:
                result = function(*args, **options)
            except BaseException as error:  # noqa: BLE001 -- whoever waits receives it
                failure = error
            # The loop may have been closed meanwhile: then nobody waits.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_resolve, future, result, failure)
            # Until the next call, nothing of this one is kept.
            del call, future, function, args, options, result, failure


def _resolve(future: "asyncio.Future[Any]", result: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
