"""What a shape is."""

from __future__ import annotations

from typing import NoReturn, TypeAlias

Dim: TypeAlias = int | str  # a number, or the name of a size that is open
Shape: TypeAlias = tuple[Dim, ...]

LONGEST = 64  # elements of an integer vector that is followed


class UnknownShapeError(ValueError):
    """Nothing is known of the result."""


def unknown() -> NoReturn:
    """Raises UnknownShapeError, within an expression."""
    raise UnknownShapeError
