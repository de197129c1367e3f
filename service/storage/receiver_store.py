"""
The operations on receivers as accounts see them, by hand and by notice; they are part of the store.

What attempts have shown of a receiver is stored with them, or by `observe`.
"""

from collections.abc import Sequence
from datetime import datetime

from service.database.engine import Database
from service.domain.attempt_counts import Hour
from service.domain.delivery import Delivery
from service.domain.notices import Notice
from service.domain.receivers import KnownReceiver
from service.storage import deliveries, gates, notices, observations, receiver_hours, receiver_list
from service.storage.signals import Signals


class ReceiverStore:
    """
    All operations on receivers.

    Each method that writes returns after its commit. It raises StorageUnavailable if the database
    cannot be written to; nothing was stored then.
    """

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals

    async def page(
        self, account_id: str, now: datetime, *, after: str | None, limit: int
    ) -> receiver_list.Page:
        """A page of receivers by their URLs, and the cursor of the next one."""
        return await self._database.browse(
            receiver_list.list_receivers, account_id, now, after=after, limit=limit
        )

    async def find(self, account_id: str, receiver_id: str, now: datetime) -> KnownReceiver:
        """One receiver, or NotFound."""
        return await self._database.browse(receiver_list.find, account_id, receiver_id, now)

    async def series_of(
        self, account_id: str, receiver_id: str, now: datetime
    ) -> tuple[KnownReceiver, Sequence[Hour]]:
        """One receiver and its last 24 hours in order, or NotFound."""
        return await self._database.browse(receiver_list.series_of, account_id, receiver_id, now)

    async def pause(self, known: KnownReceiver, now: datetime) -> bool:
        """Give a receiver no attempts from now on; False if it is paused already."""
        is_changed = await self._database.write(gates.pause, known.receiver, known.origin, now)
        # What is leased and not in flight is given back.
        self._signals.send("asked", known.receiver)
        return is_changed

    async def resume(self, known: KnownReceiver) -> bool:
        """Give a paused receiver attempts again; False if it is not paused."""
        is_changed = await self._database.write(gates.resume, known.receiver)
        self._signals.send("asked", known.receiver)
        return is_changed

    async def add_test_event(self, delivery: Delivery) -> None:
        """Insert the *delivery* of a test event, which was asked for by hand."""
        await self._database.write(deliveries.insert, [delivery])
        self._signals.send("asked", delivery.receiver)

    async def observe(self, observed: Sequence[observations.Observation]) -> None:
        """Store what attempts have shown beside what was stored with them."""
        await self._database.write(observations.record, observed)

    async def due_notices(self, now: datetime) -> Sequence[Notice]:
        """Notices that accounts are to be given; see `notices.find_due`."""
        return await self._database.read(notices.find_due, now)

    async def give_notices(self, items: Sequence[notices.NoticeToGive]) -> Sequence[Notice]:
        """Record notices with their mails; returns those that were still due."""
        given = await self._database.write(notices.give, items)
        if given:
            self._signals.send("mails")
        return given

    async def remove_old_hours(self, now: datetime) -> bool:
        """Remove some counts that are no longer told; False if there were none."""
        return await self._database.write(receiver_hours.remove_old, now)
