"""Results as JSON that every reader takes: no NaN, no Infinity, which JSON does not have.

These become strings, as in the JSON form of protocol buffers. Imports nothing of bnfold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from os import PathLike, fspath
from typing import Any

_COMMAND = re.compile(r"##(?=[A-Za-z]*\[)")


def jsonable(value: Any) -> Any:
    """Dataclasses, enums, paths, tuples and floats as what JSON has.

    A dataclass may name properties that are shown like its fields in `IN_JSON`.
    """
    if is_dataclass(value) and not isinstance(value, type):
        names = (*getattr(value, "IN_JSON", ()), *(field.name for field in fields(value)))
        return {name: jsonable(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {jsonable(str(key)): jsonable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(part) for part in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PathLike):
        return jsonable(str(fspath(value)))
    if isinstance(value, str):  # lone surrogates, of file names that are no UTF-8, as escapes
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def dumps(value: Any) -> str:
    """The value as JSON in ASCII, indented, with a line end.

    "##[", "##vso[" and "##teamcity[" would be commands to CI services, in whose log it may end;
    they are only in strings.
    """
    text = json.dumps(jsonable(value), indent=2, allow_nan=False)
    return _COMMAND.sub(r"#\\u0023", text) + "\n"
