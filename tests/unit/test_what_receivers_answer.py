"""Answers of real receivers, byte for byte, with their outcome and their detail."""

import asyncio
import gzip
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.delivery.attempt import log_fields
from service.delivery.egress import EgressPolicy
from service.delivery.failures import NoAnswer
from service.delivery.sender import OutgoingRequest, Sender
from service.development import DEV_NETWORKS
from tests.rows import a_delivery, a_step, an_event, an_invoice, failed

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Built once, because loading the authorities of the system is slow."""

BODY = b'{"ok": true}'
NOT_EXPECTED = 'the body of the answer should be {"ok": true}, but '


def answering(*lines, status=b"200 OK", body=BODY):
    """An answer with *lines* in its head and the right length."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, length, b"", body])


NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\n" + BODY + b"\r\n0\r\n\r\n"


@asynccontextmanager
async def receiving(parts, connections, sent):
    """A receiver that sends *parts* as separate packets to every request; yields its port."""
    serving = set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        connections.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(0.01 if len(parts) > 1 else 0)
                sent.release()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The sender may close the connection.
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for one in serving:
            one.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()


async def answers_of(*parts, count=1):
    """The results of *count* requests, and the number of connections that the sender has made."""
    connections, sent = [], asyncio.Semaphore(0)
    async with (
        receiving(parts, connections, sent) as port,
        Sender(EgressPolicy(DEV_NETWORKS), timeout_seconds=5, tls=NO_TLS) as sender,
    ):
        request = OutgoingRequest(f"http://127.0.0.1:{port}/", "POST", {}, b"{}")
        answers = []
        for _ in range(count):
            answers.append(await sender.send(request))
            # The bytes that follow the answer arrive now.
            await sent.acquire()
            await asyncio.sleep(0.01)
        return answers, len(connections)


def read(answer, *, is_strict=True):
    """Outcome, status and detail of *answer*, as they are stored."""
    if isinstance(answer, NoAnswer):
        return (answer.outcome.value, answer.status_code, answer.detail)
    found = INVOICE_NOTIFICATION.classify(
        answer.status_code,
        answer.body,
        is_truncated=answer.is_truncated,
        is_strict=is_strict,
        location=answer.location,
        content_encoding=answer.content_encoding,
    )
    return (found.outcome.value, answer.status_code, found.detail)


# Bytes after a complete answer

BEHIND_204 = [b"0\r\n\r\n", BODY, b"\r\n", b"x", OK := answering()]


@pytest.mark.parametrize("split", [False, True], ids=["one packet", "two packets"])
@pytest.mark.parametrize("rest", BEHIND_204, ids=["chunk", "body", "CRLF", "letter", "answer"])
def test_204_with_a_body_counts_as_204(run, rest, split):
    """A 204 with a body is invalid in strict mode, and delivered in lenient mode."""
    parts = [NO_CONTENT, rest] if split else [NO_CONTENT + rest]

    (first, second), connection_count = run(answers_of(*parts, count=2))

    assert ("invalid_answer", 204, f"{NOT_EXPECTED}is empty") == read(first) == read(second)
    assert ("delivered", 204) == read(first, is_strict=False)[:2]
    assert 2 == connection_count


@pytest.mark.parametrize("header", [b"Content-Length: 12", b"Transfer-Encoding: chunked"])
def test_204_with_a_declared_body_closes_its_connection(run, header):
    """A 204 that declares a body closes its connection: a late body is never an answer."""
    head = b"HTTP/1.1 204 No Content\r\n" + header + b"\r\n\r\n"

    (first, second), connection_count = run(answers_of(head, count=2))

    assert (204, 204, 2) == (first.status_code, second.status_code, connection_count)


def test_204_without_a_body_keeps_its_connection(run):
    """After a 204 without a body the connection is reused."""
    assert 1 == run(answers_of(NO_CONTENT, count=3))[1]


@pytest.mark.parametrize("split", [False, True], ids=["one packet", "two packets"])
@pytest.mark.parametrize("rest", [b"x", b"\r\n", b"0\r\n\r\n", OK])
@pytest.mark.parametrize(
    "complete",
    [
        OK,
        OK.replace(b"\r\n", b"\n"),
        answering(b"Connection: close"),
        b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" + OK,
    ],
    ids=["length", "line feeds", "close", "interim"],
)
def test_complete_answer_counts_whatever_follows(run, complete, rest, split):
    """Bytes after a complete answer close the connection, and the answer counts."""
    parts = [complete, rest] if split else [complete + rest]

    answers, connection_count = run(answers_of(*parts, count=2))

    assert [("delivered", 200, None)] * 2 == [read(one) for one in answers]
    assert 2 == connection_count


