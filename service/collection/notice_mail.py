"""The mail that tells an account of a receiver that fails, still fails, or has recovered."""

from datetime import datetime

from service.clock import Clock
from service.collection.envelope import Envelope, subject_of
from service.domain.ids import new_id
from service.domain.mail import OF_NO_INVOICE, Mail
from service.domain.notices import Notice, NoticeKind
from service.localization import one_line

SUBJECTS = {
    NoticeKind.FAILING: "Your receiver {url} fails",
    NoticeKind.STILL_FAILING: "Your receiver {url} still fails",
    NoticeKind.RECOVERED: "Your receiver {url} answers again",
}

TEXTS = {
    NoticeKind.FAILING: """\
Callbacks to this URL have failed since {since}:

{url}

The last attempt: {reason}

Nothing is lost: events wait, and single attempts are made until your receiver
answers. Then all that waits is sent. You get one more mail if it still fails
after 24 hours, and one when it answers again.
""",
    NoticeKind.STILL_FAILING: """\
Callbacks to this URL have failed since {since}, for more than 24 hours:

{url}

The last attempt: {reason}

Events whose retry schedule ends are not attempted any more by themselves;
they can be redelivered. You get no further mail before your receiver answers
again.
""",
    NoticeKind.RECOVERED: """\
This URL has answered callbacks again since {since}:

{url}

What waited is being sent. Events whose retry schedule has ended meanwhile can
be redelivered.
""",
}

UNKNOWN_REASON = "it is not known how it failed."


class NoticeMails:
    """Composes notices from *sender*, an address perhaps with a name; empty for files."""

    def __init__(self, sender: str, clock: Clock) -> None:
        self._envelope = Envelope(sender)
        self._clock = clock

    def compose(self, notice: Notice) -> Mail:
        """The mail of *notice*, whose account has an address."""
        now, id_ = self._clock.now(), f"mail_{new_id()}"
        url = one_line(notice.url)
        subject = subject_of(SUBJECTS[notice.kind].format(url=url))
        letter = self._envelope.letter_to(notice.email or "", subject, id_, now)
        reason = one_line(notice.reason or UNKNOWN_REASON)
        text = TEXTS[notice.kind].format(since=_written(notice.since), url=url, reason=reason)
        letter.message.set_content(text, cte="quoted-printable")
        return letter.mail(notice.account_id, OF_NO_INVOICE)


def _written(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
