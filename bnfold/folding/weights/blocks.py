"""Arithmetic on large arrays a block at a time: memory for a few blocks, all cores, warm caches."""

from __future__ import annotations

import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from bnfold.folding.weights.affine import FloatArray

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_CORES = os.cpu_count() or 1
_BLOCK = 1 << 19  # elements: enough work for one call of numpy, little memory on many cores

D = TypeVar("D", bound=np.generic)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Block:
    """Some rows of an array of shape `view`: elements `start` to `stop` in C order."""

    start: int
    stop: int
    shape: tuple[int, ...]
    _above: tuple[int, ...]  # the indices on the axes before that of the rows
    _rows: slice

    def of(self, operand: npt.NDArray[D]) -> npt.NDArray[D]:
        """What of `operand`, which broadcasts against the whole, stands beside the block."""
        sizes = operand.shape
        above = tuple(i if sizes[axis] > 1 else 0 for axis, i in enumerate(self._above))
        if len(above) == len(sizes):
            return operand[above + (...,)]  # noqa: RUF005 (mypy)
        rows = self._rows if sizes[len(above)] > 1 else slice(None)
        return operand[above + (rows,)]  # noqa: RUF005


def blocks(view: tuple[int, ...]) -> Iterator[Block]:
    """Cut an array of this shape into blocks of at most 524,288 elements, in C order."""
    axis = 0
    while axis < len(view) - 1 and math.prod(view[axis + 1 :]) > _BLOCK:
        axis += 1
    within = math.prod(view[axis + 1 :])
    rows = view[axis] if view else 1
    step = max(1, _BLOCK // max(within, 1))
    start = 0
    for above in np.ndindex(view[:axis]):
        for first in range(0, rows, step):
            count = min(step, rows - first)
            shape = (count, *view[axis + 1 :]) if view else ()
            yield Block(start, start + count * within, shape, above, slice(first, first + count))
            start += count * within


def coalesced(
    view: tuple[int, ...], operands: Sequence[FloatArray]
) -> tuple[tuple[int, ...], list[FloatArray]] | None:
    """`view` and operands that broadcast against it with as few axes as possible.

    The elements keep their order. Few long axes are what numpy is fast on: a kernel of 3 × 3 has
    its factor 4,608 times in a row, not 9 times. None where the operands enlarge the view.
    """
    rank = len(view)
    padded = [operand.reshape((1,) * (rank - operand.ndim) + operand.shape) for operand in operands]
    if any(op.ndim > rank or (op.size and any(
        size not in (1, whole) for size, whole in zip(op.shape, view, strict=True)
    )) for op in padded):  # fmt: skip
        return None
    axes: list[tuple[int, tuple[bool, ...]]] = []
    for axis, size in enumerate(view):
        wide = tuple(operand.shape[axis] != 1 for operand in padded)
        if size == 1:
            continue
        if axes and axes[-1][1] == wide:
            axes[-1] = (axes[-1][0] * size, wide)
        else:
            axes.append((size, wide))
    shapes = [
        tuple(size if wide[number] else 1 for size, wide in axes) for number in range(len(padded))
    ]
    together = [operand.reshape(shape) for operand, shape in zip(padded, shapes, strict=True)]
    return tuple(size for size, _ in axes), together


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`work` on every item, on all cores; the results in order, a few ahead of their reader."""
    pending = iter(items)
    first, second = next(pending, None), next(pending, None)
    if first is None:
        return
    if second is None:  # a thread would cost more than it does
        yield work(first)
        return
    pool = _pool()
    running: deque[Future[R]] = deque(pool.submit(work, item) for item in (first, second))
    try:
        for item in pending:
            if len(running) > _CORES + 1:
                yield running.popleft().result()
            running.append(pool.submit(work, item))
        while running:
            yield running.popleft().result()
    finally:  # where one has failed, the others end before anybody closes their files
        for future in running:
            if not future.cancel():
                future.exception()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # most models need none

    return ThreadPoolExecutor(_CORES, "bnfold")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # which has none of its threads
