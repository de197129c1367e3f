"""A real mail server of aiosmtpd, which fails as a test tells it to."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from contextlib import asynccontextmanager

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

PASSWORD = "p@ss/word"


class MailServer:
    """
    The handler of the server: it keeps what it takes.

    *answers* are, by command (`MAIL`, `RCPT`, `DATA`), what it answers instead of 250. It hangs or
    closes the connection at the commands in *hangs_at* and *closes_at*; `closes_at` of `DATA` takes
    the mail first.
    """

    def __init__(self):
        self.bodies = []
        self.recipients = []
        self.answers = {}
        self.hangs_at = set()
        self.closes_at = set()
        self.port = None

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        """Take the sender."""
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return await self._answer("MAIL", server)

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        """Take the recipient."""
        envelope.rcpt_tos.append(address)
        return await self._answer("RCPT", server)

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        """Take the mail."""
        if "DATA" not in self.answers:
            self.bodies.append(envelope.original_content)
            self.recipients.append(list(envelope.rcpt_tos))
        return await self._answer("DATA", server)

    async def _answer(self, command, server):
        if command in self.hangs_at:
            await asyncio.Event().wait()
        if command in self.closes_at:
            server.transport.abort()
        return self.answers.get(command, "250 OK")


@asynccontextmanager
async def serving(tls=None, *, is_implicit=False, needs_login=False, takes_utf8=True):
    """
    Run a mail server on a port of its own inside the block; gives its `MailServer`.

    *tls* is the context of STARTTLS, or of the whole connection if it *is_implicit*.
    """
    handler, running = MailServer(), set()

    def authenticate(_server, _session, _envelope, mechanism, data):
        is_known = isinstance(data, LoginPassword) and data.password == PASSWORD.encode()
        return AuthResult(success=is_known, handled=False)

    def make():
        with warnings.catch_warnings():
            # aiosmtpd warns of logins without TLS.
            warnings.simplefilter("ignore")
            smtp = SMTP(
                handler,
                hostname="mail.test",
                enable_SMTPUTF8=takes_utf8,
                tls_context=None if is_implicit else tls,
                authenticator=authenticate,
                auth_required=needs_login,
                auth_require_tls=False,
            )
        running.add(smtp)
        return smtp

    context: ssl.SSLContext | None = tls if is_implicit else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0, ssl=context)
    handler.port = server.sockets[0].getsockname()[1]
    try:
        yield handler
    finally:
        server.close()
        tasks = [one._handler_coroutine for one in running if one._handler_coroutine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
