"""What one process is among those that serve."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a process does of the road of an invoice."""

    API = "api"
    """Accepts, and answers questions."""
    DISPATCHER = "dispatcher"
    """Collects and delivers."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Place:
    """What one process is among those that serve: its role, and which of the workers it is."""

    role: Role = Role.ALL
    is_development: bool = False
    worker_number: int | None = None

    @property
    def is_worker(self) -> bool:
        """Whether it shares its port and its figures with others, and has a parent."""
        return self.worker_number is not None


ALONE = Place()
"""One process that does everything."""

DEVELOPMENT = Place(is_development=True)
"""The same, with an account that needs no key."""
