"""Two accounts with keys, the rows of the first, and the application that authenticates both."""

from __future__ import annotations

import pytest

from service.accounts.administration import AccountAdministration
from service.accounts.encryption import SecretCipher, new_encryption_key
from service.api.application import make_application
from service.app.process import ALONE
from service.domain.states import DeliveryStatus
from tests.askers import Asker
from tests.clock import START
from tests.rows import (
    SECOND,
    add_delivery,
    an_invoice,
    delivered,
    failed,
    lease_delivery,
    lease_invoice,
)


@pytest.fixture
def process():
    """A process as in production: requests without a key are refused."""
    return ALONE


@pytest.fixture
def administration(store, clock):
    """The administration of accounts."""
    return AccountAdministration(store, SecretCipher([new_encryption_key()]), clock)


@pytest.fixture
async def ann(administration):
    """An account."""
    return await administration.add("ann")


@pytest.fixture
async def ben(administration):
    """Another account."""
    return await administration.add("ben")


@pytest.fixture
async def client(aiohttp_client, dependencies):
    """A client of the application in process, without a key."""
    return await aiohttp_client(make_application(dependencies))


@pytest.fixture
def anonymous(client):
    """A client without a key."""
    return Asker(client)


@pytest.fixture
def as_ann(client, ann):
    """A client with the key of Ann."""
    return Asker(client, f"Bearer {ann.key}")


@pytest.fixture
def as_ben(client, ben):
    """A client with the key of Ben."""
    return Asker(client, f"Bearer {ben.key}")


@pytest.fixture
async def anns(store, ann):
    """Rows of Ann: an invoice that is not collected, and one delivery in each state."""
    for number, status in enumerate(DeliveryStatus, start=1):
        at = START + number * SECOND
        await add_delivery(store, f"{status}1", account_id=ann.account_id, at=at)
        leased = await lease_delivery(store, now=at)
        if status is DeliveryStatus.DELIVERED:
            await store.settle(delivered(leased, at=at))
        else:
            await store.settle(failed(leased, status=status, at=at, due_at=at + 1000 * SECOND))
    await store.accept(an_invoice("plain1", account_id=ann.account_id))
    # The lease lasts longer than the test.
    await lease_invoice(store, until=START + 1000 * SECOND)
    return ["plain1", *(f"{status}1" for status in DeliveryStatus)]
