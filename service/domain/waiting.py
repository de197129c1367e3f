"""What a pending delivery waits for, as its account is told."""

from datetime import datetime
from enum import StrEnum

from service.domain.listening import LISTENER_SILENCE
from service.values import value


class WaitingFor(StrEnum):
    """Why a pending delivery is not being attempted."""

    EARLIER_EVENT = "earlier_event"
    DUE = "due"
    HOLD = "hold"
    COOLDOWN = "cooldown"
    SLOT = "slot"
    RATE = "rate"
    PAUSED = "paused"
    LISTENER = "listener"


@value(kw_only=True)
class Waits:
    """
    All that a pending delivery may wait for.

    *is_first* says that no earlier event of its invoice is pending. *held_until* is what the
    receiver asked for with Retry-After, *cooldown_until* follows from failed attempts. *is_paused*
    says that the receiver was paused by hand: even what is asked for waits then. A delivery that
    *is_for_listener* is for a listener, whose connection worked last at *beat_at*.
    """

    is_first: bool
    is_asked: bool
    due_at: datetime
    leased_until: datetime | None
    held_until: datetime | None
    cooldown_until: datetime | None
    is_paused: bool = False
    is_for_listener: bool = False
    beat_at: datetime | None = None

    def reason_at(
        self, now: datetime, *, is_paced: bool = False, is_queued: bool = False
    ) -> tuple[WaitingFor | None, datetime | None]:
        """
        What it waits for at *now*, and until when if that is known.

        Of several reasons, the one that ends last. None where it is leased: an attempt is made, or
        is next. *is_paced* says that its account exceeds its attempt rate, and *is_queued* that it
        is known to be leased without an attempt: then it waits for the rate.
        """
        turn = WaitingFor.RATE if is_paced else WaitingFor.SLOT
        if self.leased_until and self.leased_until > now:
            return (turn, None) if is_paced and is_queued else (None, None)
        if gate := self._gate_at(now):
            return gate, None
        if self.is_asked:
            return turn, None
        ends = [
            (until, reason)
            for reason, until in (
                (WaitingFor.COOLDOWN, self.cooldown_until),
                (WaitingFor.DUE, self.due_at),
                (WaitingFor.HOLD, self.held_until),
            )
            if until and until > now
        ]
        if not ends:
            return turn, None
        last = max(until for until, _ in ends)
        # A retry that was put off by a hold is due when the hold ends.
        return next((reason, until) for until, reason in reversed(ends) if until == last)

    def _gate_at(self, now: datetime) -> WaitingFor | None:
        """What keeps back even what was asked for by hand; when that ends is not known."""
        if self.is_paused:
            return WaitingFor.PAUSED
        if not self.is_first:
            return WaitingFor.EARLIER_EVENT
        is_connected = self.beat_at is not None and now - self.beat_at < LISTENER_SILENCE
        return WaitingFor.LISTENER if self.is_for_listener and not is_connected else None
