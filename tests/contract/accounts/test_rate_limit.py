"""Each account has a rate limit; a request above it gets 429 with Retry-After."""

from __future__ import annotations

import pytest

from service.settings import Settings
from tests.askers import NAMES, PRIVATE, raw_post
from tests.rows import SECOND

BURST = 3


@pytest.fixture
def settings():
    """A limit of one request per second, with a burst of three."""
    return Settings(rate_limit=1, rate_burst=BURST)


async def used_up(asker):
    """Send requests until the bucket is empty."""
    for _ in range(BURST):
        assert 200 == (await asker.ask("GET", "/invoices/")).status


async def test_too_many_requests_are_answered_with_retry_after(as_ann, clock):
    """After the burst comes 429, with the seconds after which a request is accepted again."""
    await used_up(as_ann)

    answer = await as_ann.ask("GET", "/invoices/")
    assert (429, "1") == (answer.status, answer.headers["Retry-After"])
    assert b'"type":"/api/docs/problems#too-many-requests"' in answer.body

    clock.advance(SECOND)
    assert 200 == (await as_ann.ask("GET", "/invoices/")).status
    assert 429 == (await as_ann.ask("GET", "/invoices/")).status


@pytest.mark.parametrize(("method", "path"), PRIVATE)
async def test_every_operation_is_counted(as_ann, method, path):
    """Every operation counts towards the limit, and so does HEAD."""
    await used_up(as_ann)

    for one in {method, "HEAD" if method == "GET" else method}:
        assert 429 == (await as_ann.ask(one, path.format(id="1", **NAMES))).status


async def test_a_refused_invoice_is_not_stored(as_ann, clock):
    """An invoice that was answered 429 is not stored, and can be sent again."""
    await used_up(as_ann)
    assert 429 == (await as_ann.send("1")).status

    clock.advance(60 * SECOND)
    assert 404 == (await as_ann.ask("GET", "/invoices/1")).status
    assert 202 == (await as_ann.send("1")).status


async def test_requests_for_unknown_ids_are_counted(as_ann):
    """Requests for unknown ids count towards the limit, so ids cannot be guessed faster."""
    for _ in range(BURST):
        assert 404 == (await as_ann.ask("GET", "/invoices/none")).status

    assert 429 == (await as_ann.ask("GET", "/invoices/none")).status


async def test_the_limit_of_one_account_does_not_affect_another(as_ann, as_ben):
    """Many requests of one account leave the rate of another unchanged."""
    await used_up(as_ann)
    assert 429 == (await as_ann.ask("GET", "/invoices/")).status

    await used_up(as_ben)


async def test_requests_with_a_wrong_key_are_not_counted(anonymous, as_ann, ann):
    """Wrong keys with a known prefix do not use the rate of its account."""
    wrong = {"Authorization": f"Bearer {ann.key[:-2]}--"}
    for _ in range(10 * BURST):
        assert 401 == (await anonymous.ask("GET", "/invoices/", headers=wrong)).status

    await used_up(as_ann)


async def test_public_paths_are_not_limited(anonymous, as_ann):
    """Health, documentation and unknown paths have no rate limit."""
    await used_up(as_ann)

    for path, status in (("/healthz", 200), ("/api/docs", 200), ("/none", 404)):
        for asker in (anonymous, as_ann):
            given = {(await asker.ask("GET", path)).status for _ in range(2 * BURST)}

            assert {status} == given


class TestOnTheWire:
    @pytest.fixture
    def settings(self):
        """A burst of one request, and a body timeout that is longer than a test."""
        return Settings(rate_limit=1, rate_burst=1, body_timeout=600 * SECOND)

    @pytest.mark.parametrize("expectation", [[], ["Expect: 100-continue"]])
    async def test_the_body_of_a_refused_request_is_not_read(self, wire, ann, expectation):
        """A request above the limit is refused before its body, with Expect and without it."""
        key = f"Authorization: Bearer {ann.key}"
        assert (await wire.talk(raw_post(key, body=b"{}"))).startswith(b"HTTP/1.1 422")

        answer = await wire.talk(raw_post(key, *expectation, length=60_000))
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"Retry-After: 1\r\n" in answer

    async def test_a_request_with_expect_counts_once(self, wire, ann):
        """A request with `Expect: 100-continue` and its body count as one request."""
        body = b'{"id": "1", "customer": "c", "total": "1"}'
        head = ("Expect: 100-continue", f"Authorization: Bearer {ann.key}")

        answer = await wire.talk(raw_post(*head, length=len(body)), body)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202")
