from datetime import datetime, timedelta

import pytest

from tests.processes import environment, free_port, receiving, serving

SCHEDULE = {"RETRY_SCHEDULE": "500ms,500ms"}
EARLIEST = timedelta(milliseconds=400)
"""The delay of the schedule, as short as chance may make it."""

LOST = ("unreachable", None, "the connection was lost before the answer was complete", None)
INCOMPLETE = (
    "malformed",
    200,
    "the body of the answer is incomplete or not valid HTTP",
    None,
)
STORIES = {
    "nothing": LOST,
    "half-a-head": LOST,
    "half-a-body": INCOMPLETE,
    "endless-chunks": INCOMPLETE,
    # A refusal says all in its head.
    "half-a-refusal": ("refused", 503, "the receiver answered 503", '{"ok":'),
}


@pytest.mark.parametrize(("piece", "story"), STORIES.items(), ids=STORIES.keys())
async def test_a_receiver_that_dies_while_it_answers_is_asked_again(tmp_path, warm, piece, story):
    """What came is told as it was, and the next attempt is made when the schedule says."""
    port = free_port()
    async with serving(tmp_path, start=warm.start, **SCHEDULE) as service:
        dying = await warm.start(
            "tests.acceptance.dying_receiver", str(port), piece, env=environment()
        )
        said = aiter(dying.stderr)
        assert b"listening\n" == await anext(said)
        await service.send("1", f"http://127.0.0.1:{port}")
        assert [b"\n"] == [line async for line in said]
        async with receiving(port) as receiver:
            delivery = await service.delivery_of("1", is_settled=True)

    first, second = delivery["attempts"]
    assert story == tuple(
        first[name] for name in ("outcome", "status_code", "detail", "response_body")
    )
    assert ("delivered", "delivered", 1) == (
        delivery["status"],
        second["outcome"],
        len(receiver.arrived),
    )
    made_at = [datetime.fromisoformat(one["started_at"]) for one in (first, second)]
    assert EARLIEST <= made_at[1] - made_at[0]
