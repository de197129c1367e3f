"""
The loop that tells accounts of their receivers: that one fails, still fails, and has recovered.

Any number of processes may each run one: of several that find the same notice, one gives it.
"""

import logging
from collections.abc import Callable
from datetime import timedelta

from service.clock import Clock
from service.domain.mail import Mail
from service.domain.notices import Notice, NoticeKind
from service.loops import AT_ONCE, Loop, Round, Signal
from service.storage.notices import BATCH
from service.storage.store import Store
from service.telemetry.metrics import Metrics

log = logging.getLogger("invoices.delivery")

INTERVAL = timedelta(seconds=30)
"""How often notices are looked for: short compared with the time that a receiver has to fail."""


class Notices(Loop):
    """Gives the notices that are due, by mails that *compose* makes."""

    def __init__(
        self, store: Store, compose: Callable[[Notice], Mail], clock: Clock, metrics: Metrics
    ) -> None:
        super().__init__(clock, Signal())
        self._store = store
        self._compose = compose
        self._metrics = metrics

    async def run_round(self) -> Round:
        """Give what is due; an account without an address gets no mail."""
        due = await self._store.receivers.due_notices(self.clock.now())
        items = [(one, self._compose(one) if one.email else None) for one in due]
        given = await self._store.receivers.give_notices(items) if items else []
        for one in given:
            self._metrics.noticed(one.kind)
            fields = {
                "account_id": one.account_id,
                "origin": one.origin,
                "kind": one.kind,
                "since": one.since,
                "has_mail": one.email is not None,
            }
            is_bad = one.kind is not NoticeKind.RECOVERED
            log.log(
                logging.WARNING if is_bad else logging.INFO,
                "receiver.noticed",
                extra={"fields": fields},
            )
        return Round(len(given), AT_ONCE if len(given) >= BATCH else INTERVAL)
