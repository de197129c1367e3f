"""The outbox: mails become files in a folder, to be looked at or taken away by a program."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from service.collection.sending import Sending
from service.domain.mail import Mail
from service.domain.outcomes import MailOutcome
from service.errors import SendingRefused


class Outbox:
    """Implements `sending.Transport`: writes each mail to `{id}.eml` in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, mail: Mail) -> Sending:
        """Write the file; it is complete and on disk when this returns, and never seen in part."""
        try:
            await asyncio.to_thread(self._write, mail)
        except OSError as error:
            raise SendingRefused(
                f"The folder of INVOICES_MAIL_OUTBOX cannot be written to: {error}"
            ) from error
        return Sending(MailOutcome.ACCEPTED)

    def _write(self, mail: Mail) -> None:
        # Mails hold names, addresses and pay links: nobody else may read them.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._folder / f".{mail.id}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(mail.body)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._folder / f"{mail.id}.eml")
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
