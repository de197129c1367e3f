"""Every project that `invoices receiver new` writes can be started, and passes its own tests."""

from __future__ import annotations

import http.client
import json
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest
from click.testing import CliRunner
from marshmallow import Schema, fields

from service.__main__ import main
from service.callbacks.declaration import Callback
from service.callbacks.exchange import Exchange, Message
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.receiver.document import Promise, build_receiver_document
from service.receiver.projects.languages import LANGUAGES
from service.receiver.projects.writing import write_project
from service.receiver.vectors import vectors_document
from service.settings import Settings
from tests.projects import tools

pytestmark = [pytest.mark.projects, pytest.mark.slow]

EXAMPLE = Exchange(
    "/x",
    "POST",
    Message(body={"id": "2expen51ve", "class": "a/b", "type-of": "c"}, query={"url": "http://h"}),
)


class PickedUpSchema(Schema):
    place = fields.String(required=True, metadata={"example": "Zürich 🧾"})


class SeenSchema(Schema):
    seen = fields.Boolean(required=True, metadata={"example": True})


class OddSchema(Schema):
    """Fields of every type, with names that are words of some language."""

    type_of = fields.String(
        required=True, data_key="type-of", metadata={"x-path-parameter": "type-of"}
    )
    class_ = fields.String(
        required=True,
        allow_none=True,
        data_key="class",
        metadata={"description": 'Ends a comment: */ """ \\u000a\nand a line.'},
    )
    func = fields.Boolean()
    count = fields.Integer(required=True, metadata={"example": 3})
    weight = fields.Float(allow_none=True)
    tags = fields.List(fields.String(metadata={"example": "a"}))
    sender = fields.Dict()
    anything = fields.Raw()


PARCEL_PICKED_UP = Callback(
    name="parcel_picked_up",
    expression="{$request.query.url}/invoices/{$request.body#/id}/parcels/{$request.body#/id}"
    "?type={$request.body#/class}&plain=1",
    method="put",
    request=PickedUpSchema,
    response=SeenSchema,
    summary="A parcel was picked up",
    description="The second callback of an API.",
)
ODD = Callback(
    name="odd-one",
    expression="{$request.query.url}/odd(1)/{$request.body#/class}/{$request.body#/type-of}",
    method="post",
    request=OddSchema,
    response=SeenSchema,
    summary="An event whose names are hard",
    description="What no API should do.",
)
ANOTHER = replace(
    INVOICE_NOTIFICATION,
    name="another",
    expression="{$request.query.url}/another",
    summary="The event of the first callback, sent to a path without a parameter",
)


@pytest.fixture(scope="module")
def four_callbacks():
    """The receiver's document of an API with three callbacks more."""
    return build_receiver_document(
        [Promise(one, EXAMPLE) for one in (INVOICE_NOTIFICATION, PARCEL_PICKED_UP, ODD, ANOTHER)],
        version="1",
        timeout=Settings().callback_timeout,
        is_strict=True,
    )


@pytest.fixture(params=LANGUAGES)
def language(request):
    """Each language; skipped by name where the machine lacks it."""
    if reason := tools.missing(request.param):
        pytest.skip(reason)
    return request.param


def test_a_project_of_several_callbacks_passes_its_own_tests(language, four_callbacks, tmp_path):
    """Each callback of the document is in the project: route, body, work and tests."""
    project = tmp_path / "project"
    vectors = vectors_document(INVOICE_NOTIFICATION)
    write_project(language, project, four_callbacks, vectors, DEV_SECRET)
    tools.link_packages(language, project)

    tools.run(["./test"], project)


@contextmanager
def started(project, database):
    """The receiver of *project*, as ./run starts it: its URL. It is killed in the end."""
    settings = {"PORT": "0", "DATABASE": str(database)}
    with subprocess.Popen(
        ["./run"],
        cwd=project,
        env=tools.environment() | settings,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield next(line for line in process.stdout if "http" in line).split()[-1]
        finally:
            process.kill()


def send(url, invoice_id):
    """Send an event as the service does; returns status and answer."""
    event = {**INVOICE_NOTIFICATION.request_example, "invoice_id": invoice_id}
    body = INVOICE_NOTIFICATION.render(event)
    signed = Signer((DEV_SECRET,)).headers("msg_1", datetime.now(UTC), body)
    headers = {"Content-Type": "application/json", **signed}
    address = urlsplit(url)
    with closing(http.client.HTTPConnection(address.hostname, address.port, timeout=60)) as sent:
        sent.request("POST", f"/invoices/{quote(invoice_id, safe='')}", body, headers)
        answer = sent.getresponse()
        return answer.status, json.load(answer)


def test_a_new_project_conforms(language, tmp_path):
    """A project passes every check as it was written, and does no work twice if it is killed."""
    project, database = tmp_path / "project", tmp_path / "receiver.db"
    new = CliRunner().invoke(main, ["receiver", "new", "--lang", language, str(project)])
    assert 0 == new.exit_code, new.output
    tools.link_packages(language, project)
    acknowledged = 200, dict(INVOICE_NOTIFICATION.response_example)

    with started(project, database) as url:
        assert acknowledged == send(url, "a/b c")
    with started(project, database) as url:
        assert acknowledged == send(url, "a/b c")
        with closing(sqlite3.connect(database)) as db:
            assert [(1,)] == db.execute("SELECT count(*) FROM invoice_notification").fetchall()
        checked = CliRunner().invoke(main, ["check-receiver", url])
        assert 0 == checked.exit_code, checked.output
