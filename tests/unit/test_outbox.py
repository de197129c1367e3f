import pytest

from service.collection.outbox import Outbox
from service.domain.mail import Mail
from service.domain.outcomes import MailOutcome
from service.errors import SendingRefused
from tests.clock import START


def a_mail(body=b"Subject: x\r\n\r\n\xff", id_="mail_1"):
    """A mail with *body*."""
    return Mail(
        account_id="dev",
        id=id_,
        invoice_key="k",
        recipient="richie@example.com",
        subject="x",
        message_id="<x@y>",
        body=body,
        created_at=START,
    )


async def test_a_mail_becomes_a_file(tmp_path):
    """The file has exactly the bytes of the mail, and only its owner may read it."""
    folder = tmp_path / "deep" / "outbox"

    sending = await Outbox(folder).send(a_mail())

    assert MailOutcome.ACCEPTED is sending.outcome
    (file,) = folder.iterdir()
    assert ("mail_1.eml", a_mail().body) == (file.name, file.read_bytes())
    assert (0o600, 0o700) == (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777)


async def test_a_mail_that_is_sent_twice_is_one_file(tmp_path):
    """After a crash the same mail replaces its own file, also a half-written one."""
    (tmp_path / ".mail_1.tmp").write_bytes(b"half of a")

    await Outbox(tmp_path).send(a_mail())
    await Outbox(tmp_path).send(a_mail())

    assert ["mail_1.eml"] == [file.name for file in tmp_path.iterdir()]


async def test_a_folder_that_cannot_be_made_is_for_the_operator(tmp_path):
    """A failure of the disk says nothing about the mail, and names the setting."""
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(SendingRefused, match="INVOICES_MAIL_OUTBOX"):
        await Outbox(tmp_path / "file" / "outbox").send(a_mail())
