"""Schemathesis compares the running service with its document, with all of its checks."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from schemas.feed import WAIT_SECONDS_MAX
from schemas.fields import is_blank
from service.accounts.encryption import new_encryption_key
from service.app.documents import document_of
from service.settings import Settings
from tests.browser.served import added_account, served

pytestmark = [pytest.mark.documents, pytest.mark.slow]

ACCEPTED = ["2xx", "401", "404", "409", "422", "429"]
"""
The statuses of responses to a request that is valid under the document.

422 is one of them, because no schema says which decimals a currency has, which cursors exist,
or which hosts may be called.
"""

WEBHOOKS = "/collectors/stripe/{account_id}"

CONFIG = schemathesis.Config.from_dict(
    {"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}}
)

document = schemathesis.openapi.from_dict(document_of(Settings()), config=CONFIG)
# A connection for events never ends by itself.
schema = document.exclude(operation_id="open_stream")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """URL and key of a service as in production."""
    folder, encryption_key = tmp_path_factory.mktemp("service"), new_encryption_key()
    key = added_account(folder, encryption_key=encryption_key)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "127.0.0.1")
        with served(folder, encryption_key=encryption_key) as url:
            yield url, key


@schema.parametrize()
@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_the_service_conforms_to_the_document(case, service):
    """No check of schemathesis finds a difference between the document and the service."""
    url, key = service
    # A request whose headers are invalid is sent with these headers, without the key.
    headers = case.meta.components.get(ParameterLocation.HEADER) if case.meta else None
    is_wrong = headers is not None and headers.mode is GenerationMode.NEGATIVE

    if isinstance(case.query, dict) and str(case.query.get("wait", "")).isdecimal():
        # Nothing happens while a request waits: only whether it may wait is compared.
        case.query["wait"] = 0 if int(case.query["wait"]) <= WAIT_SECONDS_MAX else 61
    case.call_and_validate(
        base_url=url,
        headers=None if is_wrong else {"Authorization": f"Bearer {key}"},
        excluded_checks=excluded(case),
    )


def excluded(case):
    """The checks that do not apply to *case*, because no schema can say what is valid."""
    found = [negative_data_rejection] if has_blank_field(case.body) else []
    # Only Stripe can sign a webhook.
    return [*found, positive_data_acceptance] if case.operation.path == WEBHOOKS else found


def has_blank_field(body):
    """Whether a field of *body* counts as missing, whatever its format or pattern says."""
    return isinstance(body, dict) and any(map(is_blank, body.values()))
