"""The documentation page of a service that requires keys, in Chromium."""

from __future__ import annotations

import shutil

import pytest

from service.accounts.encryption import new_encryption_key
from tests.browser.served import added_account, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ENCRYPTION_KEY = new_encryption_key()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, new_database):
    """The folder with the database of the service."""
    folder = tmp_path_factory.mktemp("authorize")
    shutil.copy(new_database, folder)
    return folder


@pytest.fixture(scope="module")
def key(folder):
    """The key of an account of the service."""
    return added_account(folder, encryption_key=ENCRYPTION_KEY)


@pytest.fixture(scope="module")
def service_url(folder, key, warm):
    """The URL of a service in production mode. One test alone makes it accept an invoice."""
    with served(folder, encryption_key=ENCRYPTION_KEY, running=warm.running) as url:
        yield url


def test_an_operation_requires_a_key(own_page):
    """An operation without a key shows that a key is required."""
    operation = own_page.operation("invoices", "list_invoices")

    assert "401" == own_page.try_out(operation)


def test_an_entered_key_is_sent(own_page, key):
    """After Authorize, operations can be executed: lists are shown, and an invoice is accepted."""
    own_page.authorize(key)

    assert "200" == own_page.try_out(own_page.operation("invoices", "list_invoices"))
    operation = own_page.operation("invoices", "create_invoice")
    assert "202" == own_page.try_out(operation, callback_url="https://api.example.com")
    assert [] == own_page.browser.get_log("browser")


def test_a_wrong_key_is_refused(own_page, key):
    """The page sends the entered key, and shows the refusal."""
    own_page.authorize(key[:-4] + "aaaa")

    assert "401" == own_page.try_out(own_page.operation("invoices", "list_invoices"))
