"""Customers, API users and people at the dashboard of Stripe, who do what the plan says."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from tests.simulation.paying import AMOUNTS, Action

OTHER_AMOUNT = 12_345


class Customers:
    """Everybody who moves the money of a world."""

    def __init__(self, world):
        self._world = world
        self._log = world.log
        self._chance = world.chance
        self._tabs = defaultdict(list)
        """The sessions of each invoice that a customer has seen."""
        self._actions = {
            Action.OPEN: self._open,
            Action.PAY: self._pay,
            Action.PAY_LATE: self._pay_late,
            Action.PAY_OTHERWISE: self._pay_otherwise,
            Action.PAY_AGAIN: self._pay_again,
            Action.PAY_BEFORE_THE_ANSWER: self._pay_before_the_answer,
            Action.DECLINE: self._decline,
            Action.VOID: self._void,
            Action.REFUND: self._refund,
            Action.REFUND_BY_HAND: self._refund_by_hand,
            Action.DISPUTE: self._dispute,
            Action.SWAP: self._swap,
        }

    async def act(self, plan):
        """Do what is planned, once the invoice is stored."""
        await asyncio.sleep(plan.at)
        while (row := self._row_of(plan.invoice_id)) is None:  # noqa: ASYNC110 -- as people do
            await asyncio.sleep(0.5)
        self._log.add("somebody", "{} for {}", plan.action.value, plan.invoice_id)
        await self._actions[plan.action](row, plan)

    def _row_of(self, invoice_id):
        rows = self._world.memory.tables.invoices
        return next((row for row in rows if row["id"] == invoice_id), None)

    # At the service

    async def _asked(self, ask):
        """The result of a request, sent again until a process has answered it."""
        while True:
            process = await self._world._ready_process()
            task = await self._world._ended(process, ask(process))
            if task:
                return task.result()

    async def _open(self, row, _plan):
        """The session that the button of the page leads to; None if it leads to none."""
        url = await self._asked(lambda process: process.checkout(row["account_id"], row["key"]))
        session_id = url and url.rpartition("/")[2]
        if session_id:
            self._log.add("customer", "opens {} for {}", session_id, row["id"])
            self._tabs[row["id"]].append(session_id)
            await asyncio.sleep(self._chance.choice((0, 0.5, 3)))
        return session_id

    async def _void(self, row, _plan):
        await self._asked(lambda process: process.void(row["account_id"], row["id"]))

    async def _refund(self, row, plan):
        number = int(plan.size * len(AMOUNTS))
        # One of two keys: some requests are repeated.
        key = f"key-{number}-{round(plan.size)}"
        asked = row["account_id"], row["id"], AMOUNTS[number], key
        await self._asked(lambda process: process.refund(*asked))

    # At Stripe

    async def _pay(self, row, plan, **options):
        if session_id := await self._open(row, plan):
            self._pay_in(row, session_id, **options)

    async def _pay_otherwise(self, row, plan):
        await self._pay(row, plan, amount=OTHER_AMOUNT)

    async def _pay_again(self, row, _plan):
        if self._tabs[row["id"]]:
            self._pay_in(row, self._chance.choice(self._tabs[row["id"]]))

    async def _pay_before_the_answer(self, row, _plan):
        stripe, account_id = self._world.stripe, row["account_id"]
        for one in stripe.fakes[account_id].payable():
            if _is_of(one, row) and (account_id, one["id"]) not in stripe.hidden:
                stripe.paid_early.add(one["id"])
                self._pay_in(row, one["id"])
                return

    async def _pay_late(self, row, plan):
        session_id = await self._open(row, plan)
        if session_id and self._pay_in(row, session_id, is_late=True):
            await asyncio.sleep(self._chance.uniform(1, 10))
            is_paid = self._chance.random() < 0.5
            self._log.add("bank", "ends {}: {}", session_id, is_paid)
            self._world.stripe.act("settle", row["account_id"], session_id, is_paid=is_paid)

    def _pay_in(self, row, session_id, **options):
        is_paid = self._world.stripe.act("pay", row["account_id"], session_id, **options)
        self._log.add("customer", "pays in {}: {} {}", session_id, is_paid, options or "")
        return is_paid

    async def _decline(self, row, plan):
        if session_id := await self._open(row, plan):
            self._world.stripe.act("decline", row["account_id"], session_id)

    async def _refund_by_hand(self, row, _plan):
        if intent := self._succeeded(row):
            fake = self._world.stripe.fakes[row["account_id"]]
            if intent["amount"] - fake.refunded(intent["id"]) >= 50:
                self._world.stripe.act("refund_by_hand", row["account_id"], intent["id"], 50)

    async def _dispute(self, row, _plan):
        if intent := self._succeeded(row):
            id_ = self._world.stripe.act("dispute", row["account_id"], intent["id"])
            await asyncio.sleep(self._chance.uniform(1, 12))
            is_won = self._chance.random() < 0.5
            self._world.stripe.act("close_dispute", row["account_id"], id_, is_won=is_won)

    async def _swap(self, row, _plan):
        """Stripe knows none of the sessions so far, until the first key is stored again."""
        self._world.stripe.hide_sessions(row["account_id"])
        await asyncio.sleep(self._chance.choice((2, 10, 50)))
        self._world.stripe.show_sessions(row["account_id"])

    def _succeeded(self, row):
        """A payment of the invoice that is not disputed."""
        paid = self._world.stripe.fakes[row["account_id"]].paid(row["id"])
        free = [one for one in paid if not one.get("is_disputed")]
        return self._chance.choice(free) if free else None


def _is_of(session, row):
    return session["metadata"].get("invoice_id") == row["id"]
