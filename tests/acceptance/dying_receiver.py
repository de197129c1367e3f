"""
A receiver that dies while it answers: `python -m tests.acceptance.dying_receiver PORT PIECE`.

It reads one request to its end, sends a part of an answer, and ends like after a kill -9.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PIECES = {
    "nothing": b"",
    "half-a-head": HEAD,
    "half-a-body": HEAD + b'Content-Length: 12\r\n\r\n{"ok":',
    "endless-chunks": HEAD + b'Transfer-Encoding: chunked\r\n\r\nc\r\n{"ok": true}\r\n',
    "half-a-refusal": b'HTTP/1.1 503 Busy\r\nContent-Length: 12\r\n\r\n{"ok":',
}


def main():
    """Read one request, send the part of an answer, and end."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        sys.stderr.write("listening\n")
        connection, _ = listener.accept()
        with connection:
            read_request(connection)
            connection.sendall(PIECES[sys.argv[2]])
            os.kill(os.getpid(), signal.SIGKILL)


def read_request(connection):
    """Read the head and the whole body, because unread bytes would cause a reset."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(65536)


if __name__ == "__main__":
    main()
