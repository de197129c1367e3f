"""
Every setting, declared once, and read once from INVOICES_* variables into one frozen object.

First the functions that parse values, then the settings: each field of `Settings` is one. A start
with wrong settings reports every error at once, unknown names included, each with the form that is
expected or the nearest known name.
"""

import difflib
import os
import re
import sys
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.utils import getaddresses, parseaddr
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from environs import Env, EnvValidationError
from environs.exceptions import EnvError
from marshmallow import ValidationError
from marshmallow.fields import Boolean, Integer
from marshmallow.validate import OneOf, Range

from schemas.money import CURRENCIES
from service.errors import SettingsError
from service.web.addresses import EVERY_ADDRESS

PREFIX = "INVOICES_"

# How values are written, in settings and in options of commands. Every function raises ValueError
# with a sentence that names the expected form.

Network = IPv4Network | IPv6Network

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)", re.ASCII)

DURATION_MAX = timedelta(days=3650)

ENCRYPTION_KEY_BYTES = 32

NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)


def parse_hosts(text: str) -> tuple[str, ...]:
    """One or more host names or addresses, separated by commas."""
    hosts = tuple(part.strip().removeprefix("[").removesuffix("]") for part in text.split(","))
    if not all(hosts):
        raise ValueError(
            "must name an address, such as 127.0.0.1, or 0.0.0.0 for all of them; several are "
            "separated by commas."
        )
    return hosts


