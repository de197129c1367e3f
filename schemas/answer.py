"""
The form of everything that is answered: no field is ever left out, and more may come.

Were the documented objects closed, a field added later would break the strict among the
clients that are generated from the document.
"""

from __future__ import annotations

from typing import Any

from marshmallow import EXCLUDE, Schema, fields


class AnswerSchema(Schema):
    """An object that is answered; in the document its fields are required, and it is open."""

    class Meta:
        """Open: fields that are not declared are ignored."""

        unknown = EXCLUDE

    def on_bind_field(self, _field_name: str, field_obj: fields.Field[Any]) -> None:
        """Declare the field as always there, unless its `metadata` says `optional`."""
        field_obj.required = not field_obj.metadata.get("optional", False)
