import dataclasses
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from marshmallow.validate import OneOf, Range

from service.errors import SettingsError
from service.settings import Settings, declared_settings, read_settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=count) for count in (1, 60, 3600, 86400))
ENCRYPTION_KEY = "c2V0dGluZ3MgYXJlIHRlc3RlZCB3aXRoIHRoaXMga2U="
OTHER_ENCRYPTION_KEY = "_-_-dGluZ3MgYXJlIHRlc3RlZCB3aXRoIHRoaXMga2U="
DEFAULTS = {
    "host": ("127.0.0.1",),
    "port": 8080,
    "database_url": "sqlite:///invoices.db",
    "database_prepared_statements": True,
    "public_url": "http://127.0.0.1:8080",
    "currency": "USD",
    "collector": "sandbox",
    "stripe_api_url": "https://api.stripe.com",
    "stripe_poll_interval": MINUTE,
    "retry_schedule": (
        5 * SECOND,
        5 * MINUTE,
        30 * MINUTE,
        2 * HOUR,
        5 * HOUR,
        10 * HOUR,
        14 * HOUR,
        20 * HOUR,
        24 * HOUR,
    ),
    "callback_timeout": 15 * SECOND,
    "callback_concurrency": 256,
    "origin_concurrency": 16,
    "callback_allow": (),
    "callback_nat64_prefixes": (),
    "callback_proxy": "",
    "encryption_key": (),
    "rotation_overlap": 24 * HOUR,
    "rate_limit": 1000,
    "rate_burst": 2000,
    "account_attempt_rate": 2000,
    "account_open_deliveries": 1_000_000,
    "callback_require_https": True,
    "receiver_contract": "strict",
    "sandbox_delay": SECOND / 2,
    "retention": 30 * DAY,
    "drain_timeout": 20 * SECOND,
    "body_limit": 65536,
    "body_timeout": 10 * SECOND,
    "idle_timeout": 30 * SECOND,
    "connection_limit": 512,
    "log_level": "info",
    "api_url": "",
    "api_key": "",
    "smtp_url": "",
    "smtp_allow_plaintext": False,
    "mail_from": "",
    "mail_outbox": Path("outbox"),
    "mail_retry_schedule": (
        *(1 * MINUTE, 5 * MINUTE, 30 * MINUTE),
        *(2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, 24 * HOUR, 24 * HOUR),
    ),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without settings; returns a function that sets some."""
    for name in [name for name in os.environ if name.startswith("INVOICES_")]:
        monkeypatch.delenv(name)

    def set_(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"INVOICES_{name}", value)

    return set_


def errors():
    """The errors of the environment, one message for each."""
    with pytest.raises(SettingsError) as refusal:
        read_settings()
    assert "\n".join(refusal.value.reasons) == str(refusal.value)
    return refusal.value.reasons


# Defaults


def test_no_setting_is_required():
    """An empty environment is valid, and gives the documented defaults."""
    settings = dataclasses.asdict(read_settings())

    settings.pop("log_format")
    assert DEFAULTS == settings


def test_defaults_in_code_and_in_the_environment_are_equal():
    """Settings without arguments equal those of an empty environment."""
    read = read_settings()

    assert read == Settings(log_format=read.log_format)


@pytest.mark.parametrize(("form", "is_terminal"), [("text", True), ("json", False)])
def test_logs_are_text_only_on_a_terminal(monkeypatch, form, is_terminal):
    """The default format of logs is text on a terminal, and JSON otherwise."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)

    assert form == read_settings().log_format


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://localhost:80", "0.0.0.0", "80"),
        ("http://localhost:80", "::", "80"),
        ("http://10.0.0.5:80", "10.0.0.5,::1", "80"),
        ("http://[::1]:8080", "::1", "8080"),
        ("http://localhost:1", "localhost", "1"),
    ],
)
def test_the_public_url_follows_from_the_address(environment, url, host, port):
    """Without a setting, the public URL is built from host and port."""
    environment(HOST=host, PORT=port)

    assert url == read_settings().public_url


