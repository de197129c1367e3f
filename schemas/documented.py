"""The descriptions of fields in the document, and examples of objects made from those of fields."""

from typing import Any

from marshmallow import Schema, fields


def documented(description: str = "", **more: Any) -> dict[str, Any]:
    """The metadata of a field: *description*, `example`, and other keywords of JSON Schema."""
    return {"description": description, **more} if description else more


def example_of(schema: type[Schema] | Schema) -> dict[str, Any]:
    """
    An example of what *schema* describes; a field without an example gives None.

    One that is usually absent (`optional`) and has no example is left out.
    """
    instance = schema if isinstance(schema, Schema) else schema()
    return {
        field.data_key or name: _example_of_field(field)
        for name, field in instance.fields.items()
        if not _is_left_out(field)
    }


def _is_left_out(field: fields.Field[Any]) -> bool:
    is_plain = not isinstance(field, (fields.Nested, fields.List))
    return is_plain and "optional" in field.metadata and "example" not in field.metadata


def _example_of_field(field: fields.Field[Any]) -> Any:
    if isinstance(field, fields.Nested):
        return example_of(field.schema)
    if isinstance(field, fields.List):
        return [_example_of_field(field.inner)]
    return field.metadata.get("example")
