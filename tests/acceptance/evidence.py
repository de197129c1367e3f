"""
Compares the accepted invoices, the rows of the database, and the requests that arrived.

After random kills no test can know the exact result. But these promises hold after every run.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import text

from service.database.opening import open_database

_DELIVERIES = """
    SELECT invoices.id, deliveries.id, deliveries.sequence, deliveries.status,
           deliveries.attempt_count
    FROM invoices LEFT JOIN deliveries
         ON deliveries.account_id = invoices.account_id
         AND deliveries.invoice_key = invoices.key
    ORDER BY deliveries.sequence
"""
_ATTEMPTS = "SELECT delivery_id, number, outcome FROM attempts ORDER BY delivery_id, number"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that the receiver read to its end, and the status of its answer."""

    invoice_id: str
    delivery_id: str
    body: bytes
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All facts at the end; *deliveries* and *attempts* are rows of the database."""

    accepted: frozenset[str]
    arrivals: list[Arrival]
    deliveries: list[tuple]
    attempts: list[tuple]
    event_count: int

    def violations(self):
        """One sentence for each broken promise."""
        recorded = defaultdict(list)
        for delivery_id, number, outcome in self.attempts:
            recorded[delivery_id].append((number, outcome))
        arrived = defaultdict(list)
        for arrival in self.arrivals:
            arrived[arrival.delivery_id].append(arrival)
        yield from self._of_invoices()
        yield from self._of_order()
        for _, id_, _, status, attempt_count in self.deliveries:
            yield from _of_delivery(id_, status, attempt_count, recorded[id_], arrived[id_])
        known = {id_ for _, id_, _, _, _ in self.deliveries}
        yield from (f"{id_} arrived and is in no database" for id_ in set(arrived) - known)

    def _of_invoices(self):
        """Each accepted invoice is stored with all its events, and no other invoice is stored."""
        events = defaultdict(list)
        for invoice_id, _, sequence, _, _ in self.deliveries:
            events[invoice_id].append(sequence)
        yield from (f"{id_} was accepted and is not stored" for id_ in self.accepted - set(events))
        yield from (
            f"{id_} is stored and was never accepted" for id_ in set(events) - self.accepted
        )
        wanted = list(range(1, self.event_count + 1))
        yield from (
            f"{id_} has the events {found}" for id_, found in events.items() if found != wanted
        )

    def _of_order(self):
        """No event arrives after a later event of its invoice has arrived."""
        sequences = {id_: sequence for _, id_, sequence, _, _ in self.deliveries}
        latest = defaultdict(int)
        for one in self.arrivals:
            sequence = sequences.get(one.delivery_id, 0)
            if sequence < latest[one.invoice_id]:
                yield f"{one.delivery_id} arrived after a later event of {one.invoice_id}"
            latest[one.invoice_id] = max(sequence, latest[one.invoice_id])

    def counts(self):
        """The numbers of the run, by name."""
        seen, again_count = set(), 0
        acknowledged = [one.delivery_id for one in self.arrivals if one.status == 200]
        for id_ in acknowledged:
            again_count += id_ in seen
            seen.add(id_)
        return {
            "invoices accepted": len(self.accepted),
            "events delivered": sum("delivered" == status for *_, status, _ in self.deliveries),
            "callbacks arrived": len(self.arrivals),
            "refused by the receiver": len(self.arrivals) - len(acknowledged),
            "arrived again after they were acknowledged": again_count,
            "attempts recorded as lost": sum("lost" == outcome for *_, outcome in self.attempts),
        }


def _of_delivery(id_, status, attempt_count, recorded, arrived):
    """A delivery is settled once, by its last attempt, and has an attempt for each request."""
    numbers, outcomes = [number for number, _ in recorded], [outcome for _, outcome in recorded]
    if (status, outcomes.count("delivered"), outcomes[-1:]) != ("delivered", 1, ["delivered"]):
        yield f"{id_} is {status} after {outcomes}"
    if numbers != list(range(1, attempt_count + 1)):
        yield f"{id_} has made {attempt_count} attempts and has recorded {numbers}"
    if not any(one.status == 200 for one in arrived):
        yield f"{id_} was never acknowledged by the receiver"
    if len(arrived) > attempt_count:
        yield f"{id_} arrived {len(arrived)} times and has {attempt_count} attempts"
    if len({(one.invoice_id, one.body) for one in arrived}) > 1:
        yield f"{id_} arrived with different bytes"


async def gather_evidence(database_url, accepted, arrivals, event_count):
    """Read all rows after the last process has ended."""
    database = open_database(database_url)

    def read(tx):
        return tuple(
            [tuple(row) for row in tx.execute(text(query))] for query in (_DELIVERIES, _ATTEMPTS)
        )

    deliveries, attempts = await database.read(read)
    await database.close()
    return Evidence(
        accepted=frozenset(accepted),
        arrivals=arrivals,
        deliveries=deliveries,
        attempts=attempts,
        event_count=event_count,
    )
