"""
The operations on listeners and their keys, and the signal that follows a commit.

They are part of the store. Another process may have the connection that a write is about: all
processes are told.
"""

from collections.abc import Sequence
from datetime import datetime

from service.database.engine import Database
from service.database.group_commit import GroupCommit
from service.domain.listening import AttemptKey
from service.loops import Signal
from service.storage import listen_keys, listeners
from service.storage.accounts import NewKey, StoredKey
from service.storage.listeners import GivenAttempt, ListenerRow

LISTENERS = "listeners"
"""The name of the signal."""


class ListeningStore:
    """
    All operations on listeners.

    Each method that writes returns after its commit. It raises StorageUnavailable if the database
    cannot be written to; nothing was stored then.
    """

    def __init__(self, database: Database, commits: GroupCommit) -> None:
        self._database = database
        self._commits = commits
        self.changed = Signal()
        """Set when another process may have stored something about a listener."""
        self.signals = {LISTENERS: self.changed}
        """The signal by the name with which processes wake each other."""

    @property
    def has_notifications(self) -> bool:
        """Whether processes are told of each other's writes; otherwise they have to look."""
        return self._database.is_shared

    async def connect(self, new: ListenerRow, now: datetime, replaces: str) -> bool:
        """Make *new* the connection of its origin; see `listeners.connect`."""
        has_displaced = await self._database.write(listeners.connect, new, now, replaces)
        self._notify()
        return has_displaced

    async def disconnect(self, account_id: str, origin: str, token: str) -> None:
        """Remove a connection, unless there is a newer one."""
        await self._database.write(listeners.disconnect, account_id, origin, token)

    async def beat(self, rows: Sequence[ListenerRow], now: datetime) -> None:
        """Say that the connections *rows* work."""
        await self._database.write(listeners.beat, rows, now)

    async def look(self, rows: Sequence[ListenerRow]) -> list[ListenerRow]:
        """The newest connections of the origins of *rows*."""
        return await self._database.read(listeners.look, rows)

    async def note_seen(self, row: ListenerRow) -> bool:
        """Store how many events have arrived; False if the connection is not the newest."""
        is_newest = await self._database.write(listeners.note_seen, row)
        self._notify()
        return is_newest

    async def give(self, new: GivenAttempt) -> None:
        """Store that a listener works on an attempt."""
        await self._commits.run(listeners.give, new)

    async def finish(self, key: AttemptKey) -> bytes | None:
        """End an attempt; returns the answer that another process took, if there is one."""
        return await self._commits.run(listeners.finish, key)

    async def answer(self, key: AttemptKey, content: bytes, now: datetime) -> bool:
        """Store the answer of an attempt; False if it has ended, or is answered already."""
        is_taken = await self._database.write(listeners.answer, key, content, now)
        if is_taken:
            self._notify()
        return is_taken

    async def answers_of(self, keys: Sequence[AttemptKey]) -> dict[AttemptKey, bytes]:
        """The answers of those of the attempts *keys* that other processes took."""
        return await self._database.read(listeners.answers_of, keys)

    async def count_waiting(self, receiver: str, most: int) -> int:
        """How many deliveries of *receiver* are pending, up to *most*."""
        return await self._database.read(listeners.count_waiting, receiver, most)

    async def add_key(
        self, account_id: str, new: NewKey, now: datetime, expires_at: datetime
    ) -> None:
        """Add a key that permits to listen."""
        await self._database.write(listen_keys.add, account_id, new, now, expires_at)

    async def find_key(self, prefix: str, now: datetime) -> StoredKey | None:
        """The key to listen with that prefix, if it is valid."""
        return await self._database.read(listen_keys.find, prefix, now)

    def _notify(self) -> None:
        self._database.notify(LISTENERS)
