"""The overview: what waits and since when, what died today, and whether the loops run."""

from datetime import timedelta

from aiohttp import web

from service.pages.console.charts import chart_of
from service.pages.console.screens import Screen
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

SECTION = "overview"

DAY = timedelta(days=1)

PENDING_MAX = 20_000
"""Counting of pending deliveries ends at this number."""


class Overview:
    """The screen of everything at once."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, visit: Visit, _: web.Request) -> Screen:
        """The numbers of an account, and the loops of this process."""
        store, account_id, now = self._console.store, visit.account_id, visit.now
        waiting = await store.console.waiting_receivers(account_id, now)
        due = [one for one in waiting if one.first_due_at <= now]
        dead = await store.console.count_dead_since(account_id, now - DAY)
        pending = await store.history.count_open(account_id, PENDING_MAX)
        hours = await store.console.hours_of_account(account_id, now)
        oldest = min(due, key=lambda one: one.first_due_at, default=None)
        return Screen(
            template="overview.html",
            title="Overview",
            section=SECTION,
            values={
                "pending": pending,
                "is_pending_counted": pending < PENDING_MAX,
                "oldest_due_at": oldest and oldest.first_due_at,
                "oldest_age": oldest and now - oldest.first_due_at,
                "receivers_due": len(due),
                "dead": dead.count,
                "is_dead_counted": dead.after is None,
                "chart": chart_of(hours),
                "this_hour": hours[-1],
                "delivered": sum(one.delivered for one in hours),
                "failed": sum(one.failed for one in hours),
                "loops": self._console.loops(),
                "is_mail_paused": self._console.is_mail_paused(),
                "pending_url": visit.url("deliveries", status="pending"),
                "dead_url": visit.url("deliveries", status="dead"),
            },
            announcement=f"{pending} pending, {dead.count} dead today.",
        )