def test_settings_cannot_be_changed():
    """Settings are immutable."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_settings().port = 1


# Values


@pytest.mark.parametrize(
    ("field", "expected", "text"),
    [
        ("host", ("0.0.0.0",), "0.0.0.0"),
        ("port", 1, "1"),
        ("port", 65535, "65535"),
        ("database_url", "sqlite:///a.db", "sqlite:///a.db"),
        ("database_url", "sqlite:////data/a.db", "sqlite:////data/a.db"),
        ("database_url", "postgresql://u:p@db:5432/a", "postgresql://u:p@db:5432/a"),
        ("database_url", "postgres:///a?host=/run", "postgres:///a?host=/run"),
        ("database_prepared_statements", False, "false"),
        ("public_url", "https://a.example", "https://a.example/"),
        ("public_url", "https://a.example/b", "https://a.example/b"),
        ("currency", "EUR", "EUR"),
        ("retry_schedule", (), ""),
        ("retry_schedule", (SECOND,), "1s"),
        ("retry_schedule", (SECOND, HOUR), " 1s , 1h "),
        ("callback_timeout", SECOND / 1000, "1ms"),
        ("callback_concurrency", 1, "1"),
        ("origin_concurrency", 10_000, "10000"),
        ("callback_allow", (), ""),
        ("callback_allow", (ip_network("10.0.0.0/8"),), "10.0.0.0/8"),
        (
            "callback_allow",
            (ip_network("10.1.2.3/32"), ip_network("fd00::/8")),
            "10.1.2.3, fd00::/8",
        ),
        ("encryption_key", (), ""),
        ("encryption_key", (ENCRYPTION_KEY,), f" {ENCRYPTION_KEY} "),
        (
            "encryption_key",
            (ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY),
            f"{ENCRYPTION_KEY}, {OTHER_ENCRYPTION_KEY}",
        ),
        ("rotation_overlap", timedelta(0), "0s"),
        ("rotation_overlap", 7 * DAY, "7d"),
        ("rate_limit", 0, "0"),
        ("rate_limit", 1_000_000, "1000000"),
        ("rate_burst", 1, "1"),
        ("rate_burst", 1_000_000, "1000000"),
        ("account_open_deliveries", 0, "0"),
        ("callback_require_https", False, "false"),
        ("callback_require_https", True, "true"),
        ("receiver_contract", "lenient", "lenient"),
        ("sandbox_delay", timedelta(0), "0ms"),
        ("sandbox_delay", SECOND * 3 / 2, "1.5s"),
        ("retention", 365 * DAY, "365d"),
        ("drain_timeout", timedelta(0), "0s"),
        ("body_limit", 4096, "4096"),
        ("body_limit", 16_777_216, "16777216"),
        ("body_timeout", SECOND / 2, "500ms"),
        ("idle_timeout", 5 * MINUTE, "5m"),
        ("connection_limit", 1, "1"),
        ("connection_limit", 10_000, "10000"),
        ("log_format", "json", "json"),
        ("log_format", "text", "text"),
    ],
)
def test_each_setting_is_read(environment, field, expected, text):
    """Each setting is read from its own variable."""
    environment(**{field.upper(): text})

    assert expected == getattr(read_settings(), field)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (SECOND / 4, "250ms"),
        (2 * SECOND, "2s"),
        (3 * MINUTE, "3m"),
        (4 * HOUR, "4h"),
        (5 * DAY, "5d"),
        (90 * MINUTE, "1.5h"),
        (2 * SECOND, " 2s "),
    ],
)
def test_durations_carry_their_unit(environment, expected, text):
    """Units are milliseconds, seconds, minutes, hours and days; fractions are allowed."""
    environment(RETENTION=text)

    assert expected == read_settings().retention


@pytest.mark.parametrize(
    "text",
    ["", "5", "5 s", "-5s", "+5s", "s", "5S", "5sec", "5s5m", "1e3s", ".5s", "5.s", "٥s", "5s,5m"],
)
def test_invalid_duration_is_refused(environment, text):
    """A duration without a unit, or with an unknown unit, is refused."""
    environment(RETENTION=text)

    (error,) = errors()
    assert error.startswith("INVOICES_RETENTION: ")
    assert "500ms, 15s, 5m, 2h or 30d" in error


@pytest.mark.parametrize("field", ["RETRY_SCHEDULE", "SANDBOX_DELAY", "RETENTION"])
@pytest.mark.parametrize("text", ["999999999d", "999999999.999d", "99999999h"])
def test_an_accepted_duration_fits_the_calendar(environment, field, text):
    """A duration that is too long to be added to the current time is not accepted."""
    environment(**{field: text})

    try:
        accepted = getattr(read_settings(), field.lower())
    except SettingsError:
        return
    for duration in accepted if isinstance(accepted, tuple) else (accepted,):
        assert datetime.now(UTC) + duration * 1.2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HOST", ""),
        ("PORT", ""),
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "80.5"),
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "invoices.db"),
        ("DATABASE_URL", "sqlite://invoices.db"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite+aiosqlite:///invoices.db"),
        ("DATABASE_URL", "postgresql+asyncpg://localhost/invoices"),
        ("DATABASE_URL", "postgresql:invoices"),
        ("DATABASE_PREPARED_STATEMENTS", "perhaps"),
        ("DATABASE_URL", "mysql://localhost/invoices"),
        ("DATABASE_URL", "postgresql://u:p/w@host/invoices"),
        ("DATABASE_URL", "postgresql://host:port/invoices"),
        ("DATABASE_URL", "postgresql://host/invoices?sslmode"),
        ("DATABASE_URL", "postgresql://host:65536/invoices"),
        ("DATABASE_URL", "postgresql://[::1]:0/invoices"),
        ("DATABASE_URL", "postgresql://a:1,b:99999/invoices"),
        ("DATABASE_URL", "postgresql:///invoices?host=a&port=99999"),
        ("DATABASE_URL", "postgresql:///invoices?host=a&port=db"),
        ("PUBLIC_URL", "https://user:password@a.example"),
        ("PUBLIC_URL", ""),
        ("PUBLIC_URL", "a.example"),
        ("PUBLIC_URL", "//a.example"),
        ("PUBLIC_URL", "ftp://a.example"),
        ("PUBLIC_URL", "https://"),
        ("PUBLIC_URL", "https://[::1"),
        ("PUBLIC_URL", "https://a.example/?b=c"),
        ("PUBLIC_URL", "https://a.example/#b"),
        ("CURRENCY", ""),
        ("CURRENCY", "usd"),
        ("CURRENCY", "US"),
        ("CURRENCY", "XYZ"),
        ("RETRY_SCHEDULE", "5s;5m"),
        ("RETRY_SCHEDULE", "5s,soon"),
        ("RETRY_SCHEDULE", "5"),
        ("CALLBACK_TIMEOUT", "0s"),
        ("CALLBACK_TIMEOUT", "0.000ms"),
        ("CALLBACK_TIMEOUT", "15"),
        ("CALLBACK_CONCURRENCY", "0"),
        ("CALLBACK_CONCURRENCY", "10001"),
        ("CALLBACK_CONCURRENCY", "many"),
        ("ORIGIN_CONCURRENCY", "0"),
        ("ORIGIN_CONCURRENCY", "-1"),
        ("CALLBACK_ALLOW", "10.0.0.1/8"),
        ("CALLBACK_ALLOW", "10.0.0.0/33"),
        ("CALLBACK_ALLOW", "10.0.0.0/8;127.0.0.0/8"),
        ("CALLBACK_ALLOW", "localhost"),
        ("ENCRYPTION_KEY", "secret"),
        ("ENCRYPTION_KEY", ENCRYPTION_KEY[:-1]),
        ("ENCRYPTION_KEY", ENCRYPTION_KEY[:-4]),
        ("ENCRYPTION_KEY", f"{ENCRYPTION_KEY},secret"),
        ("ENCRYPTION_KEY", f"{ENCRYPTION_KEY} {OTHER_ENCRYPTION_KEY}"),
        ("ENCRYPTION_KEY", "ключ"),
        ("ROTATION_OVERLAP", ""),
        ("ROTATION_OVERLAP", "24"),
        ("ROTATION_OVERLAP", "-1s"),
        ("RATE_LIMIT", "-1"),
        ("RATE_LIMIT", "1000001"),
        ("RATE_LIMIT", "0.5"),
        ("RATE_LIMIT", ""),
        ("RATE_BURST", "0"),
        ("RATE_BURST", "1000001"),
        ("ACCOUNT_OPEN_DELIVERIES", "-1"),
        ("ACCOUNT_OPEN_DELIVERIES", "many"),
        ("CALLBACK_REQUIRE_HTTPS", ""),
        ("CALLBACK_REQUIRE_HTTPS", "maybe"),
        ("RECEIVER_CONTRACT", ""),
        ("RECEIVER_CONTRACT", "Strict"),
        ("SANDBOX_DELAY", "half a second"),
        ("RETENTION", "30"),
        ("DRAIN_TIMEOUT", "-1s"),
        ("BODY_LIMIT", "4095"),
        ("BODY_LIMIT", "16777217"),
        ("BODY_LIMIT", "64KiB"),
        ("BODY_TIMEOUT", "0s"),
        ("IDLE_TIMEOUT", "0s"),
        ("IDLE_TIMEOUT", "30"),
        ("CONNECTION_LIMIT", "0"),
        ("CONNECTION_LIMIT", "10001"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_an_invalid_value_is_refused_by_name(environment, name, text):
    """The message for an invalid value names its variable."""
    environment(**{name: text})

    (error,) = errors()
    assert error.startswith(f"INVOICES_{name}: ")


def test_passwords_are_not_repeated(environment):
    """The message for an invalid database URL does not contain the URL and its password."""
    environment(DATABASE_URL="mysql://invoices:hunter2@db.example/invoices")

    (error,) = errors()
    assert "hunter2" not in error


def test_encryption_keys_are_not_repeated(environment):
    """The message names an invalid key by its number, and does not contain the key."""
    broken = ENCRYPTION_KEY[:-2] + "="
    environment(ENCRYPTION_KEY=f"{OTHER_ENCRYPTION_KEY},{broken}")

    (error,) = errors()
    assert "key 2 is not 32 bytes" in error
    assert [] == [key for key in (OTHER_ENCRYPTION_KEY, broken[:-1]) if key in error]


def test_encryption_keys_are_not_shown(environment):
    """The representation of the settings contains no encryption key."""
    environment(ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert ENCRYPTION_KEY not in repr(read_settings())


# All errors at once


def test_every_error_is_reported_at_once(environment):
    """All five errors are reported at once."""
    environment(PORT="http", CURRENCY="usd", RETENTION="30", HOTS="0.0.0.0", LOG_FORMAT="xml")

    assert ["CURRENCY", "HOTS", "LOG_FORMAT", "PORT", "RETENTION"] == sorted(
        error.partition(":")[0].removeprefix("INVOICES_") for error in errors()
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LOG_LEVEL", "warning"),
        ("PORT", "8081"),
        ("SMTP_ALLOW_PLAINTEXT", "true"),
        ("DATABASE_URL", "sqlite:///a.db"),
        ("DATABASE_URL", "postgresql://localhost/invoices"),
        ("API_KEY", "a-key"),
        ("RETENTION", "1d"),
        ("PUBLIC_URL", "https://a.example/b"),
        ("MAIL_OUTBOX", "mails"),
        ("ENCRYPTION_KEY", ENCRYPTION_KEY),
    ],
)
def test_blanks_around_a_value_are_ignored(environment, name, text, end):
    """A secret that was made from a file ends with a line break."""
    environment(**{name: text})
    expected = read_settings()

    environment(**{name: text + end})
    assert expected == read_settings()


@pytest.mark.parametrize(
    ("name", "default"),
    [("PORT", "8080"), ("LOG_LEVEL", "info"), ("HOST", "127.0.0.1"), ("RETENTION", "30d")],
)
@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_value_is_said_to_be_empty(environment, name, default, text):
    """Templates of deployments set variables of which they have no value."""
    environment(**{name: text})

    (error,) = errors()
    assert error.startswith(f"INVOICES_{name}: ")
    assert error.endswith(f" It is empty: leave the variable out to get the default, {default}.")


def test_an_error_does_not_hide_another(environment):
    """An empty timeout is reported together with the other errors."""
    environment(CALLBACK_TIMEOUT="0s", PORT="http")

    assert 2 == len(errors())


# Unknown names


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("HOTS", "HOST"),
        ("DATABASE", "DATABASE_URL"),
        ("RETRY_SCHEDULES", "RETRY_SCHEDULE"),
        ("CALLBACK_TIMEOUT_SECONDS", "CALLBACK_TIMEOUT"),
        ("ORIGIN_CONCURENCY", "ORIGIN_CONCURRENCY"),
        ("CALLBACK_REQUIRES_HTTPS", "CALLBACK_REQUIRE_HTTPS"),
        ("LOGFORMAT", "LOG_FORMAT"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(environment, unknown, nearest):
    """A misspelt setting is an error that suggests the correct name."""
    environment(**{unknown: "1"})

    assert (
        f"INVOICES_{unknown}: there is no such setting; did you mean INVOICES_{nearest}?",
    ) == errors()


def test_a_name_without_a_similar_one_gets_no_suggestion(environment):
    """The common prefix does not make two names similar."""
    environment(ZZZZ="1")

    assert ("INVOICES_ZZZZ: there is no such setting.",) == errors()


def test_variables_without_the_prefix_are_ignored(monkeypatch):
    """Variables without the prefix INVOICES_ are ignored."""
    monkeypatch.setenv("INVOICE_PORT", "http")
    monkeypatch.setenv("PORT", "http")

    assert 8080 == read_settings().port


# Documentation


@pytest.mark.parametrize(("variable", "setting"), declared_settings().items())
def test_every_setting_is_documented_as_it_is_declared(variable, setting):
    """The page has a section for each setting, with its meaning and its default."""
    page = PAGE.read_text(encoding="utf-8")
    (section,) = re.findall(rf"^### `{variable}`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    words = " ".join(section.split())

    assert setting.meaning in words.replace("`", "")
    assert (f"Default: `{setting.default}`" if setting.default else "Default: none") in words


def test_every_documented_setting_exists():
    """The page about settings names only settings that exist."""
    named = set(re.findall(r"`(INVOICES_[A-Z0-9_]+)", PAGE.read_text(encoding="utf-8")))

    assert set() == named - set(declared_settings())


@pytest.mark.parametrize("setting", declared_settings().values())
def test_meanings_name_the_bounds(setting):
    """The meaning of a setting has its smallest and largest number, or all its choices."""
    named = set(re.findall(r"\w+", setting.meaning))
    match setting.bounds:
        case Range(min=low, max=high):
            assert {str(low), str(high)} <= named
        case OneOf(choices=choices):
            assert set(choices) <= named


# Forms that several settings share


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (("127.0.0.1", "10.0.0.5"), "127.0.0.1,10.0.0.5"),
        (("::",), "::"),
        (("::1", "localhost"), "[::1], localhost"),
    ],
)
def test_several_addresses_may_be_named(environment, expected, text):
    """Addresses are separated by commas; IPv6 addresses may have brackets."""
    environment(HOST=text)

    assert expected == read_settings().host


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HOST", "127.0.0.1,"),
        ("HOST", ","),
        ("PUBLIC_URL", "https://a.example/b c"),
        ("PUBLIC_URL", "https://a.example/b\r\nc"),
        ("PUBLIC_URL", 'https://a.example/"b'),
        ("PUBLIC_URL", "https://a.example:65536"),
        ("PUBLIC_URL", "https://user@a.example"),
        ("CALLBACK_NAT64_PREFIXES", "10.0.0.0/8"),
        ("CALLBACK_NAT64_PREFIXES", "2001:db8::/33"),
        ("CALLBACK_NAT64_PREFIXES", "2001:db8::1/96"),
        ("CALLBACK_PROXY", "proxy.internal:3128"),
        ("CALLBACK_PROXY", "http://proxy.internal"),
        ("CALLBACK_PROXY", "https://proxy.internal:3128"),
        ("CALLBACK_PROXY", "socks5://proxy.internal:1080"),
        ("CALLBACK_PROXY", "http://proxy.internal:3128/path"),
        ("CALLBACK_PROXY", "http://proxy.internal:99999"),
        ("SMTP_URL", "smtp.example.com:587"),
        ("SMTP_URL", "https://smtp.example.com"),
        ("SMTP_URL", "smtps://user@smtp.example.com"),
        ("SMTP_URL", "smtps://smtp.example.com/path"),
        ("SMTP_URL", "smtps://smtp.example.com:99999"),
        ("MAIL_FROM", "Acme Inc."),
        ("MAIL_FROM", "a@b.example, c@d.example"),
        ("MAIL_FROM", "a@b.example\r\nBcc: c@d.example"),
        ("MAIL_FROM", "@b.example"),
        ("MAIL_OUTBOX", ""),
        ("LOG_LEVEL", "trace"),
        ("LOG_LEVEL", ""),
    ],
)
def test_other_forms_are_refused(environment, name, text):
    """A value in another form is refused with a message."""
    environment(**{name: text})

    (error,) = errors()
    assert error.startswith(f"INVOICES_{name}: ")


def test_a_password_of_the_proxy_is_not_shown(environment):
    """Neither the message nor the representation contains the password of the proxy."""
    environment(CALLBACK_PROXY="https://me:hunter2@proxy.internal:3128")
    (error,) = errors()
    environment(CALLBACK_PROXY="http://me:hunter2@proxy.internal:3128")

    assert [] == [text for text in (error, repr(read_settings())) if "hunter2" in text]


def test_a_password_of_the_mail_server_is_not_shown(environment):
    """Neither the message nor the representation contains the password of the mail server."""
    environment(SMTP_URL="https://me:hunter2@smtp.example.com")
    (error,) = errors()
    environment(SMTP_URL="smtps://me:hunter2@smtp.example.com", MAIL_FROM="a@b.example")

    assert [] == [text for text in (error, repr(read_settings())) if "hunter2" in text]


def test_a_mail_server_needs_a_sender(environment):
    """Without the sender's address no mail could be sent: the service does not start."""
    environment(SMTP_URL="smtps://smtp.example.com")

    (error,) = errors()
    assert error.startswith("INVOICES_MAIL_FROM: ")


