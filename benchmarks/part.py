"""What every part of the benchmark beside speed is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.receiver import Receiver
from benchmarks.services import Service
from benchmarks.stores import Store


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One round of a part, for one service.

    *seconds* is how long each figure is measured. A part that measures several things one after
    the other turns their order round *is_reversed*, so that none is always the first.
    """

    service: Service
    store: Store
    receiver: Receiver
    refusing_url: str
    seconds: float
    is_reversed: bool
    pending_counts: tuple[int, ...]
    history_counts: tuple[int, int]


Figures = Iterator[tuple[str, float]]
"""Names and values, each as soon as it is known: a failure later does not lose it."""

Part = Callable[[Setting], Figures]
