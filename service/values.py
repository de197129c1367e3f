"""
Values: objects that are created thousands of times a second, and never changed.

A frozen dataclass would prevent changes too, but its `__init__` calls `object.__setattr__` for
every field and takes three times as long. Here only the type checker prevents changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, kw_only: bool = False) -> Callable[[type[Class]], type[Class]]:
    """Make a class of fields a value: compared and hashed by its fields, with slots."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=kw_only)
