"""
Translates the errors of lower libraries into one value: the reason why there was no answer.

Only this module does so, for every error of aiohttp, the event loop, TLS or a name server. The
text of the value is shown to the developer of the receiver, and reveals nothing about our network.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import client_exceptions as lower
from aiohttp.http import HttpProcessingError

from service.delivery.connection import (
    HEAD_COUNT_LIMIT,
    HEAD_LIMIT,
    HEAD_LINE_LIMIT,
    UNREAD_LIMIT,
    WIRE_LIMIT,
    AnswerTooLong,
    HeadTooLong,
)
from service.delivery.egress import AddressDenied
from service.domain.delivery import Phases
from service.domain.outcomes import AttemptOutcome
from service.errors import DescriptorsExhausted, SendingPrevented
from service.telemetry.descriptors import RUN_OUT

REASON_LENGTH = 200

CERTIFICATE_ALERTS = ("ALERT_CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE")
"""Parts of OpenSSL errors which mean that the receiver requires a client certificate."""


class ClientCertificateWanted(Exception):
    """The receiver ended the connection because the service sent no client certificate."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """
    There was no usable answer; *detail* says why, to the developer of the receiver.

    *status_code* is set if the head of a 2xx answer arrived and its body did not. *is_connected*
    says whether there was a connection to the origin: only then there is an *address* that it was
    made to, and *phases*. *is_denied* says to the operator alone that
    the policy denied the addresses of a name.

    The detail is the same for a denied address, a name without address and a connection that
    failed: anything else would let API users scan ports and networks through the service.
    """

    outcome: AttemptOutcome
    detail: str
    status_code: int | None = None
    body: None = None
    retry_after: None = None
    is_connected: bool = True
    is_denied: bool = False
    address: str | None = field(default=None, compare=False)
    phases: Phases | None = field(default=None, compare=False)
    head: None = None


def no_answer(failure: Exception, timeout_seconds: float) -> NoAnswer:
    """
    Translate *failure*, which ended a request with a deadline of *timeout_seconds*.

    Raises:
        SendingPrevented: if *failure* is on our side: it says nothing about the receiver.
        Exception: *failure* itself, if it is unknown: it is a defect of the service.
    """
    if isinstance(failure, SendingPrevented):
        raise failure
    if _has_run_out(failure):
        raise DescriptorsExhausted("There is no file descriptor left.") from failure
    cause = _cause(failure)
    known = next((kind for kind in type(cause).__mro__ if kind in FAILURES), None)
    if known is None:
        raise failure
    outcome, text = FAILURES[known]
    return NoAnswer(outcome, text.format(reason=_reason(cause), seconds=timeout_seconds))


_NOT_CONNECTED = (AttemptOutcome.UNREACHABLE, "no connection to the receiver could be made")
_NOT_CALLABLE = (AttemptOutcome.UNREACHABLE, "the URL cannot be called")
_UNTRUSTED = (AttemptOutcome.UNREACHABLE, "the TLS certificate was not accepted: {reason}")
_NO_HANDSHAKE = (AttemptOutcome.UNREACHABLE, "the TLS handshake failed: {reason}")
_LOST = (AttemptOutcome.UNREACHABLE, "the connection was lost before the answer was complete")
_LATE = (AttemptOutcome.TIMEOUT, "there was no complete answer within {seconds:g} s")
_NOT_HTTP = (AttemptOutcome.MALFORMED, "the answer is not valid HTTP: {reason}")
_BROKEN_BODY = (AttemptOutcome.MALFORMED, "the body of the answer is incomplete or not valid HTTP")
_TOO_LONG = (AttemptOutcome.MALFORMED, f"the answer takes more than {WIRE_LIMIT // 1024} KiB")
_HEAD_TOO_LONG = (
    AttemptOutcome.MALFORMED,
    f"the headers of the answer take more than {HEAD_LIMIT // 1024} KiB"
    f" or {UNREAD_LIMIT} interim answers",
)

# The nearest class of the failure decides. All errors of aiohttp are listed, also those of
# features that are switched off (redirects, proxies, Unix sockets, WebSockets, fingerprints): a
# test fails when a release adds one.
FAILURES: Mapping[type[Exception], tuple[AttemptOutcome, str]] = {
    AddressDenied: (AttemptOutcome.BLOCKED, _NOT_CONNECTED[1]),
    lower.ClientConnectorError: _NOT_CONNECTED,
    lower.ClientConnectorDNSError: _NOT_CONNECTED,
    lower.ClientProxyConnectionError: _NOT_CONNECTED,
    lower.UnixClientConnectorError: _NOT_CONNECTED,
    UnicodeError: _NOT_CONNECTED,  # Names that cannot be looked up, such as "." or "a..b".
    lower.InvalidURL: _NOT_CALLABLE,
    lower.InvalidUrlClientError: _NOT_CALLABLE,
    lower.NonHttpUrlClientError: _NOT_CALLABLE,
    lower.ClientConnectorCertificateError: _UNTRUSTED,
    lower.ServerFingerprintMismatch: _UNTRUSTED,
    lower.ClientConnectorSSLError: _NO_HANDSHAKE,
    lower.ClientSSLError: _NO_HANDSHAKE,
    ClientCertificateWanted: (
        AttemptOutcome.UNREACHABLE,
        "the receiver asks for a client certificate",
    ),
    lower.ClientError: _LOST,
    lower.ClientConnectionError: _LOST,
    lower.ClientConnectionResetError: _LOST,
    lower.ClientOSError: _LOST,
    lower.ServerConnectionError: _LOST,
    lower.ServerDisconnectedError: _LOST,
    lower.UploadAbortedError: _LOST,
    OSError: _LOST,
    RuntimeError: _LOST,  # Raised by uvloop and aiohttp for a closed transport.
    TimeoutError: _LATE,
    lower.ServerTimeoutError: _LATE,
    lower.ConnectionTimeoutError: _LATE,
    lower.SocketTimeoutError: _LATE,
    lower.ClientResponseError: _NOT_HTTP,
    lower.ContentTypeError: _NOT_HTTP,
    lower.ClientHttpProxyError: _NOT_HTTP,
    lower.WSServerHandshakeError: _NOT_HTTP,
    lower.WSMessageTypeError: _NOT_HTTP,
    lower.TooManyRedirects: _NOT_HTTP,
    lower.RedirectClientError: _NOT_HTTP,
    lower.InvalidUrlRedirectClientError: _NOT_HTTP,
    lower.NonHttpUrlRedirectClientError: _NOT_HTTP,
    lower.ClientPayloadError: _BROKEN_BODY,
    AnswerTooLong: _TOO_LONG,
    HeadTooLong: _HEAD_TOO_LONG,
    HttpProcessingError: _NOT_HTTP,  # In the body.
}


def _has_run_out(failure: BaseException | None) -> bool:
    """Whether one of the errors behind *failure* is that there are no descriptors."""
    while failure is not None:
        if isinstance(failure, OSError) and (failure.errno in RUN_OUT or _RUN_OUT_IN(str(failure))):
            return True
        wrapped = failure.os_error if isinstance(failure, lower.ClientConnectorError) else None
        failure = wrapped or failure.__cause__
    return False


# Of several addresses that were tried at once, the errors are one text.
_RUN_OUT_IN = re.compile("|".join(rf"\[Errno {number}\]" for number in sorted(RUN_OUT))).search


def _cause(failure: Exception) -> Exception:
    if isinstance(failure, lower.ClientOSError):
        text = str(failure)
        if any(alert in text for alert in CERTIFICATE_ALERTS):
            return ClientCertificateWanted()
    if isinstance(failure, lower.ClientConnectorError):
        denied = failure.os_error
        return denied if isinstance(denied, AddressDenied) else failure
    return failure


# Messages of OpenSSL that are hard to understand -> the text that is shown instead.
_TLS_TEXTS = {
    "WRONG_VERSION_NUMBER": "the port does not speak TLS",
    "TLSV1_ALERT_PROTOCOL_VERSION": "TLS 1.2 or newer is needed",
    "UNSUPPORTED_PROTOCOL": "TLS 1.2 or newer is needed",
    "TLSV1_UNRECOGNIZED_NAME": "the receiver does not know the name in the URL",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the receiver shares no TLS version or cipher with us, or asks"
    " for a client certificate",
    "unable to get local issuer certificate": "unable to get local issuer certificate; its"
    " authority is not commonly known, or the receiver does not send the intermediate certificate",
}

# Pattern of the parser's message -> what is wrong with the answer. The message ends with the bytes
# that the parser refuses, as their repr() in Python.
_HTTP_TEXTS = (
    ("Bad status line", "it does not begin with a status line such as HTTP/1.1 200 OK"),
    ("Invalid header token", "a header has no colon, or a name with a character that is not valid"),
    ("Invalid HTTP header", "a header has a value with a character that is not valid"),
    ("Missing expected LF after header value", "a header has a carriage return in its value"),
    ("Got more than", f"a header or the status line is longer than {HEAD_LINE_LIMIT // 1024} KiB"),
    ("Too many headers", f"it has more than {HEAD_COUNT_LIMIT} headers"),
    ("Duplicate Content-Length", "it has Content-Length twice"),
    ("Transfer-Encoding can't be present", "it has both Content-Length and Transfer-Encoding"),
    ("Content-Length can't be present", "it has both Content-Length and Transfer-Encoding"),
    ("(Empty|Invalid character in) Content-Length", "its Content-Length is not a number"),
    ("Content-Length overflow", "its Content-Length is too large"),
    ("Invalid character in chunk size", "a chunk of its body has a size that is not a number"),
    ("Chunk size overflow", "a chunk of its body has a size that is too large"),
    (".* after chunk size", "the size of a chunk of its body does not end with CRLF"),
    (".* after chunk data", "a chunk of its body is longer than its size"),
)


def _http_text(text: str) -> str:
    """What is wrong with the answer, by the parser's message *text*; unknown ones are quoted."""
    known = (clause for pattern, clause in _HTTP_TEXTS if re.match(pattern, text))
    unknown = re.split(r":\s*(?:b['\"]|\n|$)", text.strip())[0]
    return next(known, f"the parser reports “{unknown}”")


def _reason(failure: Exception) -> str:
    text = str(failure)
    if isinstance(failure, lower.ClientConnectorCertificateError):
        text = getattr(failure.certificate_error, "verify_message", text)
    elif isinstance(failure, lower.ClientSSLError):
        text = getattr(failure.os_error, "reason", text) or text
    elif isinstance(failure, (lower.ClientResponseError, HttpProcessingError)):
        text = _http_text(failure.message)
    text = _TLS_TEXTS.get(text, text)
    return _printable(text.replace("_", " ").lower() if text.isupper() else text)


def _printable(text: str) -> str:
    line = text.strip().partition("\n")[0][:REASON_LENGTH]
    return "".join(letter if letter.isprintable() else "?" for letter in line)
