"""
Leases rows fairly among accounts, so that one account with many rows does not delay another.

Keeps invariant 10 for checkouts and payments. What is written about them is a fact that the
collector has told, whoever asked for it: a lease is no more than a later `due_at`.
"""

from datetime import datetime

from sqlalchemy import Connection, Table, func, select, update

EACH_ACCOUNT = 16
"""Rows of one account in one round, so that those of another do not wait for all of them."""


def lease_fairly(
    tx: Connection, table: Table, now: datetime, until: datetime, limit: int
) -> list[tuple[str, str]]:
    """
    Lease up to *limit* rows of *table* that are due until *until*, as many of each account.

    Runs inside *tx* and never commits it.

    Returns:
        The account and the id of each.
    """
    number = func.row_number().over(partition_by=table.c.account_id, order_by=table.c.due_at)
    due = (
        select(table.c.account_id, table.c.id, number.label("number"))
        .where(table.c.due_at <= now)
        .subquery()
    )
    chosen = tx.execute(
        select(due.c.account_id, due.c.id)
        .where(due.c.number <= EACH_ACCOUNT)
        .order_by(due.c.number)
        .limit(limit)
    )
    leased = list[tuple[str, str]]()
    # In the same order in every process, so that two of them never wait for each other's rows.
    for account_id, id_ in sorted((row.account_id, row.id) for row in chosen):
        is_it = (table.c.account_id == account_id, table.c.id == id_)
        # Another process may have leased it meanwhile.
        leasing = update(table).where(*is_it, table.c.due_at <= now).values(due_at=until)
        if tx.execute(leasing).rowcount:
            leased.append((account_id, id_))
    return leased
