"""Projects are rendered from the receiver's document, and written into an empty folder."""

from __future__ import annotations

import glob
import json
import re
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.__main__ import main
from service.app.documents import receiver_document_of
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.development import DEV_SECRET
from service.errors import DeclarationError
from service.receiver.projects.identifiers import camel, pascal, snake
from service.receiver.projects.inbound import BodyField, inbound_callbacks
from service.receiver.projects.languages import LANGUAGES, stored_in_javascript
from service.receiver.projects.literals import go_value, java_literal, python_literal
from service.receiver.projects.routes import example_path, path_literals
from service.receiver.projects.writing import FolderNotEmpty, rendered_project, write_project
from service.receiver.vectors import vectors_document
from service.settings import Settings

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "service/receiver/projects"
SCREEN_LINES = 50

VECTORS = vectors_document(INVOICE_NOTIFICATION)


@pytest.fixture(scope="module")
def document():
    """The document of the receiver of invoices."""
    return receiver_document_of(Settings())


def document_with(path, name="odd", **schema):
    """A document with one callback at *path*, whose body has the properties *schema*."""
    parameters = [
        {"in": "path", "name": one, "required": True, "example": "a/b"}
        for one in re.findall(r"\{(.*?)\}", path)
    ]
    operation = {
        "operationId": name,
        "summary": "Odd.",
        "parameters": parameters,
        "requestBody": {
            "content": {"application/json": {"schema": {"properties": schema}, "example": {}}}
        },
        "responses": {
            "401": {"description": "Refused."},
            "201": {"content": {"application/json": {"example": {"seen": True}}}},
        },
    }
    return {"paths": {path: {"put": operation}}}


