"""What rules that evaluate constants share: their operands, and when there is no value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Operands: TypeAlias = Sequence[Array | None]

MOST = 1 << 26  # elements of a result, however small the operands
GROWTH = 8  # times the largest operand
NARROW = ("float4", "float6e", "float8", "int2", "int4", "uint2", "uint4")
FLOATS = ("float16", "float32", "float64", "bfloat16")


class UnknownValueError(Exception):
    """There is no such value, or it is not for us to say."""


def get(operands: Operands, slot: int) -> Array:
    """The operand at a slot. Raises UnknownValueError where there is none."""
    value = operands[slot] if slot < len(operands) else None
    if value is None:
        raise UnknownValueError
    return value


def has(operands: Operands, slot: int) -> bool:
    """Whether there is an operand at a slot."""
    return slot < len(operands) and operands[slot] is not None


def ints(operands: Operands, slot: int) -> list[int]:
    """The integers at a slot. Raises UnknownValueError where there are none."""
    value = get(operands, slot)
    if value.dtype.kind not in "iu":
        raise UnknownValueError
    return [int(v) for v in value.reshape(-1)]


def require_bounded(size: float, operands: Operands) -> None:
    """Raises UnknownValueError for a result much larger than what it is made of."""
    largest = max((a.size for a in operands if a is not None), default=0)
    if size > max(MOST, GROWTH * largest):
        raise UnknownValueError


def axis_of(axis: int, rank: int) -> int:
    """An axis, counted from the front. Raises ValueError for one that is not there."""
    if not -rank <= axis < rank:
        raise ValueError(axis)
    return axis % rank


def same_array(one: Array, other: Array) -> bool:
    """Whether two arrays have the same type, shape and bits."""
    same = one.dtype == other.dtype and one.shape == other.shape
    if one.dtype == object:  # strings: the bytes are pointers
        return same and one.tolist() == other.tolist()
    return same and one.tobytes() == other.tobytes()
