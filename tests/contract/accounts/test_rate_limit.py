"""Each account has a rate limit: beyond it the answer says when to retry."""

from __future__ import annotations

import pytest

from service.settings import Settings
from tests.askers import PRIVATE, raw_post
from tests.rows import SECOND

BURST = 3


@pytest.fixture
def settings():
    """One request per second, and three at once."""
    return Settings(rate_limit=1, rate_burst=BURST)


async def used_up(asker):
    """Ask until the bucket is empty."""
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
    """No operation is a way around the limit, nor is HEAD."""
    await used_up(as_ann)

    for one in {method, "HEAD" if method == "GET" else method}:
        assert 429 == (await as_ann.ask(one, path.format(id="1"))).status


async def test_what_was_too_many_is_not_stored(as_ann, clock):
    """An invoice that was answered 429 is not there, and can be sent again."""
    await used_up(as_ann)
    assert 429 == (await as_ann.send("1")).status

    clock.advance(60 * SECOND)
    assert 404 == (await as_ann.ask("GET", "/invoices/1")).status
    assert 202 == (await as_ann.send("1")).status


async def test_requests_for_what_does_not_exist_are_counted(as_ann):
    """Ids cannot be guessed faster than the rate."""
    for _ in range(BURST):
        assert 404 == (await as_ann.ask("GET", "/invoices/none")).status

    assert 429 == (await as_ann.ask("GET", "/invoices/none")).status


async def test_one_account_does_not_use_up_anothers(as_ann, as_ben):
    """A flood of one account leaves the others their rate."""
    await used_up(as_ann)
    assert 429 == (await as_ann.ask("GET", "/invoices/")).status

    await used_up(as_ben)


async def test_an_account_is_not_used_up_without_its_key(anonymous, as_ann, ann):
    """Wrong keys with a known prefix take nothing from its owner."""
    wrong = {"Authorization": f"Bearer {ann.key[:-2]}--"}
    for _ in range(10 * BURST):
        assert 401 == (await anonymous.ask("GET", "/invoices/", headers=wrong)).status

    await used_up(as_ann)


async def test_what_needs_no_key_is_not_limited(anonymous, as_ann):
    """Health, documentation and what is not there are answered however often."""
    await used_up(as_ann)

    for path, status in (("/healthz", 200), ("/api/docs", 200), ("/none", 404)):
        for asker in (anonymous, as_ann):
            given = {(await asker.ask("GET", path)).status for _ in range(2 * BURST)}

            assert {status} == given


class TestOnTheWire:
    @pytest.fixture
    def settings(self):
        """One request at once; a body may take longer than a test."""
        return Settings(rate_limit=1, rate_burst=1, body_timeout=600 * SECOND)

    @pytest.mark.parametrize("expectation", [[], ["Expect: 100-continue"]])
    async def test_what_is_too_many_is_not_read(self, wire, ann, expectation):
        """The body of a request that is one too many is neither waited for nor asked for."""
        key = f"Authorization: Bearer {ann.key}"
        assert (await wire.talk(raw_post(key, body=b"{}"))).startswith(b"HTTP/1.1 422")

        answer = await wire.talk(raw_post(key, *expectation, length=60_000))
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"Retry-After: 1\r\n" in answer

    async def test_a_request_that_asks_first_counts_once(self, wire, ann):
        """Asking whether a body is wanted, and sending it, are one request."""
        body = b'{"id": "1", "customer": "c", "total": "1"}'
        head = ("Expect: 100-continue", f"Authorization: Bearer {ann.key}")

        answer = await wire.talk(raw_post(*head, length=len(body)), body)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202")
