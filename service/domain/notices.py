"""Notices: what an account is told about a receiver that fails, once for each change."""

from datetime import datetime, timedelta
from enum import StrEnum

from service.domain.delivery import account_of, base_of
from service.values import value

FAILING_AFTER = timedelta(minutes=5)
"""
How long a receiver fails before its account is told, and answers before it is told of the end.

A receiver that is restarted, or that fails now and then, causes no notice.
"""

STILL_FAILING_AFTER = timedelta(hours=24)
"""How long a receiver fails before its account is told again."""


class NoticeKind(StrEnum):
    """What a notice says."""

    FAILING = "failing"
    STILL_FAILING = "still_failing"
    RECOVERED = "recovered"


@value(kw_only=True)
class Notice:
    """
    A change of a *receiver* that its account is to be told of.

    It has been failing, or answering, *since*. *told* is what the account was told last, if
    anything. *reason* says how its last attempt failed, and *email* where the account is told.
    """

    kind: NoticeKind
    receiver: str
    origin: str
    since: datetime
    told: NoticeKind | None = None
    reason: str | None = None
    email: str | None = None

    @property
    def account_id(self) -> str:
        """The account of the receiver."""
        return account_of(self.receiver)

    @property
    def url(self) -> str:
        """The callback URL, as the account gave it."""
        return base_of(self.receiver)
