"""Closed sets of words that API users read, each with its meaning in one sentence."""

from enum import StrEnum
from typing import Self


class Word(StrEnum):
    """A word of a closed set."""

    meaning: str
    """The word in one sentence, for API users."""

    def __new__(cls, name: str, meaning: str) -> Self:
        """Make the word *name*."""
        word = str.__new__(cls, name)
        word._value_ = name
        word.meaning = meaning
        return word
