"""Schemas for flat objects that arrive and leave by the thousand."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, missing

from schemas.fields import StrictBoolean, Text

PLAIN = {fields.String: str, Text: str, fields.Boolean: bool, StrictBoolean: bool}
"""Kinds of fields, each with the type whose values it dumps as they are."""


KNOWN_NAMES = 64
"""Sets of names that objects to dump have, and that are remembered."""


class FlatSchema(Schema):
    """
    A schema that loads what is valid in one pass over the fields that were sent.

    marshmallow makes two calls, a closure and a store of errors for each declared field, sent or
    not: 4 % of all instructions for a delivered invoice. It still loads what is not valid, so that
    the errors are its own. Dumping a dictionary of texts and booleans took another 3 %.

    A subclass has no hooks (`pre_load`, `validates` and the like), no default that is made by a
    call, no default for dumping, and no `attribute` with a point: they would be left out.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        loaded = self.load_fields.items()
        self._loading = {
            one.data_key or name: (one.attribute or name, one.deserialize) for name, one in loaded
        }
        self._needed = {one.attribute or name for name, one in loaded if one.required}
        self._absent = {
            one.attribute or name: one.load_default
            for name, one in loaded
            if one.load_default is not missing
        }

        self._plain: dict[tuple[str, ...], list[tuple[str, str, type | None]]] = {}
        """For the names that objects have: those that are dumped, in the order of the fields."""

    def load(self, data: Any, **options: Any) -> Any:
        """As every schema does."""
        if not options and isinstance(data, Mapping):
            loaded = self._absent.copy()
            try:
                for name, value in data.items():
                    attribute, deserialize = self._loading[name]
                    loaded[attribute] = deserialize(value, name, data)
            except (KeyError, ValidationError):
                return super().load(data)
            if self._needed <= loaded.keys():
                return loaded
        return super().load(data, **options)

    def dump(self, obj: Any, **options: Any) -> Any:
        """As every schema does."""
        if type(obj) is dict and not options:
            names, dumped = tuple(obj), {}
            plain = self._plain.get(names) or self._plain_of(names)
            for name, key, kind in plain:
                value = dumped[key] = obj[name]
                if type(value) is not kind:
                    break
            else:
                return dumped
        return super().dump(obj, **options)

    def _plain_of(self, names: tuple[str, ...]) -> list[tuple[str, str, type | None]]:
        found = [
            (attribute, one.data_key or name, PLAIN.get(type(one)))
            for name, one in self.dump_fields.items()
            if (attribute := one.attribute or name) in names
        ]
        if len(self._plain) < KNOWN_NAMES:
            self._plain[names] = found
        return found
