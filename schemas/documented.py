"""The descriptions of fields in the document, and examples of objects made from those of fields."""

from typing import Any

from marshmallow import Schema, fields


def documented(description: str = "", **more: Any) -> dict[str, Any]:
    """The metadata of a field: *description*, `example`, and other keywords of JSON Schema."""
    return {"description": description, **more} if description else more


def example_of(schema: type[Schema] | Schema) -> dict[str, Any]:
    """An example of what *schema* describes; a field without an example gives None."""
    instance = schema if isinstance(schema, Schema) else schema()
    return {
        field.data_key or name: _example_of_field(field) for name, field in instance.fields.items()
    }


def _example_of_field(field: fields.Field[Any]) -> Any:
    if isinstance(field, fields.Nested):
        return example_of(field.schema)
    if isinstance(field, fields.List):
        return [_example_of_field(field.inner)]
    return field.metadata.get("example")
