"""
Statements that are a whole transaction: PostgreSQL needs no BEGIN and no COMMIT around them.

What an invoice needs takes three round trips instead of thirteen. For a lone invoice each one costs
the service some seventy thousand instructions, and both sides a change of the running process.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.values import value

Found = Sequence[Sequence[Any]]
"""The rows that a statement returns."""


@value()
class AtOnce:
    """
    The statement *text* with the *values* of its parameters.

    *results* makes the result of each item of the rows that it returns; None if these do not say
    it: the work is then done again as a transaction of several statements.
    """

    text: str
    values: tuple[Any, ...]
    results: Callable[[Found], Sequence[Any] | None]


Prepare = Callable[[Sequence[Any]], AtOnce | None]
"""Makes the statement that does a work for items; None if these need several statements."""

AtOnceByWork = Mapping[Callable[..., Any], Prepare]
"""How each kind of work is done at once."""
