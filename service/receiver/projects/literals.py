"""Values made of JSON, as expressions of a language."""

import json
from collections.abc import Mapping
from typing import Any


def literal(value: Any) -> str:
    """*value* as JSON, which is a literal in every language but for constants and containers."""
    return json.dumps(value, ensure_ascii=False)


def python_literal(value: Any) -> str:
    """*value*, made of JSON, as a Python literal with double quotes."""
    match value:
        case dict():
            items = (f"{literal(key)}: {python_literal(one)}" for key, one in value.items())
            return f"{{{', '.join(items)}}}"
        case list():
            return f"[{', '.join(map(python_literal, value))}]"
        case str():
            return literal(value)
        case _:
            return repr(value)


def go_literal(value: Any) -> str:
    """*value*, made of JSON, as a composite literal of Go behind its type."""
    match value:
        case dict():
            items = (f"{literal(key)}: {go_value(one)}" for key, one in value.items())
            return f"{{{', '.join(items)}}}"
        case list():
            return f"{{{', '.join(map(go_value, value))}}}"
        case _:
            return "nil" if value is None else literal(value)


def go_value(value: Any) -> str:
    """*value*, made of JSON, as an expression of Go."""
    kinds: Mapping[type, str] = {dict: "map[string]any", list: "[]any"}
    return kinds.get(type(value), "") + go_literal(value)


def java_literal(value: Any) -> str:
    """*value*, made of JSON without nulls, as an expression of Java."""
    match value:
        case dict():
            entries = (text for pair in value.items() for text in map(java_literal, pair))
            return f"Map.of({', '.join(entries)})"
        case list():
            return f"List.of({', '.join(map(java_literal, value))})"
        case _:
            return literal(value)
