"""
Request ids: by which one request, and all that follows from it, is found in the log.

Whoever stands in front of the service may have named the request already; else it is named here.
"""

from __future__ import annotations

import re

from aiohttp import web

from service.domain.ids import new_id

HEADER = "X-Request-Id"

REQUEST_ID = web.RequestKey("request_id", str)
"""What the request is called in our log and in its answer."""

_USABLE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""What is taken from others: it is stored and logged, and must not look like anything else."""


def request_id_of(request: web.BaseRequest) -> str:
    """The id of *request*: the one that it came with, if that can be used, or a new one."""
    if REQUEST_ID not in request:
        given = request.headers.get(HEADER, "")
        request[REQUEST_ID] = given if _USABLE.fullmatch(given) else new_id()
    return request[REQUEST_ID]
