"""The documentation page of a service that requires keys, in Chromium."""

from __future__ import annotations

import pytest

from service.accounts.encryption import new_encryption_key
from tests.browser.docs_page import DocsPage
from tests.browser.served import added_account, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ENCRYPTION_KEY = new_encryption_key()


@pytest.fixture
def key(tmp_path, migrated):
    """The key of an account of the service."""
    return added_account(tmp_path, encryption_key=ENCRYPTION_KEY)


@pytest.fixture
def page(tmp_path, key, browser, warm):
    """The documentation page of a service in production mode, in a browser."""
    with served(tmp_path, encryption_key=ENCRYPTION_KEY, running=warm.running) as url:
        yield DocsPage(browser, url)


def test_an_operation_requires_a_key(page):
    """An operation without a key shows that a key is required."""
    operation = page.operation("invoices", "list_invoices")

    assert "401" == page.try_out(operation)


def test_an_entered_key_is_sent(page, key):
    """After Authorize, operations can be executed: lists are shown, and an invoice is accepted."""
    page.authorize(key)

    assert "200" == page.try_out(page.operation("invoices", "list_invoices"))
    operation = page.operation("invoices", "create_invoice")
    assert "202" == page.try_out(operation, callback_url="https://api.example.com")
    assert [] == page.browser.get_log("browser")


def test_a_wrong_key_is_refused(page, key):
    """The page sends the entered key, and shows the refusal."""
    page.authorize(key[:-4] + "aaaa")

    assert "401" == page.try_out(page.operation("invoices", "list_invoices"))
