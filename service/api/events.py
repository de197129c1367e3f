"""The operation that tells what happened, for receivers that cannot be called and to catch up."""

from datetime import timedelta

from aiohttp import hdrs, web
from aiohttp_apispec import docs, querystring_schema

from schemas.feed import FeedPageSchema, FeedQuerySchema
from service.api.dependencies import DEPENDENCIES
from service.api.feed import Client, Wanted
from service.api.operations import answers, refuses
from service.web.middlewares import ACCOUNT_ID
from service.web.server import is_lost, when_lost


@docs(
    tags=["events"],
    operationId="list_events",
    summary="Follow what happened",
    description="Every event of your invoices, in the order in which it was stored: what your API "
    "was called with, or would have been. Nothing is skipped and nothing comes twice if you store "
    "`next` together with what you have done, and send it as `after`. The events of one invoice "
    "are in their order. With `wait`, the answer comes as soon as there is something new, and "
    "after so many seconds without items; while much happens, five times a second at most. At most "
    "10 requests of an account wait at a time. An event may appear a moment after its callback "
    "has arrived.",
)
@querystring_schema(FeedQuerySchema)
@answers(FeedPageSchema, "A page of events, oldest first; without items where nothing is new.")
@refuses(400, 401, 422, 429, 503)
async def list_events(request: web.Request) -> web.Response:
    """A page of the feed."""
    query = request["querystring"]
    # The answer to HEAD tells nothing that would be worth waiting for.
    wait_seconds = 0 if request.method == hdrs.METH_HEAD else query["wait"]
    wanted = Wanted(query.get("after"), query["limit"], timedelta(seconds=wait_seconds))
    client = Client(lambda: is_lost(request), lambda wake: when_lost(request, wake))
    dependencies = request.app[DEPENDENCIES]
    response = await dependencies.feed.answer(request[ACCOUNT_ID], wanted, client)
    if wait_seconds:
        # The key may have been replaced, or the account disabled, while the request waited.
        await dependencies.authenticate(request.headers.get(hdrs.AUTHORIZATION))
    return response
