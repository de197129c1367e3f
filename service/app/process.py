"""Which part of the service a process is."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Which part of the path of an invoice a process does."""

    API = "api"
    """Accepts invoices, and answers requests."""
    DISPATCHER = "dispatcher"
    """Collects and delivers."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Process:
    """The role of a process, its mode, and its number if it is one of several workers."""

    role: Role = Role.ALL
    is_development: bool = False
    worker_number: int | None = None

    @property
    def is_worker(self) -> bool:
        """Whether it shares its port and its metrics with other processes of one parent."""
        return self.worker_number is not None


ALONE = Process()
"""One process that does everything."""

DEVELOPMENT = Process(is_development=True)
"""The same in development mode, with an account that needs no key."""
