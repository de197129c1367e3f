"""What keeps a process from the file of its database is said in words."""

from __future__ import annotations

import os

import pytest

from service.database.file_access import obstacle


@pytest.fixture
def refusing(monkeypatch):
    """Makes the system refuse the access to some paths; root may write everywhere."""

    def refuse(*paths):
        monkeypatch.setattr(os, "access", lambda path, _mode, **_: path not in paths)

    return refuse


def test_a_missing_folder_is_named(tmp_path):
    """The folder is not made: a wrong path would begin a new database."""
    folder = tmp_path / "missing"

    assert f"there is no folder {folder}" in obstacle(str(folder / "invoices.db"))


def test_a_folder_is_no_file(tmp_path):
    """A URL that names a folder is told so."""
    assert "must name a file" in obstacle(str(tmp_path))


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-serving"])
def test_a_file_of_another_user_is_named(tmp_path, refusing, end):
    """The files that SQLite and the service put beside the database count too."""
    path = tmp_path / "invoices.db"
    path.touch()
    beside = tmp_path / f"invoices.db{end}"
    beside.touch()
    refusing(beside)

    assert f"; user {os.geteuid()}, " in obstacle(str(path))
    assert obstacle(str(path)).endswith(f" write {beside}")


def test_a_folder_of_another_user_is_named(tmp_path, refusing):
    """SQLite makes files in the folder, so the process must be able to write there."""
    refusing(tmp_path)

    assert obstacle(str(tmp_path / "invoices.db")).endswith(f" write {tmp_path}")


def test_usually_nothing_is_in_the_way(tmp_path, monkeypatch):
    """A relative path in a folder that can be written to has no obstacle."""
    monkeypatch.chdir(tmp_path)

    assert not obstacle("invoices.db")
