"""
Request ids, by which a request and everything that follows from it is found in the log.

A proxy in front of the service may have set the id; otherwise it is generated here.
"""

import re

from aiohttp import web
from multidict import istr

from service.domain.ids import new_id

HEADER = istr("X-Request-Id")

REQUEST_ID = web.RequestKey("request_id", str)
"""The id of the request, as logged and as answered."""

_USABLE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""Ids that are accepted from a header: they are stored and logged without being escaped."""


def request_id_of(request: web.BaseRequest) -> str:
    """The id of *request*: from its header if that is usable, else a new one."""
    known = request.get(REQUEST_ID)
    if known is None:
        known = request[REQUEST_ID] = new_request_id(request)
    return known


def new_request_id(request: web.BaseRequest) -> str:
    """The id that *request* gets, before it has one; see `request_id_of`."""
    given = request.headers.get(HEADER)
    return given if given and _USABLE.fullmatch(given) else new_id()
