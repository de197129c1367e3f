"""The official libraries of two languages verify our signatures."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.delivery.signing import Signer


def secret_of(key: bytes) -> str:
    """Write *key* as a signing secret."""
    return "whsec_" + base64.b64encode(key).decode()


OLD, NEW, OTHER = secret_of(b"o" * 32), secret_of(b"n" * 32), secret_of(b"x" * 32)
SHORTEST, LONGEST = secret_of(bytes(range(24))), secret_of(bytes(range(192, 256)))

# Both libraries accept five minutes in either direction; a test takes less than a minute.
WITHIN, BEYOND = timedelta(minutes=4), timedelta(minutes=6)


@dataclass(frozen=True)
class Arrived:
    """The request as it reaches the receiver."""

    headers: Mapping[str, str]
    body: bytes

    def having(self, **headers: str | None) -> Arrived:
        """The same request with other headers, written with underscores; None removes one."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in self.headers.items() if name not in changed}
        return replace(self, headers=kept | {n: v for n, v in changed.items() if v is not None})


@dataclass(frozen=True)
class Case:
    """The secrets of a delivery, the change on its way, and the secret of the receiver."""

    name: str
    description: str = "Счёт оплачен – danke schön 🧾"
    secrets: tuple[str, ...] = (NEW,)
    known: str = NEW
    ahead: timedelta = timedelta()
    change: Callable[[Arrived], Arrived] = lambda arrived: arrived
    reason: str = ""
    """A part of the error message of the libraries."""

    @property
    def event(self):
        """The event in the body."""
        return {"description": self.description, "paid": True}

    def arrived(self, now: datetime) -> Arrived:
        """Sign the event as the service does, and apply the change."""
        body = INVOICE_NOTIFICATION.render(self.event)
        headers = Signer(self.secrets).headers("msg_1", now + self.ahead, body)
        return self.change(Arrived(headers, body))


def beside(other: str, *, first: bool) -> Callable[[Arrived], Arrived]:
    """Add another signature before or after the valid one."""

    def put(arrived: Arrived) -> Arrived:
        valid = arrived.headers["webhook-signature"]
        return arrived.having(webhook_signature=f"{other} {valid}" if first else f"{valid} {other}")

    return put


def as_version(version: str) -> Callable[[Arrived], Arrived]:
    """Declare the valid signature as a signature of another version."""

    def pretend(arrived: Arrived) -> Arrived:
        _, _, signature = arrived.headers["webhook-signature"].partition(",")
        return arrived.having(webhook_signature=f"{version},{signature}")

    return pretend


def with_another_byte(arrived: Arrived) -> Arrived:
    """Change one byte of the body; it stays JSON in UTF-8 with another meaning."""
    return replace(arrived, body=arrived.body.replace(b"danke", b"danke"[:-1] + b"a"))


def one_second_later(arrived: Arrived) -> Arrived:
    """Change the timestamp by one second, which is within the tolerance."""
    return arrived.having(webhook_timestamp=str(int(arrived.headers["webhook-timestamp"]) + 1))


ASYMMETRIC = "v1a," + base64.b64encode(bytes(64)).decode()
UNKNOWN = "v2," + base64.b64encode(bytes(32)).decode()
FOREIGN = "v1," + base64.b64encode(bytes(32)).decode()

VERIFIED = (
    Case("one secret"),
    Case("ASCII only", description="Invoice paid"),
    Case("accents, whole and combined", description="Über fällig, payé, paye\u0301"),
    Case("other scripts", description="Оплачено 支払い済み مدفوع שולם จ่ายแล้ว"),
    Case("beyond 16 bits", description="🧾 👩🏽‍💻 𝄞 \U0010ffff"),
    Case("separators and controls", description="a\u2028b\u2029c\u0085d\r\n\t\0\x7f\ufeff"),
    Case("quotes and slashes", description="\\ \" ' / </script> &amp; %2F"),
    Case("longer than a buffer", description="ж🧾" * 50_000),
    Case("the shortest secret", secrets=(SHORTEST,), known=SHORTEST),
    Case("the longest secret", secrets=(LONGEST,), known=LONGEST),
    Case("a rotation, the new one known", secrets=(NEW, OLD), known=NEW),
    Case("a rotation, the old one known", secrets=(NEW, OLD), known=OLD),
    Case("a rotation, the old one first", secrets=(OLD, NEW), known=NEW),
    Case("sent minutes ago", ahead=-WITHIN),
    Case("a clock minutes behind", ahead=WITHIN),
    Case("v1a first", change=beside(ASYMMETRIC, first=True)),
    Case("v1a last", change=beside(ASYMMETRIC, first=False)),
    Case("an unknown version first", change=beside(UNKNOWN, first=True)),
    Case("an unknown version last", change=beside(UNKNOWN, first=False)),
    Case("another v1 first", change=beside(FOREIGN, first=True)),
)

