"""Every request without a valid key gets the same refusal, before its body and ids are read."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from service.accounts.authenticator import NO_KEY, WRONG_KEY
from service.accounts.cache import CACHE_SECONDS
from service.errors import StorageUnavailable
from service.loops import running_loops
from service.settings import Settings
from service.storage import accounts
from tests.askers import NAMES, PRIVATE, Asker, raw_post
from tests.clock import PATIENCE_SECONDS, advance_loop
from tests.rows import add_delivery

UNKNOWN_KEY = "inv_aaaaaaaa_" + "A" * 43
JSON = {"Content-Type": "application/json"}
OPEN_PATHS = [
    "/healthz",
    "/healthz/",
    "/readyz",
    "/api/docs",
    "/api/docs/",
    "/api/docs/openapi.json",
    "/api/docs/openapi.yaml",
    "/api/docs/problems",
    "/api/docs/static/swagger-ui.css",
]


@pytest.fixture
def guarded(anonymous, database):
    """A client without a key; the database of the service permits only queries for keys."""

    def fault(work):
        return None if work is accounts.find_key else AssertionError(f"unexpected query: {work}")

    database.fault = fault
    return anonymous


async def refused(asker, method, path, **options):
    """Check that the request is refused with the one response for invalid keys."""
    answer = await asker.ask(method, path, **options)
    assert 401 == answer.status, answer
    assert 'Bearer realm="invoices"' == answer.headers["WWW-Authenticate"]
    assert "application/problem+json" == answer.headers["Content-Type"]
    return answer


# Accepted


async def test_a_valid_key_is_accepted(as_ann):
    """A valid key is accepted by every operation."""
    assert 202 == (await as_ann.send("1")).status
    for method, path in PRIVATE:
        if method == "GET":
            answer = await as_ann.ask(method, path.format(id="1", **NAMES))

            # Listeners connect to a process that delivers; no loop runs here.
            status = 503 if path == "/listen/{name}/stream" else 200
            if "deliveries/" in path or "receivers/{" in path:
                status = 404

            assert status == answer.status, path


async def test_a_disabled_account_is_refused(as_ann, ann, administration):
    """Within five seconds, the key of a disabled account is refused."""
    assert 202 == (await as_ann.send("1")).status
    await administration.disable("ann")
    await advance_loop(CACHE_SECONDS)

    await refused(as_ann, "GET", "/invoices/1")


@pytest.mark.parametrize(("status", "is_disabled"), [(401, True), (200, False)])
async def test_a_request_that_waited_for_events_is_authenticated_again(
    as_ann, ann, administration, store, clock, status, is_disabled
):
    """What happens after an account was disabled is not told to a request that waited for it."""
    waiting = asyncio.create_task(as_ann.ask("GET", "/events?wait=60"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not store.arrivals.of(ann.account_id):  # noqa: ASYNC110 -- only the loop has to run
            await asyncio.sleep(0)
    if is_disabled:
        await administration.disable("ann")
    await advance_loop(CACHE_SECONDS)
    await add_delivery(store, account_id=ann.account_id)

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert status == (await waiting).status


async def test_an_expired_key_is_refused(as_ann, client, ann, administration, clock):
    """After the overlap of a rotation only the new key is accepted."""
    new = await administration.rotate_key("ann", timedelta(hours=1))
    assert 202 == (await as_ann.send("1")).status
    clock.advance(timedelta(hours=1))

    await refused(as_ann, "GET", "/invoices/1")
    assert await Asker(client, f"Bearer {new.key}").get("/invoices/1")


# Refused


@pytest.mark.parametrize(("method", "path"), PRIVATE)
@pytest.mark.parametrize("authorization", [None, "Basic YTpi", f"Bearer {UNKNOWN_KEY}", "Bearer x"])
async def test_without_a_valid_key_nothing_is_queried(guarded, method, path, authorization):
    """Every private operation refuses a request without a valid key before it queries the store."""
    headers = {"Authorization": authorization} if authorization else {}
    for form in (path, path.rstrip("/"), path.rstrip("/") + "/"):
        await refused(guarded, method, form.format(id="1", **NAMES), headers=headers)


@pytest.mark.parametrize(("method", "path"), PRIVATE)
async def test_without_a_valid_key_no_id_is_revealed(anonymous, ann, anns, method, path):
    """Without a valid key, existing and unknown ids get the same response."""
    known, unknown = "dead1", "none1"
    if path.startswith("/deliveries/"):
        known, unknown = "msg_dead1", "msg_none1"
    wrong = ann.key[:-2] + ("BA" if ann.key.endswith("AB") else "AB")

    for key in (UNKNOWN_KEY, wrong):
        headers = {"Authorization": f"Bearer {key}"}
        answers = [
            await refused(anonymous, method, path.format(id=id_, **NAMES), headers=headers)
            for id_ in (known, unknown)
        ]

        assert answers[0] == answers[1]
        assert WRONG_KEY in answers[0].body.decode()


async def test_every_wrong_key_is_answered_alike(anonymous, administration, ann):
    """The answer does not disclose whether a prefix is known, or a key was valid once."""
    disabled, expired = await administration.add("disabled"), await administration.add("expired")
    await administration.disable("disabled")
    await administration.rotate_key("expired", timedelta(0))
    wrong = ann.key[:-2] + ("BA" if ann.key.endswith("AB") else "AB")

    answers = [
        await refused(anonymous, "GET", "/invoices/", headers={"Authorization": f"Bearer {key}"})
        for key in (UNKNOWN_KEY, wrong, disabled.key, expired.key, "garbage")
    ]

    assert [answers[0]] * 5 == answers


async def test_the_refusal_names_the_missing_header(anonymous):
    """The refusal is a problem document that names the missing header."""
    answer = await refused(anonymous, "GET", "/invoices/")

    assert NO_KEY in answer.body.decode()
    assert b'"type":"/api/docs/problems#unauthorized"' in answer.body


async def test_head_is_refused_like_get(anonymous):
    """Without a key, HEAD gets the refusal of GET, without the body."""
    for path in [path for method, path in PRIVATE if method == "GET"]:
        head = await refused(anonymous, "HEAD", path.format(id="1", **NAMES))
        get = await refused(anonymous, "GET", path.format(id="1", **NAMES))

        assert (get.headers, b"") == (head.headers, head.body)


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        ("?limit=none", b"", {}),
        ("", b"{", JSON),
        ("", b"<xml/>", {"Content-Type": "text/xml"}),
        ("", b"x" * 70_000, JSON),
        ("", b"x", {**JSON, "Content-Encoding": "gzip"}),
        ("?callback_url=http://127.0.0.1", b"{}", JSON),
    ],
)
async def test_the_key_is_checked_before_the_request(guarded, query, body, headers):
    """The key is checked before the body, its type, its size and the query."""
    await refused(guarded, "POST", f"/invoices/{query}", data=body, headers=headers)


# Public paths


@pytest.mark.parametrize("path", OPEN_PATHS)
@pytest.mark.parametrize("authorization", [None, f"Bearer {UNKNOWN_KEY}"])
async def test_documentation_and_health_need_no_key(anonymous, service, clock, path, authorization):
    """Documentation and health are public, and a wrong key is ignored there."""
    headers = {"Authorization": authorization} if authorization else {}

    async with running_loops(service.loops, drain_seconds=PATIENCE_SECONDS):
        await clock.parked()
        for method in ("GET", "HEAD"):
            assert 200 == (await anonymous.ask(method, path, headers=headers)).status


@pytest.mark.parametrize("path", ["/", "/none", "/invoices/1/x", "/api", "/invoice"])
async def test_a_path_without_an_operation_is_404_for_everyone(anonymous, as_ann, path):
    """A path without an operation is 404 with a key and without one, in the same words."""
    answer = await anonymous.ask("GET", path)

    assert 404 == answer.status
    assert answer == await as_ann.ask("GET", path)


@pytest.mark.parametrize("path", sorted({path for _, path in PRIVATE}))
async def test_the_methods_of_a_path_are_public(anonymous, as_ann, path):
    """OPTIONS and wrong methods get the same response with a key and without one."""
    for method, status in (("OPTIONS", 204), ("DELETE", 405), ("PATCH", 405)):
        answer = await anonymous.ask(method, path.format(id="1", **NAMES))

        assert status == answer.status
        assert answer == await as_ann.ask(method, path.format(id="1", **NAMES))


# Bodies of requests without a key


class TestOnTheWire:
    @pytest.fixture
    def settings(self):
        """Settings with a body timeout that is longer than a test."""
        return Settings(body_timeout=timedelta(minutes=10))

    @pytest.mark.parametrize("length", [1, 60_000, 10 * 1024**3])
    async def test_a_request_without_a_key_is_refused_before_its_body(self, wire, length):
        """A request without a key is refused after its head, whatever length it declares."""
        answer = await wire.talk(raw_post(length=length))

        assert answer.startswith(b"HTTP/1.1 401")

    @pytest.mark.parametrize("length", [60_000, 10 * 1024**3])
    async def test_a_client_without_a_key_does_not_get_100_continue(self, wire, length):
        """A client without a key that expects 100 Continue gets 401 instead."""
        answer = await wire.talk(raw_post("Expect: 100-continue", length=length))

        assert answer.startswith(b"HTTP/1.1 401")
        assert b"100 Continue" not in answer

    async def test_a_client_with_a_key_gets_100_continue(self, wire, ann):
        """A client with a key that expects 100 Continue gets it, and is counted once."""
        body = b'{"id": "1", "customer": "c", "total": "1"}'
        head = raw_post(
            "Expect: 100-continue", f"Authorization: Bearer {ann.key}", length=len(body)
        )
        reader, writer = await wire.connect()
        writer.write(head)

        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 202")
        writer.close()

    @pytest.mark.parametrize(
        "header",
        [
            "Authorization: Bearer \xff\xfe",
            "Authorization: \xc3\x28",
            "Authorization: Bearer " + "A" * 7000,
            f"Authorization: Basic x\r\nAuthorization: Bearer {UNKNOWN_KEY}",
        ],
    )
    async def test_an_invalid_header_is_a_wrong_key(self, wire, header):
        """An Authorization header with invalid or too many bytes is refused, never a 500."""
        assert (await wire.talk(raw_post(header))).startswith(b"HTTP/1.1 401")

    async def test_of_two_keys_the_first_counts(self, wire, ann):
        """Of two Authorization headers only the first is used."""
        right, wrong = f"Authorization: Bearer {ann.key}", f"Authorization: Bearer {UNKNOWN_KEY}"

        assert (await wire.talk(raw_post(wrong, right, body=b"{}"))).startswith(b"HTTP/1.1 401")
        assert (await wire.talk(raw_post(right, wrong, body=b"{}"))).startswith(b"HTTP/1.1 422")


# An unavailable database


async def test_a_key_that_cannot_be_read_is_503(as_ann, database):
    """While the database is unavailable, the response is 503 and not 401."""
    database.fault = lambda _: StorageUnavailable("the database is away")

    answer = await as_ann.ask("GET", "/invoices/")

    assert 503 == answer.status
    assert "Retry-After" in answer.headers
