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
    """What one process is among those that serve: its role, and whether others share its port."""

    role: Role = Role.ALL
    is_port_shared: bool = False
    is_development: bool = False
    worker_number: int | None = None
    """Which of the workers it is, where several share the figures that they count."""


ALONE = Place()
"""One process that does everything."""

DEVELOPMENT = Place(is_development=True)
"""The same, with an account that needs no key."""
