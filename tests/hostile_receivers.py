"""
Hostile receivers, in a process of their own.

Each has a port. They run in another process than the test, so that the memory and the stalls that
the test measures are those of the sender. The program takes a folder: it prints the ports as JSON,
and writes the certificate of the trusted authority into the folder.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trustme

HOST = "127.0.0.1"
NAME = "receiver.example"
BODY = b'{"ok": true}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + BODY
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
BOMB = gzip.compress(b"\0" * 20_000_000)


def raw(*lines, status=b"200 OK", body=BODY):
    """An answer with *lines* in its head and with *body*; adds no Content-Length."""
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", body])


def sized(*lines, status=b"200 OK", body=BODY):
    """An answer with *lines* in its head and the right Content-Length."""
    return raw(*lines, b"Content-Length: %d" % len(body), status=status, body=body)


# What is sent once after the request was read, and the expected result: a status, or the outcome
# of a failure, or several of them if the result depends on the timing of the bytes. Then the
# receiver waits until the sender closes the connection.
SAYING = {
    "no answer": ("timeout", b""),
    "half a status line": ("timeout", b"HTTP/1.1 20"),
    "half a head": ("timeout", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n"),
    "half a body": ("timeout", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
    "a body without its length": ("timeout", b"HTTP/1.1 200 OK\r\n\r\n" + BODY),
    "chunks without the last": ("timeout", CHUNKED + b"c\r\n" + BODY + b"\r\n"),
    "half a chunk": ("timeout", CHUNKED + b"c\r\n{"),
    "trailers without an end": ("timeout", CHUNKED + b"0\r\nX: y\r\n"),
    "interim answers only": ("timeout", b"HTTP/1.1 102 Wait\r\n\r\n" * 5),
    "a blank line first": (200, b"\r\n" + OK),
    "early hints": (200, b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" + OK),
    "fifty interim answers": ("malformed", b"HTTP/1.1 102 Wait\r\n\r\n" * 50 + OK),
    "unexpected 100 Continue": (200, b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    "switching protocols": (
        "malformed",
        b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ),
    "200 with Upgrade": (200, sized(b"Upgrade: h2c", b"Connection: Upgrade")),
    "204 with a body": (204, raw(b"Content-Length: 12", status=b"204 No Content")),
    "204 with an empty chunk": (204, b"HTTP/1.1 204 No Content\r\n\r\n0\r\n\r\n"),
    "304 with a body": (304, raw(b"Content-Length: 12", status=b"304 Not Modified")),
    "205 with a body": (205, sized(status=b"205 Reset Content")),
    "unexpected 206": (206, sized(b"Content-Range: bytes 0-11/99", status=b"206 Partial")),
    "a redirect": (302, sized(b"Location: http://169.254.169.254/", status=b"302 Found")),
    "a redirect to a file": (301, sized(b"Location: file:///etc/passwd", status=b"301 Moved")),
    "a redirect to itself": (307, sized(b"Location: /", status=b"307 Again")),
    "a redirect to an invalid URL": (308, sized(b"Location: http://[::1", status=b"308 Moved")),
    "401 with a challenge": (401, sized(b'WWW-Authenticate: Basic realm="x"', status=b"401 No")),
    "407 without a proxy": (407, sized(b"Proxy-Authenticate: Basic", status=b"407 No")),
    "status 000": ("malformed", sized(status=b"000 Nothing")),
    "status 099": ("malformed", sized(status=b"099 Less")),
    "status 600": ("malformed", sized(status=b"600 More")),
    "status 999": ("malformed", sized(status=b"999 Most")),
    "status of four digits": ("malformed", sized(status=b"2000 OK")),
    "status of two digits": ("malformed", sized(status=b"20 OK")),
    "status of letters": ("malformed", sized(status=b"abc OK")),
    "negative status": ("malformed", sized(status=b"-200 OK")),
    "full-width status": ("malformed", sized(status="２００ OK".encode())),
    "no status": ("malformed", b"HTTP/1.1\r\n\r\n"),
    "no reason": (200, sized(status=b"200")),
    "NUL in the reason": (200, sized(status=b"200 O\0K")),
    "latin-1 in the reason": (200, sized(status=b"200 \xe4\xf6\xfc\xff")),
    "HTTP/0.9": ("malformed", BODY),
    "HTML without a head": ("malformed", b"<html><body>hello</body></html>\r\n\r\n"),
    "HTTP/1.9": ("malformed", OK.replace(b"1.1", b"1.9")),
    "HTTP/2.0 in text": (200, OK.replace(b"1.1", b"2.0")),
    "HTTP/2 frames": ("malformed", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80" + b"\0" * 30),
    "a request instead of an answer": ("malformed", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "SSH": ("malformed", b"SSH-2.0-OpenSSH_9.6\r\n"),
    "SMTP": ("malformed", b"220 mail.example ESMTP\r\n"),
    "TLS alert": ("malformed", b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n"),
    "zeros": ("malformed", b"\0" * 5000),
    "every byte value": ("malformed", bytes(range(256)) * 20),
    "ICY": ("malformed", OK.replace(b"HTTP/1.1", b"ICY")),
    "lower-case http": ("malformed", OK.replace(b"HTTP", b"http")),
    "bare line feeds": (200, OK.replace(b"\r\n", b"\n")),
    "bare carriage returns": ("malformed", OK.replace(b"\r\n", b"\r")),
    "no colon": ("malformed", sized(b"nonsense")),
    "space before the colon": ("malformed", sized(b"X : y")),
    "empty header name": ("malformed", sized(b": y")),
    "NUL in a header": ("malformed", sized(b"X: a\0b")),
    "NUL in a header's name": ("malformed", sized(b"X\0: y")),
    "carriage return in a header": ("malformed", sized(b"X: a\rSet-Cookie: b")),
    "latin-1 in headers": (200, sized(b"X: \xe4\xf6\xfc\xff", b"Server: \x80\x81")),
    "UTF-8 header name": ("malformed", sized("Ü: y".encode())),
    "folded header": (200, sized(b"X: a\r\n b")),
    "header of 16,000 bytes": (200, sized(b"X: " + b"y" * 16_000)),
    "250 headers": (200, sized(*[b"X: y"] * 250)),
    "header of 100 KB": ("malformed", sized(b"X: " + b"y" * 100_000)),
    "name of 100 KB": ("malformed", sized(b"X" * 100_000 + b": y")),
    "thousand headers": ("malformed", sized(*[b"X: y"] * 1000)),
    "thousand cookies": ("malformed", sized(*[b"Set-Cookie: a=b"] * 1000)),
    "cookies with long domains": (200, sized(*[b"Set-Cookie: a=b; Domain=." + b"e" * 999] * 40)),
    "two lengths": ("malformed", raw(b"Content-Length: 12", b"Content-Length: 13")),
    "one length twice": ("malformed", raw(b"Content-Length: 12", b"Content-Length: 12")),
    "negative length": ("malformed", raw(b"Content-Length: -1")),
    "signed length": ("malformed", raw(b"Content-Length: +12")),
    "hexadecimal length": ("malformed", raw(b"Content-Length: 0xc")),
    "length of letters": ("malformed", raw(b"Content-Length: twelve")),
    "length beyond 64 bits": ("malformed", raw(b"Content-Length: " + b"9" * 40)),
    "length of 5000 digits": ("malformed", raw(b"Content-Length: " + b"9" * 5000)),
    "no length given": ("malformed", raw(b"Content-Length:")),
    "list of lengths": ("malformed", raw(b"Content-Length: 12, 12")),
    "length and chunks": (
        "malformed",
        raw(b"Content-Length: 12", b"Transfer-Encoding: chunked"),
    ),
    "chunked twice": ("malformed", raw(b"Transfer-Encoding: chunked, chunked")),
    "length too short": (200, raw(b"Content-Length: 5")),
    "chunk size of letters": ("malformed", CHUNKED + b"xyz\r\n"),
    "negative chunk": ("malformed", CHUNKED + b"-1\r\n"),
    "chunk beyond 64 bits": ("malformed", CHUNKED + b"fffffffffffffffff\r\n"),
    "huge chunk announced": ("timeout", CHUNKED + b"7fffffffffffff\r\n" + BODY),
    "chunk longer than its size": ("malformed", CHUNKED + b"2\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunks with line feeds": ("malformed", CHUNKED + b"c\n" + BODY + b"\n0\n\n"),
    "trailers": (200, CHUNKED + b"c\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n"),
    "trailer that is a length": (
        "malformed",
        CHUNKED + b"c\r\n" + BODY + b"\r\n0\r\nContent-Length: 9\r\n\r\n",
    ),
    "gzip bomb": (200, sized(b"Content-Encoding: gzip", body=BOMB)),
    "gzip as transfer encoding": ("timeout", raw(b"Transfer-Encoding: gzip", body=BOMB[:999])),
    "invalid gzip": (200, sized(b"Content-Encoding: gzip")),
    "unknown encoding": (200, sized(b"Content-Encoding: zstd, br, x")),
    "not a charset": (200, sized(b"Content-Type: application/json; charset=\xff")),
    "Retry-After of 400 digits": (503, sized(b"Retry-After: " + b"9" * 400, status=b"503 Busy")),
    "negative Retry-After": (503, sized(b"Retry-After: -1", status=b"503 Busy")),
    "Retry-After in year 9999": (
        429,
        sized(b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", status=b"429 Slow"),
    ),
    "Retry-After of letters": (503, sized(b"Retry-After: \xff\xfe", status=b"503 Busy")),
    "two Retry-After headers": (
        503,
        sized(b"Retry-After: 1", b"Retry-After: 9", status=b"503 Busy"),
    ),
    "JSON of a million brackets": (200, sized(body=b"[" * 60_000)),
    "a second answer behind the first": (200, OK + b"HTTP/1.1 410 Gone\r\n\r\n"),
    "garbage behind the answer": (200, OK + b"\0" * 5000),
    "an empty body": (200, EMPTY),
    "refusal without an end": (410, b"HTTP/1.1 410 Gone\r\nContent-Length: 100\r\n\r\nx"),
}

# What is sent once before the receiver closes the connection.
CLOSING = {
    "close without an answer": ("unreachable", b""),
    "close in the status line": ("unreachable", b"HTTP/1.1 20"),
    "close in the head": ("unreachable", b"HTTP/1.1 200 OK\r\nContent-Le"),
    "close before the body": ("malformed", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"),
    "close in the body": ("malformed", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"),
    "close in a chunk": ("malformed", CHUNKED + b"c\r\n{"),
    "close before the last chunk": ("malformed", CHUNKED + b"c\r\n" + BODY + b"\r\n"),
    "close after an interim answer": ("unreachable", b"HTTP/1.1 102 Wait\r\n\r\n"),
    "close ends the body": (200, b"HTTP/1.0 200 OK\r\n\r\n" + BODY),
    "close at once after the answer": (200, OK),
}

# What is sent once, and what is then sent without end.
FLOODING = {
    "body without end": (200, ENDLESS, b"x" * 65536),
    "body without length or end": (200, b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
    "headers without end": ("malformed", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 9999),
    "cookies without end": ("malformed", b"HTTP/1.1 200 OK\r\n", b"Set-Cookie: a=b\r\n" * 4000),
    "header without end": ("malformed", b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
    "header name without end": ("malformed", b"HTTP/1.1 200 OK\r\n", b"y" * 65536),
    "line feeds without end": ("malformed", b"", b"\n" * 65536),
    "interim heads and blank lines without end": (
        "malformed",
        b"",
        b"HTTP/1.1 102 Wait\r\n\r\n" + b"\r\n" * 32000,
    ),
    "garbage behind a 204 without end": (
        204,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"\r\n\r\n" * 9999,
    ),
    "reason without end": ("malformed", b"HTTP/1.1 200 ", b"y" * 65536),
    "version without end": ("malformed", b"HTTP/", b"1" * 65536),
    "interim answers without end": ("malformed", b"", b"HTTP/1.1 102 Wait\r\n\r\n" * 3000),
    "hints without end": ("malformed", b"", b"HTTP/1.1 103 H\r\nLink: </a>\r\n\r\n" * 2000),
    "blank lines without end": ("malformed", b"", b"\r\n" * 32768),
    "zeros without end": ("malformed", b"", b"\0" * 65536),
    "tiny chunks without end": (("malformed", 200), CHUNKED, b"1\r\nx\r\n" * 9999),
    "chunk extension without end": ("malformed", CHUNKED + b"1;", b"y" * 65536),
    "chunk size without end": ("malformed", CHUNKED, b"0" * 65536),
    "trailers without end": ("malformed", CHUNKED + b"0\r\n", b"X: y\r\n" * 9999),
    "gzip without end": (
        200,
        ENDLESS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
        BOMB,
    ),
    "answers without end": ((200, "malformed"), OK, OK * 1000),
    "refusal with a body without end": (503, ENDLESS.replace(b"200 OK", b"503 Busy"), b"x" * 65536),
}


async def request_read(reader):
    """Read one request."""
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(len(b'{"paid": true}'))


async def until_closed(reader):
    """Wait until the sender closes the connection."""
    while await reader.read(65536):
        pass


async def say(text, reader, writer):
    """Answer *text*, and wait."""
    await request_read(reader)
    writer.write(text)
    await until_closed(reader)


async def close(text, reader, writer):
    """Answer *text*, and close the connection."""
    await request_read(reader)
    writer.write(text)
    await writer.drain()
    writer.close()


async def flood(head, part, reader, writer):
    """Answer *head*, then *part* without end."""
    await request_read(reader)
    writer.write(head)
    while True:
        writer.write(part)
        await writer.drain()


async def reset(text, reader, writer):
    """Answer *text*, if anything, and reset the connection."""
    await request_read(reader)
    if text:
        writer.write(text)
        await writer.drain()
    no_lingering = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
    writer.transport.abort()


async def reset_unread(reader, writer):
    """Reset the connection before the request was read."""
    no_lingering = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
    writer.transport.abort()


async def close_unread(reader, writer):
    """Close the connection before the request was read."""
    writer.close()


async def never_read(reader, writer):
    """Accept the connection and read nothing."""
    writer.transport.pause_reading()
    await asyncio.Event().wait()


async def answer_unread(reader, writer):
    """Answer before the request was read."""
    writer.write(OK)
    await until_closed(reader)


async def half_close(reader, writer):
    """Half-close the connection in the middle of the answer."""
    await request_read(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{")
    writer.write_eof()
    await until_closed(reader)


async def drip(head, part, reader, writer):
    """Answer *head*, then *part* without end, a hundred times per second."""
    await request_read(reader)
    writer.write(head)
    while True:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.01)


async def spell(reader, writer):
    """Send a valid answer byte by byte."""
    await request_read(reader)
    for byte in OK:
        writer.write(bytes([byte]))
        await writer.drain()
    await until_closed(reader)


SPECIAL = {
    "reset without an answer": ("unreachable", partial(reset, b"")),
    "reset in the body": (
        "malformed",
        partial(reset, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
    ),
    "reset before the request": ("unreachable", reset_unread),
    "close before the request": ("unreachable", close_unread),
    "nothing is read": ("timeout", never_read),
    "answer before the request": (200, answer_unread),
    "half-close in the body": ("malformed", half_close),
    "byte by byte": (200, spell),
    "drip of a body": ("timeout", partial(drip, ENDLESS, b"x")),
    "drip of a head": ("timeout", partial(drip, b"HTTP/1.1 200 OK\r\nX: ", b"x")),
    "drip of headers": (
        ("timeout", "malformed"),
        partial(drip, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    ),
    "drip of interim answers": (
        ("timeout", "malformed"),
        partial(drip, b"", b"HTTP/1.1 102 Wait\r\n\r\n"),
    ),
    "drip of chunks": ("timeout", partial(drip, CHUNKED, b"1\r\nx\r\n")),
    "drip of blank lines": ("timeout", partial(drip, b"", b"\r\n")),
}

TABLE = {
    **{name: (kind, partial(say, text)) for name, (kind, text) in SAYING.items()},
    **{name: (kind, partial(close, text)) for name, (kind, text) in CLOSING.items()},
    **{name: (kind, partial(flood, *texts)) for name, (kind, *texts) in FLOODING.items()},
    **SPECIAL,
}
"""The expected result and the behaviour of each receiver in plain HTTP."""


# --- TLS


async def plain(text, reader, writer):
    """Answer the first bytes of a handshake with *text*."""
    await reader.read(1)
    writer.write(text)
    await until_closed(reader)


# Receivers without TLS at an https:// URL, and expected words of the detail.
NO_TLS = {
    "plain HTTP": ("does not speak TLS", partial(plain, OK)),
    "garbage": ("does not speak TLS", partial(plain, b"\0" * 999)),
    "an alert": ("asks for a client certificate", partial(plain, b"\x15\x03\x01\x00\x02\x02\x28")),
    "another alert": (
        "tlsv1 alert internal error",
        partial(plain, b"\x15\x03\x01\x00\x02\x02\x50"),
    ),
    "an old version": ("TLS 1.2 or newer", partial(plain, b"\x15\x03\x01\x00\x02\x02\x46")),
    "an unknown name": ("does not know the name", partial(plain, b"\x15\x03\x01\x00\x02\x02\x70")),
    "half a record": ("no complete answer within", partial(plain, b"\x16\x03\x03\x40\x00\x02")),
    "a record without end": (
        "handshake failed",
        partial(plain, b"\x16\x03\x03\xff\xff" + b"\0" * 70_000),
    ),
    "silence": ("no complete answer within", partial(plain, b"")),
}


def contexts(authority):
    """TLS contexts with valid and invalid certificates; expected words of the detail, or None."""
    unknown = trustme.CA()
    past, future = datetime(2020, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)

    def context(issuer=authority, name=NAME, newest=None, **validity):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer.issue_cert(name, **validity).configure_cert(made)
        if newest:
            made.set_ciphers("ALL:@SECLEVEL=0")
            made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            made.maximum_version = newest
        return made

    asking = context()
    asking.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(asking)
    return {
        "good": (None, context()),
        "TLS 1.2": (None, context(newest=ssl.TLSVersion.TLSv1_2)),
        "expired": ("expired", context(not_after=past)),
        "not yet valid": (
            "not yet valid",
            context(not_before=future, not_after=future.replace(year=2091)),
        ),
        "another name": ("not valid for 'receiver.example'", context(name="other.example")),
        "a wildcard too wide": ("not valid for", context(name="*.example")),
        "an address": ("not valid for", context(name=HOST)),
        "an unknown authority": ("intermediate certificate", context(issuer=unknown)),
        # These close the connection without the alert that others send.
        "TLS 1.1": ("no connection", context(newest=ssl.TLSVersion.TLSv1_1)),
        "asks for a certificate": ("connection was lost", asking),
    }


async def serve(folder):
    """Serve all receivers until standard input ends."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(Path(folder, "authority.pem"))
    ports, details = {}, {}
    for name, (_, behaviour) in TABLE.items():
        ports[name] = await listening(behaviour)
    for name, (words, behaviour) in NO_TLS.items():
        ports["TLS: " + name] = await listening(behaviour)
        details["TLS: " + name] = words
    for name, (words, context) in contexts(authority).items():
        ports["TLS: " + name] = await listening(partial(say, OK), context)
        details["TLS: " + name] = words
    print(json.dumps({"ports": ports, "details": details}), flush=True)  # noqa: T201 -- a program
    await asyncio.to_thread(sys.stdin.read)


async def listening(behaviour, tls=None):
    """The port on which each connection gets *behaviour*."""

    async def serve_one(reader, writer):
        with suppress(OSError, asyncio.IncompleteReadError):
            await behaviour(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve_one, HOST, 0, ssl=tls)
    SERVERS.append(server)
    return server.sockets[0].getsockname()[1]


SERVERS: list[asyncio.Server] = []

if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