NO_HEADER, NO_MATCH = "required headers", "No matching signature"

REFUSED = (
    Case("one byte of the body", change=with_another_byte, reason=NO_MATCH),
    Case("another id", change=lambda a: a.having(webhook_id="msg_2"), reason=NO_MATCH),
    Case("another timestamp", change=one_second_later, reason=NO_MATCH),
    Case("too old", ahead=-BEYOND, reason="too old"),
    Case("from the future", ahead=BEYOND, reason="too new"),
    Case("another secret", known=OTHER, reason=NO_MATCH),
    Case("neither secret of a rotation", secrets=(NEW, OLD), known=OTHER, reason=NO_MATCH),
    Case("v1a only", change=as_version("v1a"), reason=NO_MATCH),
    Case("an unknown version only", change=as_version("v2"), reason=NO_MATCH),
    Case(
        "no signature",
        change=lambda a: a.having(webhook_signature=None),
        reason=NO_HEADER,
    ),
    Case(
        "an empty signature",
        change=lambda a: a.having(webhook_signature=""),
        reason=NO_HEADER,
    ),
    Case("no id", change=lambda a: a.having(webhook_id=None), reason=NO_HEADER),
    Case(
        "no timestamp",
        change=lambda a: a.having(webhook_timestamp=None),
        reason=NO_HEADER,
    ),
)


def by_python(case: Case) -> dict:
    """The result of the official library for Python."""
    arrived = case.arrived(datetime.now(UTC))
    try:
        return {"event": Webhook(case.known).verify(arrived.body, dict(arrived.headers))}
    except WebhookVerificationError as error:
        return {"refused": str(error)}


@pytest.fixture(scope="module")
def results_of_javascript(node):
    """The results of the official library for JavaScript for all cases, by name."""
    table, now = VERIFIED + REFUSED, datetime.now(UTC)
    lines = []
    for case in table:
        arrived = case.arrived(now)
        body = base64.b64encode(arrived.body).decode()
        lines.append(
            json.dumps({"secret": case.known, "headers": dict(arrived.headers), "body": body})
        )

    printed = node.run("verify.js", lines)

    return {case.name: json.loads(line) for case, line in zip(table, printed, strict=True)}


@pytest.fixture(params=["python", "javascript"])
def result_of(request):
    """Verifies a case with the official library of a language."""
    if request.param == "python":
        return by_python
    results = request.getfixturevalue("results_of_javascript")
    return lambda case: results[case.name]


def named(case: Case) -> str:
    """The name of a case."""
    return case.name


@pytest.mark.parametrize("case", VERIFIED, ids=named)
def test_our_signatures_verify(case, result_of):
    """A receiver that knows one of the secrets reads the event unchanged."""
    assert {"event": case.event} == result_of(case)


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_a_changed_or_wrongly_signed_request_is_refused(case, result_of):
    """A request that is changed, too old or signed with another secret is refused as such."""
    result = result_of(case)

    assert ["refused"] == list(result)
    assert case.reason in result["refused"]


def test_every_refused_case_verifies_without_its_change():
    """Each refused case verifies if its change is left out."""
    now = datetime.now(UTC)
    for case in REFUSED:
        untouched = replace(case, known=case.secrets[0], ahead=timedelta(), change=lambda a: a)

        assert {"event": case.event} == by_python(untouched), case.name
        assert (untouched.known, untouched.arrived(now)) != (case.known, case.arrived(now))


def test_only_packages_of_the_lock_file_are_used(tmp_path, node):
    """An installed package counts only in the version of package-lock.json."""
    (tmp_path / "package-lock.json").write_bytes((node.FOLDER / "package-lock.json").read_bytes())
    assert not node.is_installed(tmp_path)

    (tmp_path / "node_modules").mkdir()
    installed = tmp_path / "node_modules/.package-lock.json"
    installed.write_text('{"packages": {"node_modules/standardwebhooks": {"integrity": "other"}}}')
    assert not node.is_installed(tmp_path)
