"""The parts of the document: examples of fields, declared callbacks, readable YAML."""

from __future__ import annotations

from datetime import timedelta

import yaml
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from schemas.delivery import DeliveryPageSchema
from schemas.documented import example_of
from schemas.invoice import CallbackQuerySchema, InvoiceRequestSchema
from service.api.application import OPERATIONS
from service.api.callback_plugin import CallbackPlugin
from service.api.docs import as_yaml
from service.api.operations import other_form
from service.callbacks.invoices import INVOICE_NOTIFICATION

PLUGIN = CallbackPlugin(timeout=timedelta(seconds=15), is_strict=True)


def test_example_is_made_of_the_examples_of_fields():
    """The example of a schema is built from the examples of its fields, nested ones included."""
    example = example_of(DeliveryPageSchema)

    assert {"items", "next"} == set(example)
    assert "2expen51ve" == example["items"][0]["invoice_id"]
    assert {"description": "Invoice paid", "paid": True} == example["items"][0]["event"]


def test_plugin_adds_the_declared_callbacks():
    """The plugin adds the declared callbacks to an operation of any specification."""
    spec = APISpec("t", "1", "3.1.0", plugins=[PLUGIN, MarshmallowPlugin()])
    operation = {
        "parameters": [{"in": "query", "schema": CallbackQuerySchema}],
        "requestBody": {"content": {"application/json": {"schema": InvoiceRequestSchema}}},
        "responses": {},
    }
    spec.path("/x", operations={"post": operation}, declared=[INVOICE_NOTIFICATION])
    callbacks = spec.to_dict()["paths"]["/x"]["post"]["callbacks"]
    body = callbacks["invoice_notification"][INVOICE_NOTIFICATION.expression]["post"]["requestBody"]
    reference = body["content"]["application/json"]["schema"]["$ref"]

    assert reference.startswith("#/components/schemas/InvoiceNotification")


def test_operation_without_callbacks_is_unchanged():
    """An operation without callbacks gets no `callbacks` in the document."""
    spec = APISpec("t", "1", "3.1.0", plugins=[PLUGIN])
    spec.path("/x", operations={"get": {"responses": {}}})

    assert "callbacks" not in spec.to_dict()["paths"]["/x"]["get"]


def test_yaml_is_readable():
    """Long texts are block scalars, there are no aliases, and the order is kept."""
    shared = ["a", "b"]
    document = {"z": "one\ntwo\n", "a": shared, "m": shared}
    text = as_yaml(document)

    assert "z: |\n  one\n  two\na:\n- a\n- b\nm:\n- a\n- b\n" == text
    assert document == yaml.safe_load(text)


def test_every_path_has_another_form():
    """Every path has a second form, with or without the trailing slash, and the reverse."""
    for operation in OPERATIONS:
        path = operation.path

        assert path != other_form(path)
        assert path == other_form(other_form(path))
