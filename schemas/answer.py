"""
The base schema of every answer: all fields are always present, and later versions may add more.

A closed object (`additionalProperties: false`) would make strict generated clients fail when a
field is added.
"""

from typing import Any

from marshmallow import EXCLUDE, Schema, fields


class AnswerSchema(Schema):
    """Base of the response schemas; in the document their fields are required and they are open."""

    class Meta:
        """Open: fields that are not declared are ignored."""

        unknown = EXCLUDE

    def on_bind_field(self, _field_name: str, field_obj: fields.Field[Any]) -> None:
        """Mark the field as required, unless its `metadata` contains `optional`."""
        field_obj.required = not field_obj.metadata.get("optional", False)
