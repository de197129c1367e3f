"""What happened in one run, event by event, so that a failure can be read like a story."""

from __future__ import annotations

import asyncio
from datetime import datetime

from tests.clock import START


class Violation(AssertionError):
    """A promise was broken; its text says which one, in words."""


class Story:
    """
    The events of one run in their order, and the first promise that was broken.

    Sentences are made when they are read; those of a run that goes well never are.
    """

    def __init__(self):
        self._events = []
        self.violation: Violation | None = None
        self.has_failed = asyncio.Event()

    def add(self, who, sentence, *details):
        """Add an event of *who*; *details* stand where the sentence has braces."""
        self._events.append((asyncio.get_running_loop().time(), str(who), sentence, details))

    def violate(self, sentence, *details):
        """A promise was broken: the run ends here."""
        if self.violation is None:
            self.violation = Violation(_filled(sentence, details))
            self.add("!", sentence, *details)
            self.has_failed.set()

    def lines(self):
        """One line for each event, with its virtual time in seconds."""
        for seconds, who, sentence, details in self._events:
            yield f"{seconds:12.6f}  {who:<9} {_filled(sentence, details)}"


def _filled(sentence, details):
    return sentence.format(*map(_spelled, details))


def _spelled(detail):
    """Instants are shown as seconds since the beginning."""
    if isinstance(detail, datetime):
        return f"{(detail - START).total_seconds():.6f}"
    return detail
