"""
Mails by SMTP, over a connection of their own each.

This module alone decides what a failure means: try again later, this customer has no such mailbox,
or nobody's mail can leave. The last one says nothing about the mail, and needs the operator.
"""

import asyncio
import ssl
from datetime import timedelta
from enum import Enum
from typing import Self
from urllib.parse import unquote, urlsplit

import aiosmtplib
from aiosmtplib import SMTPException, SMTPResponseException

from service.collection.sending import Sending
from service.domain.mail import Mail
from service.domain.outcomes import MailOutcome
from service.errors import SendingRefused
from service.values import value

TIMEOUT = timedelta(seconds=60)
"""How long one attempt may take: servers check a mail before they answer."""

DETAIL_MAX = 500

NO_UTF8 = "The mail server does not take addresses beyond ASCII (SMTPUTF8)."

_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}

_FOR_US = frozenset({530, 534, 535, 538})
"""Codes that ask for another way to log in, whatever they answer."""


class _Phase(Enum):
    """How far an attempt has come."""

    CONNECT = "connecting"
    SENDER = "the sender's address"
    RECIPIENT = "the customer's address"
    DATA = "the mail"


@value()
class SmtpServer:
    """The mail server, and how it is reached."""

    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None

    @classmethod
    def of(cls, url: str) -> Self:
        """The server of a *url* that `settings.parse_smtp_url` has accepted."""
        parts = urlsplit(url)
        return cls(
            parts.scheme,
            parts.hostname or "",
            parts.port or _PORTS[parts.scheme],
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
        )

    def __repr__(self) -> str:
        return f"<SmtpServer {self.host}:{self.port}>"


class Smtp:
    """Implements `sending.Transport`: hands mails to *server*, from the address *sender*."""

    def __init__(
        self,
        server: SmtpServer,
        sender: str,
        *,
        timeout: timedelta = TIMEOUT,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._server = server
        self._sender = sender
        self._timeout = timeout
        self._tls_context = tls_context

    async def send(self, mail: Mail) -> Sending:
        """Hand *mail* over, in `TIMEOUT` at most; see `sending.Transport`."""
        phase = _Phase.CONNECT
        client = self._client()
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                await client.connect()
                options, encoding = list[str](), "ascii"
                if not mail.recipient.isascii():
                    await client.ehlo()
                    if not client.supports_extension("smtputf8"):
                        return Sending(MailOutcome.REJECTED, None, NO_UTF8)
                    options, encoding = ["SMTPUTF8"], "utf-8"
                phase = _Phase.SENDER
                await client.mail(self._sender, options=options, encoding=encoding)
                phase = _Phase.RECIPIENT
                await client.rcpt(mail.recipient, encoding=encoding)
                phase = _Phase.DATA
                response = await client.data(mail.body)
        except (SMTPException, OSError) as error:
            return _classify(phase, error)
        finally:
            client.close()
        return Sending(MailOutcome.ACCEPTED, response.code, _shown(response.message))

    def _client(self) -> aiosmtplib.SMTP:
        server = self._server
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.scheme == "smtps",
            # Never None, which means "if it is offered": whoever is on the way could strip it.
            start_tls=server.scheme == "smtp+starttls",
            timeout=self._timeout.total_seconds(),
            tls_context=self._tls_context,
        )


def _classify(phase: _Phase, error: SMTPException | OSError) -> Sending:
    """
    What *error* in *phase* means.

    Raises:
        SendingRefused: if it says nothing about the mail, and needs the operator.
    """
    if isinstance(error, SMTPResponseException):
        return _classify_answer(phase, error)
    if _is_for_us(error):
        raise SendingRefused(f"The mail server cannot be used: {error}") from error
    # The connection was refused, was lost, or nothing came in time. After DATA the server may have
    # the mail all the same: then it gets it again, under the same Message-ID.
    return Sending(MailOutcome.DEFERRED, None, _NO_ANSWER[phase])


_NO_ANSWER = {
    phase: f"The mail server did not answer, while {phase.value} was sent."
    for phase in (_Phase.SENDER, _Phase.RECIPIENT, _Phase.DATA)
} | {_Phase.CONNECT: "The mail server could not be reached."}


def _classify_answer(phase: _Phase, error: SMTPResponseException) -> Sending:
    is_about_mail = phase in {_Phase.RECIPIENT, _Phase.DATA} and error.code not in _FOR_US
    if 400 <= error.code < 500:
        return Sending(MailOutcome.DEFERRED, error.code, _shown(error.message))
    if is_about_mail and error.code >= 500:
        return Sending(MailOutcome.REJECTED, error.code, _shown(error.message))
    if error.code < 0:
        # The connection ended in the middle of an answer.
        return Sending(MailOutcome.DEFERRED, None, _NO_ANSWER[phase])
    raise SendingRefused(
        f"The mail server refuses {phase.value}: {error.code} {_shown(error.message)}"
    ) from error


def _is_for_us(error: BaseException) -> bool:
    """Whether *error* is about TLS: a certificate, or STARTTLS that is not offered."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return type(error) is SMTPException


def _shown(message: str) -> str:
    """The words of a server, on one line and bounded."""
    return " ".join(message.split())[:DETAIL_MAX]