@pytest.mark.parametrize("rest", [b"x", b"0\r\n\r\n"])
def test_chunked_answer_counts_whatever_follows(run, rest):
    """Bytes after the last chunk do not change the answer."""
    answers, connection_count = run(answers_of(CHUNKED + rest, count=2))

    assert [("delivered", 200, None)] * 2 == [read(one) for one in answers]
    assert 2 == connection_count


def test_refusal_counts_whatever_follows(run):
    """A 410 with bytes after it still counts as 410."""
    ((answer,), _) = run(answers_of(answering(status=b"410 Gone", body=b"no") + b"\n\nx"))

    assert ("refused", 410, "the receiver answered 410") == read(answer)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_answer_may_arrive_in_packets_of_any_size(run, size):
    """The end of the head is found with every size of packets."""
    text = b"\r\nHTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" + OK + b"x"
    parts = [text[at : at + size] for at in range(0, len(text), size)]

    ((answer,), _) = run(answers_of(*parts))

    assert ("delivered", 200, None) == read(answer)


@pytest.mark.parametrize("split", [False, True], ids=["one packet", "two packets"])
def test_malformed_chunk_ends_the_attempt_at_once(run, split):
    """A malformed chunk ends the attempt at once, and the status is recorded."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [head, b"x\r\n"] if split else [head + b"x\r\n"]
    detail = "the answer is not valid HTTP: a chunk of its body has a size that is not a number"

    ((answer,), _) = run(answers_of(*parts))

    assert ("malformed", 200, detail) == read(answer)


# Heads


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Security-Policy: " + b"y" * 4_500],
        [b"X: " + b"y" * 16_000],
        [b"X: y"] * 70,
        [b"X: y"] * 250,
        [b"Set-Cookie: " + b"y" * 4_000] * 4,
    ],
    ids=["4,500 bytes", "16,000 bytes", "70 headers", "250 headers", "16 KiB"],
)
def test_large_heads_are_accepted(run, lines):
    """An answer with long headers or many cookies is accepted."""
    ((answer,), _) = run(answers_of(answering(*lines)))

    assert ("delivered", 200, None) == read(answer)


@pytest.mark.parametrize(
    ("detail", "lines"),
    [
        (
            "the answer is not valid HTTP: a header or the status line is longer than 16 KiB",
            [b"X: " + b"y" * 17_000],
        ),
        ("the answer is not valid HTTP: it has more than 256 headers", [b"X: y"] * 300),
        (
            "the headers of the answer take more than 64 KiB or 16 interim answers",
            [b"X: " + b"y" * 10_000] * 7,
        ),
    ],
)
def test_heads_have_a_limit(run, detail, lines):
    """A head above a limit is malformed, and the detail names the limit."""
    ((answer,), _) = run(answers_of(answering(*lines)))

    assert ("malformed", None, detail) == read(answer)


# Details


@pytest.mark.parametrize(
    ("detail", "answer"),
    [
        (
            "the receiver answered 308; redirects are not followed; it points to https://a.example",
            answering(b"Location: https://a.example", status=b"308 Permanent Redirect"),
        ),
        (
            "the receiver answered 302; redirects are not followed; it points to /login?next=%2F",
            answering(b"Location: /login?next=%2F", status=b"302 Found"),
        ),
        (
            "the receiver answered 301",
            answering(status=b"301 Moved Permanently"),
        ),
        (
            "the receiver answered 307",
            answering(b"Location:", status=b"307 Temporary Redirect"),
        ),
        ("the receiver answered 304", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        (
            "the receiver answered 503",
            answering(b"Location: https://a.example", status=b"503 Busy"),
        ),
    ],
)
def test_the_detail_of_a_redirect_has_its_target(run, detail, answer):
    """The detail of a redirect names the target."""
    ((given,), _) = run(answers_of(answer))

    assert ("refused", detail) == read(given)[::2]


def test_target_of_a_redirect_is_short_and_printable(run):
    """For every Location, the detail is one line of limited, printable text."""
    location = b"Location: https://a.example/\x01\xff\xe2\x80\xa8\xed\xa0\x80" + b"y" * 5_000

    ((answer,), _) = run(answers_of(answering(location, status=b"302 Found")))
    detail = read(answer)[2]

    assert "; it points to https://a.example/" in detail
    assert detail.isprintable()
    assert detail.encode()
    assert 270 > len(detail)


def test_target_of_a_redirect_is_not_logged():
    """The target is not logged, because its path may contain a secret of the callback URL."""
    detail = "the receiver answered 301; redirects are not followed; it points to https://a/secret"

    logged = log_fields(
        replace(failed(a_delivery(a_step(an_invoice(), event=an_event()))), detail=detail)
    )

    assert "the receiver answered 301; redirects are not followed" == logged["detail"]


@pytest.mark.parametrize(
    ("encoding", "answer"),
    [
        ("gzip", answering(b"Content-Encoding: gzip", body=gzip.compress(BODY, mtime=0))),
        ("gzip", answering(body=gzip.compress(BODY, mtime=0))),
        ("gzip", answering(b"Content-Encoding: gzip", body=gzip.compress(bytes(10**8)))),
        ("br", answering(b"Content-Encoding: BR", body=b'\x0b\x05\x80{"ok": true}\x03')),
        ("deflate", answering(b"Content-Encoding: deflate", body=b"x\x9c\xabV\xca\xcf")),
        ("zstd", answering(body=b"\x28\xb5\x2f\xfd\x04")),
        ("deflate, br", answering(b"Content-Encoding: deflate, br", body=b"\x8b")),
    ],
)
def test_compressed_answer_is_named(run, encoding, answer):
    """A compressed body is not decompressed, and the detail names the encoding."""
    ((given,), _) = run(answers_of(answer))

    assert ("invalid_answer", 200, f"the answer is compressed ({encoding})") == read(given)


@pytest.mark.parametrize(
    ("detail", "answer"),
    [
        (f"{NOT_EXPECTED}is empty", answering(body=b"")),
        (f"{NOT_EXPECTED}is empty", answering(b"Content-Encoding: gzip", body=b"")),
        (f"{NOT_EXPECTED}is OK", answering(b"Content-Encoding: gzip", body=b"OK")),
        (f"{NOT_EXPECTED}is OK", answering(b"Content-Encoding: identity", body=b"OK")),
    ],
)
def test_wrong_content_encoding_is_not_reported(run, detail, answer):
    """If the body is not compressed, the detail describes the body and not the header."""
    ((given,), _) = run(answers_of(answer))

    assert ("invalid_answer", 200, detail) == read(given)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"x"])
def test_acknowledgement_is_read_with_any_content_encoding(run, encoding):
    """An uncompressed acknowledgement counts, whatever its Content-Encoding is."""
    ((answer,), _) = run(answers_of(answering(b"Content-Encoding: " + encoding)))

    assert ("delivered", 200, None) == read(answer)


def test_byte_order_mark_is_ignored(run):
    """A byte order mark before the JSON is ignored, as RFC 8259, section 8.1, permits."""
    ((answer,), _) = run(answers_of(answering(body=b"\xef\xbb\xbf" + BODY)))

    assert ("delivered", 200, None) == read(answer)


@pytest.mark.parametrize(
    ("detail", "body"),
    [
        ("is OK", b"OK"),
        ("is empty", b" \r\n"),
        ('is {"ok": false, "why": "it\'s late"}', b'{"ok": false, "why": "it\'s late"}'),
        ("is <html> <b>sale</b>\N{REPLACEMENT CHARACTER}", b"<html>\n\t<b>sale</b>\0"),
        ("begins with " + "x" * 99 + "\u2026", b"x" * 101),
        ("is \N{REPLACEMENT CHARACTER}{", b"\xef\xbb\xbf{"),
    ],
)
def test_body_is_shown_as_text(run, detail, body):
    """The detail shows the beginning of the body as one line of text, not as Python bytes."""
    ((answer,), _) = run(answers_of(answering(body=body)))

    assert ("invalid_answer", 200, NOT_EXPECTED + detail) == read(answer)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_json_in_another_encoding_is_named(run, encoding, mark):
    """Two or four bytes for a character are named, instead of shown as what they are not."""
    body = (mark + BODY.decode()).encode(encoding)
    ((answer,), _) = run(answers_of(answering(body=body)))

    detail = f"is in {encoding[:6].upper()} and not in UTF-8"
    assert ("invalid_answer", 200, NOT_EXPECTED + detail) == read(answer)


@pytest.mark.parametrize(
    ("clause", "answer"),
    [
        ("it does not begin with a status line such as HTTP/1.1 200 OK", b"SSH-2.0-OpenSSH_9\r\n"),
        ("it does not begin with a status line such as HTTP/1.1 200 OK", BODY),
        ("it does not begin with a status line such as HTTP/1.1 200 OK", b"HTTP/1.1 2000 X\r\n"),
        (
            "a header has no colon, or a name with a character that is not valid",
            answering(b"nonsense"),
        ),
        ("a header has a value with a character that is not valid", answering(b"X: a\0b")),
        ("a header has a carriage return in its value", answering(b"X: a\rb")),
        ("its Content-Length is not a number", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        ("its Content-Length is not a number", b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n"),
        ("it has Content-Length twice", answering(b"Content-Length: 12")),
        (
            "it has both Content-Length and Transfer-Encoding",
            answering(b"Transfer-Encoding: chunked"),
        ),
        (
            "a chunk of its body is longer than its size",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n" + BODY,
        ),
    ],
)
def test_the_detail_of_invalid_http_is_a_sentence(run, clause, answer):
    """No detail ends with a colon or contains bytes in the notation of Python."""
    ((given,), _) = run(answers_of(answer))

    assert ("malformed", f"the answer is not valid HTTP: {clause}") == read(given)[::2]
