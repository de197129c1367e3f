"""Encryption between service and PostgreSQL: required, unless the operator says otherwise."""

from pathlib import Path

import asyncpg
import pytest

from service.database.connecting import SETTINGS, translated
from service.database.transport import may_be_in_clear, with_tls
from service.errors import StorageRefused, StorageUnavailable

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The variables of the driver are not set."""
    for name in ("PGSSLMODE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://db.internal/a", "postgresql://db.internal/a?sslmode=require"),
        ("postgres://u:p%40@10.0.0.1:5433/a", "postgres://u:p%40@10.0.0.1:5433/a?sslmode=require"),
        (
            "postgresql://u@[fd00::1]:5432/a?target_session_attrs=any",
            "postgresql://u@[fd00::1]:5432/a?target_session_attrs=any&sslmode=require",
        ),
        ("postgresql:///a?host=db", "postgresql:///a?host=db&sslmode=require"),
        ("postgresql://localhost,db/a", "postgresql://localhost,db/a?sslmode=require"),
    ],
)
def test_tls_is_required_over_a_network(url, expected):
    """A host that is not this machine is connected to with TLS."""
    assert expected == with_tls(url)
    assert not may_be_in_clear(expected)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost/a",
        "postgresql://u:p@127.0.0.1:5432/a",
        "postgresql://[::1]:5432/a",
        "postgresql:///a",
        "postgresql://postgres@/a?host=/run/postgresql&port=5432",
        "postgresql://%2Frun%2Fpostgresql/a",
    ],
)
def test_this_machine_needs_no_tls(url):
    """Nobody listens between two processes of one machine."""
    assert url == with_tls(url)
    assert not may_be_in_clear(url)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-full"])
def test_what_the_operator_says_is_kept(mode, monkeypatch):
    """A mode in the URL or in the environment is used; some of them deserve a warning."""
    url = f"postgresql://db/a?sslmode={mode}"
    assert url == with_tls(url)
    assert may_be_in_clear(url) is (mode in ("disable", "allow", "prefer"))

    monkeypatch.setenv("PGSSLMODE", mode)
    assert "postgresql://db/a" == with_tls("postgresql://db/a")
    assert may_be_in_clear("postgresql://db/a") is (mode in ("disable", "allow", "prefer"))


def test_a_server_without_tls_is_told_with_the_way_out():
    """The message says what to change; waiting for the server would not help."""
    with pytest.raises(StorageRefused, match="sslmode=disable"), translated():
        raise ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade')


def test_a_pooler_that_refuses_our_settings_is_told_with_the_way_out():
    """The message says what to write into its configuration: every setting of a connection."""
    said = asyncpg.ProtocolViolationError("unsupported startup parameter: statement_timeout")

    with pytest.raises(StorageRefused, match="PgBouncer") as refusal, translated():
        raise said

    wanted = str(refusal.value).rpartition(" = ")[2].split(",")
    assert {*SETTINGS, "synchronous_commit"} - {"application_name"} == set(wanted)
    assert f"ignore_startup_parameters = {','.join(wanted)}\n" in OPERATIONS.read_text("utf-8")


@pytest.mark.parametrize(
    "error", [asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError]
)
def test_a_pooler_that_loses_statements_is_an_outage_with_the_way_out(error):
    """It says something about the database and not about the statement, and names the setting."""
    setting = "INVOICES_DATABASE_PREPARED_STATEMENTS=false"

    said = error('prepared statement "a" does not exist\nHINT: use another driver')

    with (
        pytest.raises(StorageUnavailable, match=setting) as outage,
        translated(is_of_statements=True),
    ):
        raise said

    assert "HINT" not in str(outage.value)
