"""The events of one run, in order, so that a failure can be understood."""

from __future__ import annotations

import asyncio
from datetime import datetime

from tests.clock import START


class Violation(AssertionError):
    """A promise was broken; the text says which one."""


class RunLog:
    """
    The events of one run in their order, and the first promise that was broken.

    Sentences are formatted only when they are printed, which most runs never need.
    """

    def __init__(self):
        self._events = []
        self.violation: Violation | None = None
        self.has_failed = asyncio.Event()

    def add(self, actor, sentence, *details):
        """Add an event of *actor*; *details* replace the braces of the sentence."""
        self._events.append((asyncio.get_running_loop().time(), str(actor), sentence, details))

    def violate(self, sentence, *details):
        """Record a broken promise; the run ends here."""
        if self.violation is None:
            self.violation = Violation(_filled(sentence, details))
            self.add("!", sentence, *details)
            self.has_failed.set()

    def lines(self):
        """One line for each event, with its virtual time in seconds."""
        for seconds, actor, sentence, details in self._events:
            yield f"{seconds:12.6f}  {actor:<9} {_filled(sentence, details)}"


def _filled(sentence, details):
    return sentence.format(*map(_spelled, details))


def _spelled(detail):
    """Instants are shown as seconds since the start."""
    if isinstance(detail, datetime):
        return f"{(detail - START).total_seconds():.6f}"
    return detail