def files_of(language, document):
    """The files of a project, by their path."""
    return dict(rendered_project(language, document, VECTORS, DEV_SECRET))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_project_is_complete(language, document):
    """It has a start, tests, an image, a page that fits a screen, the document and the vectors."""
    files = files_of(language, document)

    assert {"run", "test", "Dockerfile", "README.md", "openapi.json", "vectors.json"} <= set(files)
    assert all(files[name].startswith("#!/bin/sh\n") for name in ("run", "test"))
    assert len(files["README.md"].splitlines()) <= SCREEN_LINES
    assert (document, VECTORS) == tuple(
        json.loads(files[name]) for name in ("openapi.json", "vectors.json")
    )
    assert [] == [name for name, text in files.items() if "{%" in text]
    assert [] == [name for name, text in files.items() if not text.endswith("\n")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_folder_is_made_and_its_scripts_can_be_run(language, document, tmp_path):
    """The folder and its parents are made; what begins with #! is executable, nothing else is."""
    folder = tmp_path / "a/b"

    write_project(language, folder, document, VECTORS, DEV_SECRET)

    executable = {one.name for one in folder.iterdir() if one.is_file() and one.stat().st_mode & 1}
    assert {"run", "test"} == executable - {"install"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_folder_is_overwritten(language, document, tmp_path):
    """A folder with something in it, even a hidden file, is left as it is; so is a file."""
    hidden = tmp_path / ".hidden"
    hidden.touch()

    for taken in (tmp_path, hidden):
        with pytest.raises(FolderNotEmpty):
            write_project(language, taken, document, VECTORS, DEV_SECRET)

    assert [hidden] == list(tmp_path.iterdir())


def test_command_writes_a_project(tmp_path):
    """`invoices receiver new` writes the project, and says how to go on."""
    folder = tmp_path / "project"

    ended = CliRunner().invoke(main, ["receiver", "new", "--lang", "go", str(folder)])

    assert (0, True) == (ended.exit_code, (folder / "go.mod").exists())
    assert "./run" in ended.output


@pytest.mark.parametrize(
    "arguments", [["--lang", "go", "."], ["--lang", "cobol", "new"], ["new"], ["--lang", "go"]]
)
def test_wrong_usage_ends_with_2(arguments, tmp_path, monkeypatch):
    """A folder that is not empty, an unknown language and a missing argument are wrong usage."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()

    ended = CliRunner().invoke(main, ["receiver", "new", *arguments])

    assert 2 == ended.exit_code
    assert ["file"] == [one.name for one in tmp_path.iterdir()]


def test_nothing_is_written_for_a_callback_that_the_language_cannot_receive(tmp_path):
    """Go's router takes no text beside a parameter: an error says so, and no folder is made."""
    with pytest.raises(DeclarationError, match="text beside a parameter"):
        write_project("go", tmp_path / "new", document_with("/x-{id}"), VECTORS, DEV_SECRET)

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("language", "route"),
    [
        ("python-aiohttp", "/a(b)/{class_:[^/]+}-{id:[^/]+}.json"),
        ("python-fastapi", "/a(b)/{class_}-{id}.json"),
        ("python-flask", "/a(b)/<class_>-<id>.json"),
        ("node-express", r'/a\(b\)/:"class_"-:"id".json'),
        ("java-spring", "/a(b)/{class_}-{id}.json"),
    ],
)
def test_routes(language, route):
    """A route has the parameters of the path, and its literal text as the router takes it."""
    (callback,) = inbound_callbacks(document_with("/a(b)/{class}-{id}.json"))

    assert route == LANGUAGES[language].filters["route"](callback)


def test_names_of_express_stand_without_quotation_marks_in_whole_segments():
    """The usual route is as people write it."""
    (callback,) = inbound_callbacks(document_with("/invoices/{id}"))

    assert "/invoices/:id" == LANGUAGES["node-express"].filters["route"](callback)


@pytest.mark.parametrize(("path", "route"), [("/a/{id}", "/a/{id}"), ("/a/", "/a/{$}")])
def test_routes_of_go_match_one_path(path, route):
    """A route that ends with a slash would match every path below it."""
    (callback,) = inbound_callbacks(document_with(path, told={"type": "string"}))

    assert route == LANGUAGES["go"].filters["route"](callback)


def test_example_path_is_encoded():
    """Tests of a project call the path with its example values, or with values of their own."""
    (callback,) = inbound_callbacks(document_with("/a/{id}/b{x}"))

    with_query = replace(callback, query=("x-y",), values={**callback.values, "x-y": "a b"})

    assert "/a/a%2Fb/ba%2Fb" == example_path(callback)
    assert "/a/a%2Fb/ba%2Fb?x-y=a+b" == example_path(with_query)
    assert ["/a/", "/b", ""] == path_literals(callback)


def test_a_callback_is_read_from_the_document(document):
    """Names, body, answer and example are those of the declaration."""
    (callback,) = inbound_callbacks(document)

    assert INVOICE_NOTIFICATION.name == callback.name
    assert INVOICE_NOTIFICATION.request_example == callback.example
    assert (200, INVOICE_NOTIFICATION.response_example) == (callback.status, callback.answer)
    assert ["id"] == callback.parameters


def test_the_ids_of_an_event_are_compared_with_the_path(document):
    """The signature covers the body alone, so an id in it has to name its parameter of the path."""
    (callback,) = inbound_callbacks(document)

    ids = [one.name for one in callback.fields if one.name.endswith("_id")]
    assert ids == [one.name for one in callback.repeated]


def test_a_field_that_repeats_a_parameter_is_compared():
    """Only a required text can be; its example is that of the path, which is stored once."""
    text = {"type": "string", "x-path-parameter": "id"}
    document = document_with(
        "/a/{id}/{other}", told=text, unknown={**text, "x-path-parameter": "no"}
    )
    schema = document["paths"]["/a/{id}/{other}"]["put"]["requestBody"]["content"]
    schema["application/json"]["schema"]["required"] = ["told", "unknown"]

    (callback,) = inbound_callbacks(document)

    assert ["told"] == [one.name for one in callback.repeated]
    assert {"told": "a/b", "unknown": "example"} == callback.example
    assert ["other"] == callback.stored_parameters


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_parameters_of_a_query_are_given_to_the_work(language):
    """A parameter of the query is read by its name, and stored like one of the path."""
    document = document_with("/a/{id}")
    parameter = {"in": "query", "name": "x-y", "required": True, "example": ["a", "b"]}
    document["paths"]["/a/{id}"]["put"]["parameters"].append(parameter)

    files = files_of(language, document)

    (callback,) = inbound_callbacks(document)
    assert (["id", "x-y"], "a") == (callback.stored_parameters, callback.values["x-y"])
    routes = {"app.py", "app.js", "main.go", "src/main/java/receiver/Routes.java"} & set(files)
    assert [True] == ['"x-y"' in files[name] for name in routes]


def test_two_callbacks_with_one_name_in_a_program_are_refused():
    """Names that differ only in what no identifier has would be one function."""
    first, second = document_with("/a/{id}", "a-b"), document_with("/b/{id}", "a.b")

    with pytest.raises(DeclarationError, match="a_b"):
        inbound_callbacks({"paths": first["paths"] | second["paths"]})


def test_a_callback_without_anything_to_store_is_refused():
    """Its table would have no column."""
    with pytest.raises(DeclarationError, match="neither a parameter nor a field"):
        inbound_callbacks(document_with("/ping"))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("invoice_id", ("InvoiceId", "invoiceId", "invoice_id")),
        ("place-name", ("PlaceName", "placeName", "place_name")),
        ("class", ("Class", "class_", "class_")),
        ("2nd", ("X2nd", "x2nd", "x_2nd")),
        ("é", ("X", "x", "x_")),
    ],
)
def test_names_are_identifiers(name, names):
    """Any name becomes an identifier of a type, and of a value in both styles."""
    assert names == (pascal(name), camel(name), snake(name))