def parse_public_url(text: str) -> str:
    """How users reach the service: an absolute http(s) URL, kept without a trailing slash."""
    if "@" in text:
        # Do not show the URL itself: it may hold a password.
        raise ValueError("must hold no @: everyone can read it, so no user and no password.")
    # Paths of the service are appended to it, and become headers: nothing may need an escape.
    if re.fullmatch(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?", text):
        try:
            parts = urlsplit(text)
            if parts.hostname and parts.port != 0:
                return text.rstrip("/")
        except ValueError:
            pass  # a port above 65535, or half a bracket
    raise ValueError(f"{text!r} is not a URL such as https://invoices.example.com.")


def parse_api_url(text: str) -> str:
    """As a public URL; an empty text is none."""
    return parse_public_url(text) if text else text


def parse_proxy(text: str) -> str:
    """`http://host:port` of a proxy, perhaps with `user:password@`; an empty text is none."""
    if not text:
        return text
    try:
        parts = urlsplit(text)
        is_proxy = parts.scheme == "http" and parts.hostname and parts.port
        is_proxy = is_proxy and parts.path in {"", "/"} and not parts.query + parts.fragment
    except ValueError:
        is_proxy = False
    if not is_proxy:
        # Do not show the URL itself: it may hold a password.
        raise ValueError(
            "is not a URL such as http://proxy.internal:3128 or "
            "http://user:password@proxy.internal:3128; http:// is the only way to the proxy."
        )
    return text


_SMTP_SCHEMES = ("smtp", "smtp+starttls", "smtps")


def parse_smtp_url(text: str) -> str:
    """`smtp+starttls://user:password@host:587`, `smtps://…` or `smtp://…`; empty is none."""
    if not text:
        return text
    try:
        parts = urlsplit(text)
        is_server = parts.scheme in _SMTP_SCHEMES and parts.hostname and parts.port != 0
        is_server = is_server and parts.path in {"", "/"} and not parts.query + parts.fragment
        is_server = is_server and bool(parts.username) == bool(parts.password)
    except ValueError:
        is_server = False
    if not is_server:
        # Do not show the URL itself: it may hold a password.
        raise ValueError(
            "is not a URL such as smtp+starttls://user:password@smtp.example.com:587, "
            "smtps://user:password@smtp.example.com or smtp://127.0.0.1:1025; signs such as @ in "
            "a password are percent-encoded."
        )
    return text


def parse_sender(text: str) -> str:
    """One address, perhaps with a name before it: `Acme Inc. <billing@acme.example>`."""
    try:
        parsed = Address(addr_spec=parseaddr(text)[1]) if text.isprintable() else None
    except (HeaderParseError, ValueError, IndexError):
        parsed = None
    is_one = len(getaddresses([text])) == 1
    if text and not (parsed and is_one and parsed.username and parsed.domain):
        raise ValueError(f"{text!r} is not an address such as Acme Inc. <billing@acme.example>.")
    return text


def parse_folder(text: str) -> Path:
    """A folder."""
    if not text:
        raise ValueError("must name a folder.")
    return Path(text)


def parse_database_url(text: str) -> str:
    """`sqlite:///file`, `sqlite:////absolute/file` or `postgresql://…`: without a driver's name."""
    if text.startswith("sqlite:///") and text != "sqlite:///":
        if text.endswith(":memory:"):
            raise ValueError("would lose everything at the end; name a file.")
        return text
    if text.startswith(("postgresql://", "postgres://")):
        _check_postgres_url(text)
        return text
    # Show none of it: it may hold a password.
    raise ValueError(
        "is not a database this version can use; it looks like "
        "sqlite:///invoices.db, sqlite:////data/invoices.db or "
        "postgresql://user:password@host:5432/invoices."
    )


def _check_postgres_url(text: str) -> None:
    """Raise ValueError where the driver would take a part of the password for something else."""
    authority, rest = re.fullmatch(r"\w+://([^/?#]*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if authority.count("@") > 1 or re.search("[@#]", rest):
        raise ValueError(
            "has a character in it that must be percent-encoded: in user and password write %40 "
            "for @, %2F for /, %3F for ? and %23 for #."
        )
    for host in authority.rpartition("@")[2].split(","):
        if not re.fullmatch(r"([\w.%-]*|\[[\w:.%]+\])(:[0-9]{1,5})?", host):
            raise ValueError(
                "has a host or a port that cannot be read; a / in the password, for example, must "
                "be percent-encoded (%2F)."
            )
    fields_ = rest.partition("?")[2].split("&")
    if "?" in rest and not all(re.fullmatch(r"\w+=.*", one) for one in fields_):
        raise ValueError("has parameters after the ? that are not of the form name=value.")
    # The driver passes them on as they are, and the connection fails with an error of our code.
    ports = re.findall(r":([0-9]+)(?:,|$)", authority.rpartition("@")[2])
    ports += [port for one in fields_ if one.startswith("port=") for port in one[5:].split(",")]
    if not all(re.fullmatch("[0-9]{0,5}", port) and 1 <= int(port or 1) <= 65535 for port in ports):
        raise ValueError("has a port that is not a number from 1 to 65535.")


def parse_duration(text: str) -> timedelta:
    """A duration such as `500ms`, `15s`, `5m`, `2h` or `30d`, of ten years at most."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 15s, 5m, 2h or 30d.")
    seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > DURATION_MAX.total_seconds():
        raise ValueError(f"{text!r} is longer than {DURATION_MAX.days}d.")
    return timedelta(seconds=seconds)


def parse_deadline(text: str) -> timedelta:
    """A duration above zero."""
    length = parse_duration(text)
    if not length:
        raise ValueError(f"{text!r} must be longer than zero.")
    return length


def parse_durations(text: str) -> tuple[timedelta, ...]:
    """Durations separated by commas; an empty text is none."""
    return tuple(parse_duration(part) for part in text.split(",") if part.strip())


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR form separated by commas, such as `10.0.0.0/8,fd00::/8`."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{error}; networks look like 10.0.0.0/8,fd00::/8.") from None


def parse_nat64_prefixes(text: str) -> tuple[IPv6Network, ...]:
    """IPv6 prefixes of the lengths that can hold an IPv4 address (RFC 6052, section 2.2)."""
    networks = parse_networks(text)
    prefixes = tuple(one for one in networks if isinstance(one, IPv6Network))
    if wrong := [one for one in networks if one.version == 4 or one.prefixlen not in NAT64_LENGTHS]:
        raise ValueError(
            f"{wrong[0]} is no translation prefix: those are IPv6 networks of /32, /40, /48, /56, "
            "/64 or /96, such as 2001:db8:64::/96."
        )
    return prefixes


def parse_currency(text: str) -> str:
    """An ISO 4217 currency code in capitals."""
    if text not in CURRENCIES:
        raise ValueError(f"{text!r} is not an ISO 4217 currency code such as USD.")
    return text


def parse_encryption_keys(text: str) -> tuple[str, ...]:
    """One or more keys of 32 bytes in URL-safe base64, separated by commas."""
    keys = tuple(part.strip() for part in text.split(",") if part.strip())
    for number, key in enumerate(keys, start=1):
        if not _is_encryption_key(key):
            # Do not show the key itself: it may be a real one with a typing error.
            raise ValueError(
                f"key {number} is not 32 bytes in URL-safe base64; "
                "make one with: invoices encryption-key"
            )
    return keys


def _is_encryption_key(key: str) -> bool:
    try:
        # Strictly: otherwise two keys with a blank between them would be read as the first one.
        return len(b64decode(key.encode(), b"-_", validate=True)) == ENCRYPTION_KEY_BYTES
    except ValueError:
        return False


# The settings.


@dataclass(frozen=True, slots=True)
class Setting:
    """How a field of `Settings` is read, and what is said about it in docs and commands."""

    parse: Callable[[str], Any]
    default: str
    """The default as it would be written in the environment."""
    meaning: str
    """Meaning, unit and danger; the page about settings has it word for word."""
    bounds: Range | OneOf | None


def _setting(
    default: Any,
    parse: Callable[[str], Any],
    meaning: str,
    *,
    bounds: Range | OneOf | None = None,
    is_secret: bool = False,
) -> Any:
    """
    A field that is a setting.

    *default* is a value, or a text that *parse* reads. *bounds* go with `int`, `bool` and `str`,
    which are parsed by environs; the functions above check bounds themselves.
    """
    is_text = isinstance(default, str)
    text = default if is_text else str(default).lower()
    return field(
        default=parse(default) if is_text else default,
        repr=not is_secret,
        metadata={"setting": Setting(parse, text, meaning, bounds)},
    )


def _between(low: int, high: int) -> Range:
    return Range(low, high, error="{input} is not between {min} and {max}.")


def _one_of(*choices: str) -> OneOf:
    return OneOf(choices, error="{input!r} is not one of {choices}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    The settings of the service. A field is read from INVOICES_ and its name in capitals.

    A new setting is one field here, its section in docs/settings.md, and the code that uses it.
    """

    host: tuple[str, ...] = _setting(
        "127.0.0.1",
        parse_hosts,
        "Where to listen: host names or IP addresses, separated by commas. 0.0.0.0 is every IPv4 "
        "address, :: every address of both families. With --dev, everyone who reaches one of them "
        "can send invoices and make the service call hosts of your network.",
    )
    port: int = _setting(8080, int, "TCP port to listen on, 1 to 65535.", bounds=_between(1, 65535))
    public_url: str = _setting(
        "http://127.0.0.1:8080",
        parse_public_url,
        "URL under which users reach the service, http:// or https:// without a query: a servers "
        "entry of the OpenAPI document. A path in it is the prefix that a proxy in front removes; "
        "all links of the service begin with it. If it is not set, it is made from the first "
        "INVOICES_HOST (localhost for 0.0.0.0 and ::) and INVOICES_PORT.",
    )
    connection_limit: int = _setting(
        512,
        int,
        "Connections from clients that may be open at once in one process, 1 to 10000. The limit "
        "of open files of the process must be above the sum of this and "
        "INVOICES_CALLBACK_CONCURRENCY.",
        bounds=_between(1, 10_000),
    )
    idle_timeout: timedelta = _setting(
        "30s",
        parse_deadline,
        "How long a connection may wait for a request, and a request for the end of its headers, "
        "a duration above zero. A proxy in front must close idle connections sooner; else it "
        "sometimes sends a request on a connection that is being closed, and answers 502.",
    )
    body_limit: int = _setting(
        64 * 1024,
        int,
        "Largest request body in bytes, 4096 to 16777216. Every connection may hold one body in "
        "memory, so clients can occupy this times INVOICES_CONNECTION_LIMIT.",
        bounds=_between(4096, 2**24),
    )
    body_timeout: timedelta = _setting(
        "10s",
        parse_deadline,
        "How long a request body may take to arrive, a duration above zero. A client that sends "
        "slowly occupies a connection for this long.",
    )
    database_url: str = _setting(
        "sqlite:///invoices.db",
        parse_database_url,
        "Database: sqlite:///relative/file, sqlite:////absolute/file or "
        "postgresql://user:password@host:5432/name. A relative file is another database in "
        "another working directory, and SQLite does not work on network file systems. The "
        "connection to a PostgreSQL host that is not this machine uses TLS (sslmode=require), "
        "unless the URL names another sslmode.",
        is_secret=True,
    )
    database_prepared_statements: bool = _setting(
        True,
        bool,
        "Whether PostgreSQL prepares each statement once and keeps it, true or false. Behind a "
        "pooler that gives a connection to another client after each transaction and does not "
        "support prepared statements, true makes statements fail.",
    )
    retention: timedelta = _setting(
        "30d",
        parse_duration,
        "How long delivered and dead deliveries are kept, a duration. Then they are removed, and "
        "can no longer be read or redelivered.",
    )
    currency: str = _setting(
        "USD",
        parse_currency,
        "ISO 4217 code of the currency of invoices that name none. After a change, the same "
        "request means another invoice: sent again, it is a conflict (409).",
    )
    sandbox_delay: timedelta = _setting(
        "500ms",
        parse_duration,
        "How long the sandbox takes from sending an invoice to collecting it, a duration.",
    )
    collector: Literal["sandbox", "stripe"] = _setting(
        "sandbox",
        str,
        "What collects the money, sandbox or stripe. sandbox moves none. With stripe, invoices of "
        "an account without keys of Stripe are refused (invoices accounts stripe NAME).",
        bounds=_one_of("sandbox", "stripe"),
    )
    stripe_api_url: str = _setting(
        "https://api.stripe.com",
        parse_public_url,
        "Where Stripe is, an http:// or https:// URL. It is sent the keys of all accounts: name "
        "another one for tests only.",
    )
    stripe_poll_interval: timedelta = _setting(
        "60s",
        parse_deadline,
        "How often Stripe is asked about each session that can be paid, a duration above zero. A "
        "payment whose webhook was lost is noticed that late. Stripe allows an account 25 to 100 "
        "calls a second: below the number of its open sessions divided by that, all are late.",
    )
    smtp_url: str = _setting(
        "",
        parse_smtp_url,
        "Mail server that takes the invoices for customers: "
        "smtp+starttls://user:password@host:587, smtps://user:password@host:465, or smtp:// "
        "without encryption. If it is not set, mails become files in INVOICES_MAIL_OUTBOX.",
        is_secret=True,
    )
    smtp_allow_plaintext: bool = _setting(
        False,
        bool,
        "Whether smtp:// may lead to another machine than this one, true or false. Everyone on the "
        "network path can then read the mails, the pay links in them and the password.",
    )
    mail_from: str = _setting(
        "",
        parse_sender,
        "Address from which invoices are mailed, perhaps with a name: "
        "Acme Inc. <billing@acme.example>. Needed with INVOICES_SMTP_URL. The mail server must "
        "accept it as the sender, else it refuses all mails.",
    )
    mail_outbox: Path = _setting(
        "outbox",
        parse_folder,
        "Folder in which mails become .eml files while INVOICES_SMTP_URL is not set. Every file "
        "has the link with which its invoice is paid. They are not removed.",
    )
    mail_retry_schedule: tuple[timedelta, ...] = _setting(
        "1m,5m,30m,2h,4h,8h,16h,24h,24h",
        parse_durations,
        "Delays after each attempt at a mail that was deferred, durations separated by commas. "
        "After the last one the mail is undeliverable.",
    )
    encryption_key: tuple[str, ...] = _setting(
        "",
        parse_encryption_keys,
        "Key that encrypts the signing secrets, the keys of pay links and the keys of Stripe in "
        "the database: 32 bytes in URL-safe base64. Several are separated by commas: the first "
        "encrypts, all decrypt. Without it all of them are lost, and everyone who has it and the "
        "database can sign as you, open the pages of your invoices and use your keys of Stripe: "
        "keep it as safe as the database, but apart from it. If it is not set, SQLite has a key "
        "in a file beside the database, made at the first start; PostgreSQL needs it.",
        is_secret=True,
    )
    rotation_overlap: timedelta = _setting(
        "24h",
        parse_duration,
        "How long an old key or signing secret stays valid after a rotation without --overlap, a "
        "duration. A leaked key is valid for this long: rotate it with --overlap 0s.",
    )
    rate_limit: int = _setting(
        1000,
        int,
        "Requests per second that an account may make, 0 to 1000000; 0 is no limit. Each process "
        "counts for itself, so N processes behind one address allow N times as many.",
        bounds=_between(0, 1_000_000),
    )
    rate_burst: int = _setting(
        2000,
        int,
        "Requests that an account may make at once before INVOICES_RATE_LIMIT applies, 1 to "
        "1000000. Below the number of an account's connections, some of them are refused although "
        "the account keeps to its rate.",
        bounds=_between(1, 1_000_000),
    )
    account_attempt_rate: int = _setting(
        2000,
        int,
        "Attempts that an account may begin in a second in one process, 0 to 1000000; 0 is no "
        "bound. What exceeds it waits. After a pause it may begin as many at once.",
        bounds=_between(0, 1_000_000),
    )
    account_open_deliveries: int = _setting(
        1_000_000,
        int,
        "Pending deliveries that an account may have, 0 to 1000000000; 0 is no bound. At the bound "
        "its invoices with a callback_url are refused. Invoices of other processes are noticed "
        "after ten seconds, so it may be exceeded by what they accept in that time.",
        bounds=_between(0, 1_000_000_000),
    )
    retry_schedule: tuple[timedelta, ...] = _setting(
        "5s,5m,30m,2h,5h,10h,14h,20h,24h",
        parse_durations,
        "Delays after each failed attempt, durations separated by commas; the first attempt is "
        "immediate. After the last one the delivery is dead (exhausted), and is attempted again "
        "only if its account asks for it.",
    )
    callback_timeout: timedelta = _setting(
        "15s",
        parse_deadline,
        "Deadline of one attempt, from the lookup of the name to the end of the answer, a duration "
        "above zero. A lease is ten seconds longer: as long as a delivery waits at most if its "
        "process ended without a trace.",
    )
    callback_concurrency: int = _setting(
        256,
        int,
        "Attempts in flight in one process, 1 to 10000. Each is an open connection: the limit of "
        "open files of the process must be well above it.",
        bounds=_between(1, 10_000),
    )
    origin_concurrency: int = _setting(
        16,
        int,
        "Attempts in flight to one origin (scheme, host and port) in one process, 1 to 10000. "
        "Near INVOICES_CALLBACK_CONCURRENCY, one slow receiver delays all others.",
        bounds=_between(1, 10_000),
    )
    callback_allow: tuple[Network, ...] = _setting(
        "",
        parse_networks,
        "Networks in CIDR form, separated by commas, that may be called although the policy denies "
        "them. Everyone who can send invoices can make the service send POST requests to every "
        "address in them.",
    )
    callback_nat64_prefixes: tuple[IPv6Network, ...] = _setting(
        "",
        parse_nat64_prefixes,
        "Prefixes by which your network translates IPv6 to IPv4, besides 64:ff9b::/96: IPv6 "
        "networks in CIDR form, separated by commas. An address in them is judged by the IPv4 "
        "address that it holds. If one is missing here, names may lead through it to private "
        "addresses.",
    )
    callback_proxy: str = _setting(
        "",
        parse_proxy,
        "HTTP proxy through which all callbacks leave, http://host:port or "
        "http://user:password@host:port. It must permit CONNECT to numeric addresses: the service "
        "looks names up itself, and asks for the address that the policy approved. The proxy's own "
        "address is not judged.",
        is_secret=True,
    )
    callback_require_https: bool = _setting(
        True,
        bool,
        "Whether callback URLs with http:// are refused, true or false; --dev sets it to false. "
        "Over http://, everyone on the network path can read the event and forge the answer.",
    )
    receiver_contract: Literal["strict", "lenient"] = _setting(
        "strict",
        str,
        "strict: an answer counts only if it is 2xx and its body is what the callback declares. "
        "lenient: any 2xx counts, and a mismatch is only noted on the attempt; a parked domain or "
        "a login page that answers 200 then counts as delivered.",
        bounds=_one_of("strict", "lenient"),
    )
    drain_timeout: timedelta = _setting(
        "20s",
        parse_duration,
        "How long a stop waits for collections and attempts in flight, a duration. Wait at least "
        "five seconds longer before you kill the process; else what is in flight waits until its "
        "lease runs out.",
    )
    api_url: str = _setting(
        "",
        parse_api_url,
        "Where commands that ask a running service find it, such as https://invoices.example.com. "
        "If it is not set, why reads the database, and listen looks for a service on this machine, "
        "at INVOICES_PUBLIC_URL. The service itself ignores it.",
    )
    api_key: str = _setting(
        "",
        str,
        "As whom these commands ask: the key of an account, or one that permits nothing but to "
        "listen. With --dev the service needs none. The service itself ignores it.",
        is_secret=True,
    )
    log_format: Literal["json", "text"] = _setting(
        "json",
        str,
        "Format of the log, json or text. If it is not set, it is text where standard error is a "
        "terminal.",
        bounds=_one_of("json", "text"),
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info",
        str,
        "Least severe level that is logged: debug, info, warning or error. Above info, the log "
        "does not say what was accepted and delivered.",
        bounds=_one_of("debug", "info", "warning", "error"),
    )

    @property
    def is_embedded(self) -> bool:
        """Whether the database is a file of this machine, rather than a server."""
        return self.database_url.startswith("sqlite:")

    @property
    def database_file(self) -> Path:
        """The file of an embedded database."""
        return Path(self.database_url.removeprefix("sqlite:///").partition("?")[0])

    @property
    def key_file(self) -> Path:
        """Where the encryption key of an embedded database is, if none is set."""
        return self.database_file.with_name(self.database_file.name + ".key")

    @property
    def public_path(self) -> str:
        """The path of the public URL, without a slash at the end: what a proxy removes."""
        return urlsplit(self.public_url).path


def declared_settings() -> dict[str, Setting]:
    """Every setting by its variable, in the order of the fields."""
    return {PREFIX + one.name.upper(): one.metadata["setting"] for one in fields(Settings)}


def read_settings() -> Settings:
    """
    The settings of this process, from its environment.

    Raises:
        SettingsError: with one sentence for every variable that cannot be used.
    """
    env = Env(eager=False, prefix=PREFIX)
    links = service_links()
    values: dict[str, Any] = {
        one.name: one.default if PREFIX + one.name.upper() in links else _read(env, one)
        for one in fields(Settings)
    }
    errors = [*_unknown_names(links), *_errors_of(env)]
    if not errors:
        errors = _errors_of_mail(values)
    if errors:
        raise SettingsError(errors)
    if f"{PREFIX}PUBLIC_URL" not in os.environ:
        host = "localhost" if values["host"][0] in EVERY_ADDRESS else values["host"][0]
        values["public_url"] = f"http://{url_host(host)}:{values['port']}"
    if f"{PREFIX}LOG_FORMAT" not in os.environ and sys.stderr.isatty():
        values["log_format"] = "text"
    return Settings(**values)


def url_host(host: str) -> str:
    """*host* as it is written in a URL."""
    return f"[{host}]" if ":" in host else host


_LINK = re.compile(
    r"INVOICES_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|INVOICES_(\w+_)?(PORT=(tcp|udp|sctp)://.*|NAME=/.*|ENV_\w+=.*)",
    re.DOTALL,
)


def service_links() -> list[str]:
    """
    The INVOICES_* variables that are no settings but were set by Kubernetes or Docker.

    Both describe the services that a container may call in its environment, with names that begin
    with those of the services: `invoices`, or `invoices-db`.
    """
    return sorted(
        name
        for name, text in os.environ.items()
        if name.startswith(PREFIX) and _LINK.fullmatch(f"{name}={text}")
    )


def _read(env: Env, declared: Field[Any]) -> Any:
    setting: Setting = declared.metadata["setting"]
    parser = f"setting_{setting.parse.__name__}"
    if not hasattr(env, parser):
        env.add_parser(parser, _collecting(_PARSERS.get(setting.parse, setting.parse)))
    read = getattr(env, parser)
    return read(declared.name.upper(), declared.default, bounds=setting.bounds)


_PARSERS: Mapping[Callable[[str], Any], Callable[[str], Any]] = {
    int: Integer().deserialize,
    bool: Boolean().deserialize,
}
"""What reads the types whose own functions take other forms, or say nothing about what is wrong."""


def _collecting(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """
    *parse* within bounds, with its ValueError in the form in which Env collects errors.

    A value that comes from a file ends with a line break, in secrets of Kubernetes for example.
    """

    def parse_or_collect(value: Any, bounds: Range | OneOf | None) -> Any:
        if not isinstance(value, str):
            # A default is a value already.
            return value
        try:
            parsed = parse(value.strip())
        except ValidationError:
            raise
        except ValueError as error:
            raise EnvError(str(error)) from error
        return bounds(parsed) if bounds else parsed

    return parse_or_collect


def _unknown_names(links: Sequence[str]) -> list[str]:
    known = {one.name.upper() for one in fields(Settings)}
    given = {name for name in os.environ if name.startswith(PREFIX)} - set(links)
    errors = []
    for name in sorted(name.removeprefix(PREFIX) for name in given):
        if name in known or name.startswith("TEST_"):
            continue
        nearest = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {PREFIX}{nearest[0]}?" if nearest else "."
        errors.append(f"{PREFIX}{name}: there is no such setting{advice}")
    return errors


def _errors_of_mail(values: Mapping[str, Any]) -> list[str]:
    """What does not go together in the settings of mails."""
    if not values["smtp_url"]:
        return []
    errors = []
    if not values["mail_from"]:
        errors.append(
            f"{PREFIX}MAIL_FROM: is needed with {PREFIX}SMTP_URL, such as "
            "Acme Inc. <billing@acme.example>."
        )
    parts = urlsplit(values["smtp_url"])
    is_local = re.fullmatch(r"localhost|127\.[0-9.]+|::1", parts.hostname or "")
    if parts.scheme == "smtp" and not is_local and not values["smtp_allow_plaintext"]:
        errors.append(
            f"{PREFIX}SMTP_URL: smtp:// to another machine is not encrypted. Use smtp+starttls:// "
            f"or smtps://, or set {PREFIX}SMTP_ALLOW_PLAINTEXT=true."
        )
    return errors


def _errors_of(env: Env) -> list[str]:
    try:
        env.seal()
    except EnvValidationError as error:
        messages = cast("dict[str, list[str]]", error.error_messages)
        return [
            f"{name}: {_what_is_wrong(name, texts)}" for name, texts in sorted(messages.items())
        ]
    return []


def _what_is_wrong(name: str, texts: Sequence[str]) -> str:
    reasons = " ".join(map(str, texts))
    if os.environ.get(name, "").strip():
        return reasons
    # Templates of deployments set variables of which they have no value.
    default = declared_settings()[name].default
    return f"{reasons} It is empty: leave the variable out to get the default, {default}."