@pytest.mark.parametrize(
    ("host", "is_taken"),
    [("127.0.0.1:1025", True), ("localhost", True), ("[::1]:25", True), ("mailpit:1025", False)],
)
def test_mails_leave_this_machine_encrypted(environment, host, is_taken):
    """`smtp://` leads to this machine only, unless the operator says otherwise."""
    environment(SMTP_URL=f"smtp://{host}", MAIL_FROM="Acme Inc. <billing@acme.example>")
    if not is_taken:
        (error,) = errors()
        assert error.startswith("INVOICES_SMTP_URL: ")
        environment(SMTP_ALLOW_PLAINTEXT="true")

    assert f"smtp://{host}" == read_settings().smtp_url


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        ("", "https://a.example"),
        ("", "https://a.example/"),
        ("/billing", "https://a.example/billing/"),
        ("/a/b%20c", "http://[::1]:80/a/b%20c"),
    ],
)
def test_the_path_of_the_public_url_is_the_prefix(environment, expected, url):
    """The path prefix is the path of the public URL, without a trailing slash."""
    environment(PUBLIC_URL=url)

    assert expected == read_settings().public_path


PASSWORDS = (
    "hunter2/x",
    "hunter2?x",
    "hunter2#x",
    "hunter2@x",
    "1/hunter2",
    "1?hunter2",
    "1#hunter2",
)
WITH_PASSWORDS = [
    *(("DATABASE_URL", f"postgresql://me:{one}@db/invoices") for one in PASSWORDS),
    ("DATABASE_URL", "hunter2"),
    ("DATABASE_URL", "hunter2:x"),
    ("DATABASE_URL", "mysql://me:hunter2@db/invoices"),
    ("DATABASE_URL", "postgresql+asyncpg://me:hunter2@db/:memory:"),
    ("DATABASE_URL", "postgresql://me:hunter2@db:543210/invoices"),
    ("CALLBACK_PROXY", "https://me:hunter2@proxy:1"),
    ("CALLBACK_PROXY", "hunter2"),
    ("PUBLIC_URL", "https://me:hunter2@a.example/"),
    ("PUBLIC_URL", "https://me:1/hunter2@a.example/"),
    ("ENCRYPTION_KEY", "hunter2"),
]


@pytest.mark.parametrize(("name", "text"), WITH_PASSWORDS)
def test_no_message_shows_a_password(monkeypatch, name, text):
    """A wrong value of a setting that can hold a secret is described, and not repeated."""
    monkeypatch.setenv(f"INVOICES_{name}", text)

    with pytest.raises(SettingsError) as refusal:
        read_settings()

    assert "hunter2" not in str(refusal.value)
    assert f"INVOICES_{name}: " in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres@/invoices?host=/tmp/x&port=5432",
        "postgresql://me:hunter2%2F%3F%23%40@db.internal:5432/invoices?sslmode=disable",
        "postgres://[fd00::1]:5432/invoices",
        "postgresql://a:1,b:2/invoices",
        "postgresql:///invoices?host=a,b&port=5432,65535",
        "postgresql:///invoices?host=a&port=",
        "postgresql:///invoices",
    ],
)
def test_usual_database_urls_are_taken(monkeypatch, url):
    """Sockets, several hosts, IPv6 and encoded passwords are permitted, and never shown."""
    monkeypatch.setenv("INVOICES_DATABASE_URL", url)

    settings = read_settings()
    assert url == settings.database_url
    assert "hunter2" not in repr(settings)