def test_literals():
    """A value of JSON is an expression of each language."""
    value = {"a": [True, None, 1, 'x"\\ é']}

    assert '{"a": [True, None, 1, "x\\"\\\\ é"]}' == python_literal(value)
    assert 'map[string]any{"a": []any{true, nil, 1, "x\\"\\\\ é"}}' == go_value(value)
    assert 'Map.of("a", List.of(true, 1))' == java_literal({"a": [True, 1]})


def test_node_stores_no_undefined_and_no_boolean():
    """`node:sqlite` takes neither, so a missing value is null and a boolean a number."""

    def stored(name, type_, *, is_required):
        return stored_in_javascript(
            BodyField(name, type_, is_required, is_nullable=False, description="", repeats=None)
        )

    assert "event.a ?? null" == stored("a", "string", is_required=False)
    assert 'event["a-b"]' == stored("a-b", "string", is_required=True)
    assert "event.a == null ? null : Number(event.a)" == stored("a", "boolean", is_required=False)
    assert "JSON.stringify(event.a ?? null)" == stored("a", "array", is_required=True)


def test_the_packages_of_node_are_those_of_the_tests():
    """The tests run a project with the packages of tests/signatures, which must be the same."""
    template = TEMPLATES / "node-express/package-lock.json.jinja"
    own, tested = (
        json.loads(path.read_text(encoding="utf-8"))["packages"]
        for path in (template, ROOT / "tests/signatures/package-lock.json")
    )
    package = json.loads((TEMPLATES / "node-express/package.json.jinja").read_text())

    assert own.pop("")["dependencies"] == tested.pop("")["dependencies"] == package["dependencies"]
    assert tested == own


def test_an_installed_package_has_every_template():
    """The patterns of setup.cfg match every file of a template, hidden ones included."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["service.receiver.projects"].split()

    packaged: set[str] = set()
    for one in patterns:
        # Like setuptools, and unlike pathlib, its * matches no hidden file.
        packaged |= set(glob.glob(one, root_dir=TEMPLATES, recursive=True))  # noqa: PTH207

    files = (one.relative_to(TEMPLATES) for one in TEMPLATES.rglob("*") if one.is_file())
    templates = {str(one) for one in files if one.suffix not in {".py", ".pyc"}}
    assert set() == templates - packaged
