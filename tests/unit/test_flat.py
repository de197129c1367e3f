"""A flat schema loads as every schema does, in fewer steps."""

from types import SimpleNamespace

import pytest
from marshmallow import ValidationError, missing

from schemas.event import InvoiceNotificationSchema
from schemas.flat import FlatSchema
from schemas.invoice import InvoiceRequestSchema


def below(kind):
    """Every schema that is a kind of *kind*."""
    return [one for child in kind.__subclasses__() for one in (child, *below(child))]


FLAT_SCHEMAS = below(FlatSchema)

INVOICE = {"id": "i", "customer": "c", "total": "1.50", "currency": "USD"}


@pytest.mark.parametrize("kind", FLAT_SCHEMAS)
def test_a_flat_schema_has_nothing_that_would_be_left_out(kind):
    """No hooks, no defaults that are made by a call, and no places inside other objects."""
    schema = kind()
    fields = schema.load_fields.values()

    assert {InvoiceRequestSchema, InvoiceNotificationSchema} <= {*FLAT_SCHEMAS}
    assert [] == [name for name, functions in schema._hooks.items() if functions]
    assert (False, None, dict) == (schema.many, schema.partial, schema.dict_class)
    assert not any(callable(one.load_default) for one in fields)
    assert {missing} == {one.dump_default for one in schema.dump_fields.values()}
    assert not any("." in (one.attribute or "") for one in fields)


@pytest.mark.parametrize(
    "data",
    [
        INVOICE,
        {**INVOICE, "title": None, "locale": "de-ch", "customer_email": "a@b.example"},
        {**INVOICE, "title": "t", "total": 12},
        {**INVOICE, "total": "1.555"},
        {**INVOICE, "customer_email": "nobody"},
        {**INVOICE, "unknown": 1},
        {"id": 5, "customer": "", "total": "x"},
        {},
        [],
        None,
    ],
)
def test_a_flat_schema_loads_as_marshmallow_does(data):
    """Values and field errors are those of marshmallow, whatever is sent."""
    schema = InvoiceRequestSchema()

    def result(load):
        try:
            return load(schema, data)
        except ValidationError as invalid:
            return invalid.messages

    assert result(super(FlatSchema, InvoiceRequestSchema).load) == result(InvoiceRequestSchema.load)


def test_the_options_of_loading_are_those_of_marshmallow():
    """Many at once and partial data are loaded too."""
    schema = InvoiceRequestSchema()

    assert [2] == [len(schema.load([INVOICE, INVOICE], many=True))]
    assert {"id": "i"} == {
        name: value for name, value in schema.load({"id": "i"}, partial=True).items() if value
    }


EVENT = {"description": "Invoice paid", "paid": True, "invoice_id": "i"}


@pytest.mark.parametrize(
    "event",
    [
        EVENT,
        {**EVENT, "test": True},
        {**EVENT, "other": 1},
        {"invoice_id": "i", "paid": False},
        {**EVENT, "description": 5, "paid": "yes"},
        {**EVENT, "description": None, "paid": None},
        SimpleNamespace(**EVENT),
    ],
)
def test_a_flat_schema_dumps_as_marshmallow_does(event):
    """Names, values and their order are those of marshmallow, whatever is dumped."""
    schema = InvoiceNotificationSchema()

    expected = super(FlatSchema, schema).dump(event)

    assert [*expected.items()] == [*schema.dump(event).items()]
    assert [expected] == schema.dump([event], many=True)
