"""The JSON Schema of the JSON report, derived from the dataclasses that it is made of.

`python -m bnfold.reporting.schema` prints it; `schema.json` beside this module is what it prints.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from bnfold.reporting.content import SCHEMA_VERSION, Report

_PLAIN: dict[Any, Any] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
}


def schema() -> dict[str, Any]:
    """The whole schema, of draft 2020-12."""
    definitions: dict[str, Any] = {}
    root = _of(Report, definitions)
    definitions["Report"]["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Report of bnfold, version {SCHEMA_VERSION}",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one type; dataclasses are added to the definitions."""
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if kind is types.NoneType:
        return {"type": "null"}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if isinstance(kind, type) and is_dataclass(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # before its parts: they may refer to it
            definitions[kind.__name__] = _of_dataclass(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(argument, definitions) for argument in arguments]}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is tuple:
        parts = [_of(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}
    assert origin is dict, kind
    value = {} if arguments[1] is Any else _of(arguments[1], definitions)
    return {"type": "object", "additionalProperties": value}


def _of_dataclass(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    own = {field.name: _of(hints[field.name], definitions) for field in fields(kind)}
    for name in getattr(kind, "IN_JSON", ()):
        own[name] = _of(typing.get_type_hints(getattr(kind, name).fget)["return"], definitions)
    described = " ".join((kind.__doc__ or "").split())
    return {
        "description": described, "type": "object", "properties": own, "required": list(own),
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
