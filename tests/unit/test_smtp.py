"""Mails by SMTP, to a real server."""

import socket
import ssl
from datetime import timedelta

import pytest
import trustme

from service.collection.smtp import Smtp, SmtpServer
from service.domain.mail import Mail
from service.domain.outcomes import MailOutcome
from service.errors import SendingRefused
from tests.clock import START
from tests.mail_server import PASSWORD, serving

ACCEPTED, DEFERRED, REJECTED = MailOutcome
QUOTED = "p%40ss%2Fword"
BODY = b"From: a@b.example\r\nSubject: x\r\n\r\n.\r\n..dots\r\n\xff\xfe\r\n"


def a_mail(recipient="richie@example.com"):
    """A mail to *recipient*, whose bytes look like the end of a mail."""
    return Mail(
        account_id="dev",
        id="mail_1",
        invoice_key="k",
        recipient=recipient,
        subject="x",
        message_id="<x@y>",
        body=BODY,
        created_at=START,
    )


def smtp_to(server, scheme="smtp", login="", host="127.0.0.1", **options):
    """The transport to *server*."""
    url = f"{scheme}://{login}{host}:{server.port}"
    return Smtp(SmtpServer.of(url), "billing@acme.example", **options)


@pytest.fixture
def authority():
    """A certificate authority that our side trusts."""
    return trustme.CA()


@pytest.fixture
def server_tls(authority):
    """What the server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority):
    """What our side trusts."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_the_bytes_arrive_as_they_are():
    """The server gets exactly the committed bytes, also lines with a dot and bytes above ASCII."""
    async with serving() as server:
        sending = await smtp_to(server).send(a_mail())

    assert (ACCEPTED, 250) == (sending.outcome, sending.code)
    assert [BODY] == server.bodies
    assert [["richie@example.com"]] == server.recipients


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
async def test_a_login_is_encrypted(server_tls, client_tls, scheme):
    """Over TLS the service logs in, with a password that was percent-encoded in the setting."""
    is_implicit = scheme == "smtps"
    async with serving(server_tls, is_implicit=is_implicit, needs_login=True) as server:
        smtp = smtp_to(server, scheme, f"jo:{QUOTED}@", tls_context=client_tls)
        sending = await smtp.send(a_mail())

    assert (ACCEPTED, 1) == (sending.outcome, len(server.bodies))
    assert PASSWORD not in repr(smtp) + repr(SmtpServer.of(f"smtp://jo:{QUOTED}@h"))


@pytest.mark.parametrize(
    ("command", "answer", "outcome", "code"),
    [
        ("MAIL", "451 4.3.0 later", DEFERRED, 451),
        ("RCPT", "450 4.2.1 greylisted", DEFERRED, 450),
        ("RCPT", "452 4.2.2 full", DEFERRED, 452),
        ("RCPT", "550 5.1.1 no such user", REJECTED, 550),
        ("RCPT", "553 5.1.3 bad address", REJECTED, 553),
        ("DATA", "451 4.7.1 later", DEFERRED, 451),
        ("DATA", "552 5.3.4 too large", REJECTED, 552),
        ("DATA", "554 5.7.1 looks like spam", REJECTED, 554),
    ],
)
async def test_an_answer_about_the_mail_is_an_outcome(command, answer, outcome, code):
    """4xx is tried again; 5xx about the address or the mail is for good, in words of the server."""
    async with serving() as server:
        server.answers[command] = answer
        sending = await smtp_to(server).send(a_mail())

    assert (outcome, code) == (sending.outcome, sending.code)
    assert answer[4:].rsplit(" ", 1)[-1] in sending.detail


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
async def test_a_server_that_hangs_is_tried_again(command):
    """A server that does not answer in time costs the deadline, and nothing for good."""
    async with serving() as server:
        server.hangs_at.add(command)
        smtp = smtp_to(server, timeout=timedelta(milliseconds=300))
        sending = await smtp.send(a_mail())

    assert (DEFERRED, None) == (sending.outcome, sending.code)
    assert "did not answer" in sending.detail


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
async def test_a_lost_connection_is_tried_again(command):
    """Also after DATA, when the server may have the mail: it gets the same Message-ID again."""
    async with serving() as server:
        server.closes_at.add(command)
        sending = await smtp_to(server).send(a_mail())

    assert (DEFERRED, None) == (sending.outcome, sending.code)
    assert (command == "DATA") is (len(server.bodies) == 1)


async def test_a_server_that_is_away_is_tried_again():
    """A refused connection is no failure for good."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    smtp = Smtp(SmtpServer.of(f"smtp://127.0.0.1:{port}"), "billing@acme.example")

    sending = await smtp.send(a_mail())

    assert (DEFERRED, "The mail server could not be reached.") == (sending.outcome, sending.detail)


async def test_a_wrong_password_is_for_the_operator(server_tls, client_tls):
    """It says nothing about the mail, and the text does not hold the password."""
    async with serving(server_tls, needs_login=True) as server:
        smtp = smtp_to(server, "smtp+starttls", "jo:wrong%20one@", tls_context=client_tls)
        with pytest.raises(SendingRefused, match="535") as refusal:
            await smtp.send(a_mail())

    assert "wrong" not in str(refusal.value)
    assert [] == server.bodies


async def test_a_missing_login_is_for_the_operator():
    """A server that asks for a login refuses the sender with 530."""
    async with serving(needs_login=True) as server:
        with pytest.raises(SendingRefused, match="530"):
            await smtp_to(server).send(a_mail())


@pytest.mark.parametrize("answer", ["550 5.7.1 you may not send as this", "553 5.7.0 not yours"])
async def test_a_refused_sender_is_for_the_operator(answer):
    """A server that refuses our address refuses every mail."""
    async with serving() as server:
        server.answers["MAIL"] = answer
        with pytest.raises(SendingRefused, match="the sender's address"):
            await smtp_to(server).send(a_mail())


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
async def test_a_certificate_that_is_not_trusted_is_for_the_operator(server_tls, scheme):
    """No mail and no password goes to a server that cannot show who it is."""
    async with serving(server_tls, is_implicit=scheme == "smtps", needs_login=True) as server:
        with pytest.raises(SendingRefused):
            await smtp_to(server, scheme, f"jo:{QUOTED}@").send(a_mail())

    assert [] == server.bodies


async def test_a_stripped_starttls_is_for_the_operator(client_tls):
    """Without the offer of STARTTLS nothing is sent: somebody on the way may have removed it."""
    async with serving() as server:
        smtp = smtp_to(server, "smtp+starttls", tls_context=client_tls)
        with pytest.raises(SendingRefused, match="STARTTLS"):
            await smtp.send(a_mail())

    assert [] == server.bodies


async def test_an_address_beyond_ascii_needs_a_server_that_takes_it():
    """With SMTPUTF8 the mail goes; without it this customer cannot be reached."""
    async with serving() as server:
        assert ACCEPTED is (await smtp_to(server).send(a_mail("jö@example.com"))).outcome
    assert [["jö@example.com"]] == server.recipients

    async with serving(takes_utf8=False) as server:
        sending = await smtp_to(server).send(a_mail("jö@example.com"))
    assert REJECTED is sending.outcome
    assert "SMTPUTF8" in sending.detail
