from datetime import datetime, timedelta

import pytest

from tests.processes import environment, free_port, receiving, serving

SCHEDULE = {"RETRY_SCHEDULE": "500ms,500ms"}
EARLIEST = timedelta(milliseconds=400)
"""The shortest delay of the schedule after jitter."""

LOST = ("unreachable", None, "the connection was lost before the answer was complete", None)
INCOMPLETE = (
    "malformed",
    200,
    "the body of the answer is incomplete or not valid HTTP",
    None,
)
CASES = {
    "nothing": LOST,
    "half-a-head": LOST,
    "half-a-body": INCOMPLETE,
    "endless-chunks": INCOMPLETE,
    # The head of a refusal is enough.
    "half-a-refusal": ("refused", 503, "the receiver answered 503", '{"ok":'),
}


@pytest.mark.parametrize(("piece", "expected"), CASES.items(), ids=CASES.keys())
async def test_a_receiver_that_dies_during_its_answer_is_called_again(
    tmp_path, warm, piece, expected
):
    """The partial answer is recorded, and the next attempt follows the schedule."""
    port = free_port()
    async with serving(tmp_path, start=warm.start, **SCHEDULE) as service:
        dying = await warm.start(
            "tests.acceptance.dying_receiver", str(port), piece, env=environment()
        )
        said = aiter(dying.stderr)
        assert b"listening\n" == await anext(said)
        await service.send("1", f"http://127.0.0.1:{port}")
        assert [] == [line async for line in said]
        async with receiving(port) as receiver:
            delivery = await service.delivery_of("1", is_settled=True)

    first, second = delivery["attempts"]
    assert expected == tuple(
        first[name] for name in ("outcome", "status_code", "detail", "response_body")
    )
    assert ("delivered", "delivered", 1) == (
        delivery["status"],
        second["outcome"],
        len(receiver.arrived),
    )
    made_at = [datetime.fromisoformat(one["started_at"]) for one in (first, second)]
    assert EARLIEST <= made_at[1] - made_at[0]
