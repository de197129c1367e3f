"""The file with the encryption key beside an SQLite database, if no key is set."""

import stat

import pytest

from service.accounts import encryption
from service.accounts.encryption import make_key_file, new_encryption_key
from service.database.sqlite_library import LIBRARY
from service.settings import Settings, parse_encryption_keys


@pytest.fixture
def run(run_command, migrated):
    """Run a command on a database of this test, with only the given variables set."""
    return run_command


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///invoices.db", "invoices.db.key"),
        ("sqlite:////data/invoices.db", "/data/invoices.db.key"),
        ("sqlite:///a/b", "a/b.key"),
    ],
)
def test_the_key_file_is_beside_the_database(url, expected):
    """Each database has its own key file, in the same folder."""
    assert expected == str(Settings(database_url=url).key_file)


def test_a_key_is_created_once(run, tmp_path):
    """The first command creates the key, readable by its owner only, and prints the path."""
    first, second = run("accounts", "add", "acme"), run("accounts", "add", "other")
    file = tmp_path / "invoices.db.key"

    assert (0, 0) == (first.exit_code, second.exit_code), first.stderr + second.stderr
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert 1 == len(parse_encryption_keys(file.read_text()))
    assert str(file) in first.stderr
    assert "" == second.stderr
    assert file.read_text().strip() not in first.output
    assert {"invoices.db.key"} == {one.name for one in tmp_path.glob("*.key*")}


def test_the_key_of_the_file_is_used(run, tmp_path):
    """Secrets are encrypted with the key in the file; without the file they cannot be rotated."""
    run("accounts", "add", "acme")
    (tmp_path / "invoices.db.key").write_text(new_encryption_key())

    refusal = run("accounts", "rotate-secret", "acme")

    assert 2 == refusal.exit_code
    assert "encrypted with another key" in refusal.stderr


def test_a_configured_key_has_precedence_over_the_file(run, tmp_path):
    """If INVOICES_ENCRYPTION_KEY is set, the file is not read."""
    key = new_encryption_key()
    run("accounts", "add", "acme", INVOICES_ENCRYPTION_KEY=key)
    assert not (tmp_path / "invoices.db.key").exists()
    (tmp_path / "invoices.db.key").write_text("no key")

    assert 0 == run("accounts", "rotate-secret", "acme", INVOICES_ENCRYPTION_KEY=key).exit_code


def test_a_missing_key_is_not_replaced(run, tmp_path):
    """If the key file is missing and secrets exist, no new key is created."""
    run("accounts", "add", "acme", INVOICES_ENCRYPTION_KEY=new_encryption_key())

    refusal = run("accounts", "add", "other")

    assert 2 == refusal.exit_code
    assert "INVOICES_ENCRYPTION_KEY is not set" in refusal.stderr
    assert not (tmp_path / "invoices.db.key").exists()


@pytest.mark.parametrize("text", ["", "\n", "secret", "é"])
def test_an_invalid_key_file_is_reported(run, tmp_path, text):
    """A file without a valid key ends the command with exit status 2 and the name of the file."""
    (tmp_path / "invoices.db.key").write_text(text)

    refusal = run("accounts", "add", "acme")

    assert 2 == refusal.exit_code
    assert refusal.stderr.startswith("invoices.db.key: ")
    assert "Traceback" not in refusal.stderr


def test_an_existing_key_is_kept(tmp_path):
    """If two processes create a key at the same time, the second uses the key of the first."""
    make_key_file(tmp_path / "key")
    first = (tmp_path / "key").read_text()
    make_key_file(tmp_path / "key")

    assert first == (tmp_path / "key").read_text()
    assert ["key"] == [one.name for one in tmp_path.iterdir()]


def test_a_key_is_created_without_hard_links(monkeypatch, tmp_path):
    """The key file is created on a file system without hard links too."""

    def link(_source, _target):
        raise PermissionError

    monkeypatch.setattr(encryption.os, "link", link)
    make_key_file(tmp_path / "key")

    assert 1 == len(parse_encryption_keys((tmp_path / "key").read_text()))
    assert ["key"] == [one.name for one in tmp_path.iterdir()]


# Commands and the schema


@pytest.mark.parametrize(
    "arguments", [["add", "acme"], ["list"], ["rotate-key", "acme"], ["disable", "acme"]]
)
def test_commands_about_accounts_migrate_nothing(run, tmp_path, arguments):
    """A command on an older schema does not migrate it, and names the command that does."""
    key = {"INVOICES_ENCRYPTION_KEY": new_encryption_key()}
    assert 0 == run("accounts", "list", **key).exit_code
    newest = revision_of(tmp_path, "0001")

    refusal = run("accounts", *arguments, **key)

    assert 2 == refusal.exit_code
    assert (
        f"The database is on schema 0001, and this version needs {newest}. "
        "Bring it there with: invoices migrate\n"
    ) == refusal.stderr
    assert "0001" == revision_of(tmp_path, "0001")


def revision_of(folder, next_revision):
    """Set the revision of the database in *folder* to *next_revision*; returns the old one."""
    with LIBRARY.connect(folder / "invoices.db") as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = ?", [next_revision])
    connection.close()
    return revision
