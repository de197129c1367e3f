"""What people send who do this every day: a clear answer to each of their small surprises."""

from urllib.parse import quote

import pytest

from service.api.application import make_application
from service.api.dependencies import Dependencies
from service.app import judge_of
from service.development import for_development
from service.settings import Settings
from tests.clock import START, ManualClock
from tests.fakes import everybody_is_dev, unlimited

SEED = {"id": "1", "customer": "Mr. Richie Rich", "total": "9999"}
RECEIVER = "https://api.example.com"
JSON = {"Content-Type": "application/json"}
TWO_HUNDRED_EMOJI = "🧾" * 200


@pytest.fixture
def dependencies(store, metrics):
    """What the application of these tests is made of; receivers may be anywhere."""

    async def record(_step):
        return True

    return Dependencies(
        store=store,
        accept=store.accept,
        record=record,
        metrics=metrics,
        clock=ManualClock(START),
        document={"openapi": "3.1.0"},
        authenticate=everybody_is_dev,
        limit=unlimited,
        currency="USD",
        judge=judge_of(for_development(Settings())),
        is_ready=lambda: True,
    )


@pytest.fixture
async def api(aiohttp_client, dependencies):
    """Asks the application in process."""
    return await aiohttp_client(make_application(dependencies))


async def post(api, body, query=""):
    """The status and the problem, or the answer, for a body of text or of bytes."""
    answer = await api.post(f"/invoices/{query}", data=body, headers=JSON)
    return answer.status, await answer.json()


async def send(api, query="", **changes):
    """The same for the seed invoice with *changes*."""
    answer = await api.post(f"/invoices/{query}", json={**SEED, **changes})
    return answer.status, await answer.json()


def messages_of(problem):
    """Pointer and message of each field error."""
    return {one["pointer"]: one["message"] for one in problem["errors"]}


async def refusal_of(api, query="", **changes):
    """The field errors of what is refused with 422."""
    status, problem = await send(api, query, **changes)
    assert 422 == status, problem
    return messages_of(problem)


class TestLimits:
    async def test_limits_can_be_used_together(self, api, store):
        """The longest id goes with the longest callback URL."""
        url = RECEIVER + "/" + "a" * (2048 - len(RECEIVER) - 1)
        status, _ = await send(api, f"?callback_url={url}", id=TWO_HUNDRED_EMOJI)

        assert 202 == status
        stored = await store.find_invoice("dev", TWO_HUNDRED_EMOJI)
        assert f"{url}/invoices/{quote(TWO_HUNDRED_EMOJI)}" in stored["callbacks"]

    async def test_a_url_above_its_limit_is_named(self, api):
        """The limit of callback_url is its own, and no other field is blamed."""
        errors = await refusal_of(api, f"?callback_url={RECEIVER}/{'a' * 2048}")

        assert {
            "/callback_url": "Must have 1 to 2048 characters; without it, no callback is sent."
        } == errors


class TestCallbackUrls:
    @pytest.mark.parametrize(
        ("expected", "url"),
        [
            ("write http://xn--bcher-kva.example/", "http://bücher.example/"),
            ("write https://api.example/caf%C3%A9", "https://api.example/café"),
            ("write http://api.example/a%20b", "http://api.example/a b"),
            ("a token, can stand in the path", "https://api.example/x?token=abc"),
            ("a token, can stand in the path", "https://api.example/x#abc"),
            ("must begin with http:// or https://", "api.example"),
        ],
    )
    async def test_a_refusal_shows_the_way_out(self, api, expected, url):
        """The message has what can be sent instead."""
        errors = await refusal_of(api, f"?callback_url={quote(url)}")

        assert expected in errors["/callback_url"]

    async def test_a_plus_is_a_blank_in_a_query(self, api):
        """Somebody who wrote a + is told why it is a blank."""
        errors = await refusal_of(api, "?callback_url=http://h/a+b")

        assert "in a query, + stands for a blank: write %2B for a +" in errors["/callback_url"]

    @pytest.mark.parametrize(
        ("origin", "url"),
        [
            ("https://www.example.com:443", "https://www.example.com./x"),
            ("http://example.com:80", "http://example.com:/"),
        ],
    )
    async def test_a_url_is_called_as_it_was_sent(self, api, store, origin, url):
        """A dot at the end and an empty port are kept, and the origin is that of every spelling."""
        assert 202 == (await send(api, f"?callback_url={url}"))[0]

        stored = await store.find_invoice("dev", "1")
        called = url.removesuffix("/") + "/invoices/1"
        assert f'[["invoice_notification","{called}","{origin}"]]' == stored["callbacks"]
