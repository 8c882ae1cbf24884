"""What an input will hold, before it is computed: a stored constant, and the edits of it.

A recipe costs nothing until it is asked for values, and gives those of a large tensor a block at a
time: in float64, each rounded once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from bnfold.folding.weights.affine import FloatArray
from bnfold.folding.weights.blocks import Block, blocks, coalesced, in_order
from bnfold.folding.weights.constants import Constant, rounded
from bnfold.folding.weights.edits import Rescale, Supply
from bnfold.onnx_io.data_files import Sink
from bnfold.onnx_io.protos import plain_dtype


@dataclass(frozen=True, eq=False)
class Recipe:
    """The values of `base` with `edits` made one after the other; without a base, of a Supply."""

    base: Constant | None
    edits: tuple[Rescale | Supply, ...]
    dtype: int  # the ONNX element type of the result

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The dimensions of the result."""
        shape: tuple[int, ...] = () if self.base is None else self.base.shape
        for edit in self.edits:
            shape = edit.values.shape if isinstance(edit, Supply) else edit.shape_of(shape)
        return shape

    def values(self) -> FloatArray:
        """All values in float64, not yet rounded."""
        values = np.empty(0) if self.base is None else self.base.values()
        for edit in self.edits:
            values = edit.values if isinstance(edit, Supply) else edit.of(values)
        return values

    def summed(self, times: Rescale, onto: tuple[int, ...]) -> FloatArray:
        """Σ of the values after `times`, over the axes of its view on which `onto` has size 1.

        In float64, of the shape `onto`.
        """
        total = np.zeros(onto)
        cut = self.base and Blockwise.of(self.base, (*self.edits, times), total)
        if not cut:
            values = times.of(self.values()).reshape(times.view)
            return np.asarray(values.sum(axis=broadcast_axes(onto), keepdims=True))
        (flat,) = cut.beside

        def part(block: Block) -> tuple[FloatArray, FloatArray]:
            own = block.of(flat)
            return own, cut.values(block).sum(axis=broadcast_axes(own.shape), keepdims=True)

        for own, values in in_order(part, cut):
            own += values  # a part of `total`
        return flat.reshape(onto)

    def key(self) -> bytes:
        """The same for recipes of one base with equal edits, and for no others."""
        base = None if self.base is None else (self.base.scope.number, self.base.name)
        digest = hashlib.sha256(repr((self.dtype, base)).encode())
        for edit in self.edits:
            view = edit.view if isinstance(edit, Rescale) else ()
            numbers = (edit.values,) if isinstance(edit, Supply) else (edit.scale, edit.shift)
            for array in numbers:
                digest.update(repr((view, array is not None and array.shape)).encode())
                digest.update(b"" if array is None else _bytes(array).data)
        return digest.digest()

    def __len__(self) -> int:
        dtype = plain_dtype(self.dtype)
        return len(self._packed()) if dtype is None else math.prod(self.shape) * dtype.itemsize

    def put(self, sink: Sink) -> None:
        """Hand the bytes of the result to the sink, as ONNX stores them, rounded once."""
        cut = None if self.base is None else Blockwise.of(self.base, self.edits)
        if plain_dtype(self.dtype) is None:
            sink(0, self._packed())
        elif cut is None:
            sink(0, _bytes(rounded(self.values(), self.dtype)).data)
        elif 0 not in self.shape:
            size = len(self) // math.prod(self.shape)

            def write(block: Block) -> None:
                sink(block.start * size, _bytes(cut.rounded(block, self.dtype)).data)

            for _ in in_order(write, cut):
                pass

    def _packed(self) -> bytes:
        """The bytes of the result in a type whose elements are narrower than a byte."""
        packed: bytes = numpy_helper.from_array(rounded(self.values(), self.dtype)).raw_data
        return packed


class Blockwise:
    """A constant with edits that lie on it in one and the same view, to be had block by block."""

    def __init__(
        self,
        base: Constant,
        view: tuple[int, ...],
        maps: list[tuple[FloatArray, FloatArray | None]],
        beside: list[FloatArray],
    ) -> None:
        self._base = base
        self.view = view
        self.maps = maps  # of each edit, scale and shift, which broadcast against the view
        self.beside = beside  # other arrays that do, as views of those that were given

    @classmethod
    def of(
        cls, base: Constant, edits: Sequence[Rescale | Supply], *beside: FloatArray
    ) -> Blockwise | None:
        """None where an edit replaces or enlarges the constant, or has another view than others."""
        maps = [edit for edit in edits if isinstance(edit, Rescale)]
        if len(maps) < len(edits) or not maps or len({edit.view for edit in maps}) > 1:
            return None
        zero = np.zeros(())
        flat = [v for e in maps for v in (e.scale, zero if e.shift is None else e.shift)]
        found = coalesced(maps[0].view, [*flat, *beside])
        if found is None:
            return None
        view, operands = found
        own, others = operands[: len(flat)], operands[len(flat) :]
        shifts = (
            None if edit.shift is None else shift
            for edit, shift in zip(maps, own[1::2], strict=True)
        )
        return cls(base, view, list(zip(own[::2], shifts, strict=True)), others)

    def __iter__(self) -> Iterator[Block]:
        return blocks(self.view)

    def stored(self, block: Block) -> npt.NDArray[Any]:
        """The block as it is stored."""
        return self._base.part(block.start, block.stop).reshape(block.shape)

    def values(self, block: Block, count: int | None = None) -> FloatArray:
        """The block in float64 with the first `count` edits made, all of them if None."""
        values = self.stored(block).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # refused by name where it is planned
            for scale, shift in self.maps[:count]:
                values *= block.of(scale)
                if shift is not None:
                    values += block.of(shift)
        return values

    def rounded(self, block: Block, dtype: int) -> npt.NDArray[Any]:
        """The block with all edits made, rounded once to the ONNX element type `dtype`."""
        (scale, shift), *more = self.maps
        if more or shift is not None or dtype != TensorProto.FLOAT:
            return rounded(self.values(block), dtype)
        # by far the most common: numpy multiplies in float64 and rounds without an array between
        stored = self.stored(block)
        stored = stored if stored.flags.writeable else stored.copy()  # what is read is our own
        return np.multiply(  # type: ignore[no-any-return]
            stored, block.of(scale), out=stored, dtype=np.float64, casting="same_kind"
        )


def broadcast_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which one entry of an array of this shape stands for many elements."""
    return tuple(axis for axis, size in enumerate(shape) if size == 1)


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
