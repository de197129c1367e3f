"""
The grammar of callback URLs, which is checked on the raw text.

Keeps invariant 8: the URL that was validated is byte for byte the URL that is called. URL libraries
repair what they read: they resolve dots, drop control characters and map full-width digits to
ASCII, so that the address that was checked is not the address that is called. Here nothing is
repaired: the text matches a strict ASCII grammar as it is, or it is refused.

Source: RFC 3986, restricted to URLs that an HTTP client can use without interpretation.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from socket import AF_INET6, inet_ntop
from urllib.parse import quote

import idna

from service.values import value

MAX_CHARACTERS = 8000
"""The longest URL that is called: what every server should take (RFC 9110, section 4.1)."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


@value()
class CallbackUrl:
    """
    A URL that may be called, as it was written.

    *text* is what is sent. *scheme* and *host* are in lower case, an IPv6 *host* is in its shortest
    form without its brackets, a name without a dot at its end, and *port* is the scheme's own where
    the text names none. So every spelling of a server has the same *origin*. *base* is the
    beginning of the text that the caller gave, without a slash at its end; empty if they gave none.
    """

    text: str
    scheme: str
    host: str
    port: int
    base: str = ""

    @property
    def origin(self) -> str:
        """Scheme, host and port, the port always written out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


# The invoices of one receiver usually have the same callback URL.
@lru_cache(maxsize=1024)
def parse_url(text: str) -> CallbackUrl:
    """
    Read *text* as a URL that may be called.

    Raises:
        ValueError: *text* does not match the grammar; str() is a reason for the API user.
    """
    _check_text(text)
    scheme, _, after_scheme = text.partition("://")
    authority = _TARGET.split(after_scheme, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("the URL must not have a user name or password (@)")
    bracketed = _BRACKETED.fullmatch(authority)
    host, _, port = bracketed.groups() if bracketed else authority.partition(":")
    target = after_scheme[len(authority) :]
    if "[" in target or "]" in target:
        raise ValueError("the URL has a square bracket behind its host; write %5B or %5D")
    _check_host(host)
    # The port may be empty (RFC 3986, section 3.2.3).
    if port and (not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535):
        raise ValueError("the port of the URL must be a number from 1 to 65535")
    scheme, host = scheme.lower(), host.lower().removesuffix(".")
    if bracketed:
        # One address can be written in many ways: 0:0:0:0:0:0:0:1 is ::1.
        host = inet_ntop(AF_INET6, IPv6Address(host.strip("[]")).packed)
    return CallbackUrl(text, scheme, host, int(port) if port else _DEFAULT_PORTS[scheme])


def _check_text(text: str) -> None:
    """Check *text* as a whole; the first rule that it breaks is reported."""
    if not text:
        raise ValueError("the URL is empty")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the URL is longer than {MAX_CHARACTERS} characters")
    if foreign := _FOREIGN.search(text):
        raise ValueError(
            f"the URL has {foreign[0]!r} as its character {foreign.start() + 1}; {_remedy(text)}"
        )
    if broken := _BROKEN_TRIPLET.search(text):
        raise ValueError(
            f"the URL has a % as its character {broken.start() + 1}"
            " that two hexadecimal digits do not follow"
        )
    if not _SCHEME.match(text):
        raise ValueError("the URL must begin with http:// or https://")
    if "#" in text:
        raise ValueError("the URL must not have a fragment (#)")


def _remedy(text: str) -> str:
    """How to write *text*: the host in its ASCII form, everything behind it percent-encoded."""
    # Lookalikes of ASCII are not mapped to it: the URL would name another host than was meant.
    if parts := _LIKE_A_URL.fullmatch(text):
        scheme, host, port, target = parts.groups()
        try:
            encoded = host if host.isascii() else idna.encode(host.lower()).decode()
            url = scheme + encoded + port + quote(target, safe=_URL_CHARACTERS)
            if not _FOREIGN.search(url) and (encoded == host or "xn--" in encoded):
                return f"write {parse_url(url).text} instead"
        except ValueError:
            pass
    return "percent-encode what is not a URL character, and write a host in ASCII (xn--…)"


_URL_CHARACTERS = "-._~:/?#[]@!$&'()*+,;=%"
# Outside of this class: blanks, control characters, non-ASCII, and " < > \ ^ ` { | }.
_FOREIGN = re.compile(rf"[^A-Za-z0-9{re.escape(_URL_CHARACTERS)}]")
_LIKE_A_URL = re.compile(
    r"(https?://)([^/?#:@\[\]\\\s]+)(:[0-9]*|)([/?][^\x00-\x1f\x7f-\x9f]*|)", re.IGNORECASE
)
_BROKEN_TRIPLET = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(r"https?://", re.IGNORECASE | re.ASCII)
_TARGET = re.compile(r"[/?]")


def _check_host(host: str) -> None:
    if not host:
        raise ValueError("the URL must name a host")
    if host.startswith("["):
        _check_ipv6(host)
    elif _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        _check_ipv4(host)
    else:
        _check_name(host)


def _check_ipv6(host: str) -> None:
    try:
        IPv6Address(host.removeprefix("[").removesuffix("]"))
    except AddressValueError:
        raise ValueError("the host of the URL is not an IPv6 address in brackets") from None


def _check_ipv4(host: str) -> None:
    # Resolvers read more than this as a number: 127.1, 2130706433 and 0x7f.1 are all loopback.
    if not _IPV4.fullmatch(host):
        raise ValueError(
            "the host of the URL ends in a number and is not an IPv4 address"
            " of four decimal numbers from 0 to 255 without leading zeros"
        )


def _check_name(host: str) -> None:
    # The dot at the end says that the name is complete (RFC 3986, section 3.2.2).
    name = host.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(
            "the host of the URL is not a host name: labels of 1 to 63 letters, digits,"
            " hyphens and underscores with a dot between them, 253 characters at most,"
            " no hyphen first or last in a label"
        )


# No % between the brackets: a zone id names an interface of this machine.
_BRACKETED = re.compile(r"(\[[0-9A-Fa-f:.]*\])(:?)((?<=:).*)?")
_PORT = re.compile(r"[0-9]{1,5}")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def percent_encoded(text: str) -> str:
    """
    *text* with everything encoded but unreserved characters (RFC 3986, section 2.3).

    Raises:
        UnicodeEncodeError: if it has half of a surrogate pair.
    """
    # Most ids need nothing; to have the standard library find that takes 1 % of all instructions
    # for a delivered invoice, which asks twice.
    return text if _UNRESERVED.fullmatch(text) else quote(text, safe="")


_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")
