"""Affine maps as data: vectors taken from constants, whatever axes these are stored along."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.folding.weights.affine import Affine, line, varying_axes
from bnfold.folding.weights.edits import Rescale
from bnfold.graph.index import Node


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 1)])
def test_a_constant_that_varies_nowhere_is_a_vector_of_one(shape: tuple[int, ...]) -> None:
    values = np.full(shape, 4.0)
    assert varying_axes(values) == []
    assert line(values, None).tolist() == [4.0]


def test_a_constant_that_varies_along_one_axis_is_a_vector_along_it() -> None:
    values = np.broadcast_to(np.array([1.0, 2.0, 3.0])[None, :, None], (2, 3, 4))
    assert varying_axes(values) == [1]
    assert line(values, 1).tolist() == [1.0, 2.0, 3.0]


def test_maps_along_different_axes_make_no_one_map() -> None:
    rows, columns = (Affine(axis, np.array([2.0, 3.0]), np.zeros(2)) for axis in (0, 1))
    assert rows.then(columns) is None
    joined = rows.then(Affine(0, np.array([5.0, 7.0]), np.array([1.0, -1.0])))
    assert joined is not None
    assert joined.scale.tolist() == [10.0, 21.0]
    assert joined.shift.tolist() == [1.0, -1.0]


@pytest.mark.parametrize(("shape", "scale"), [((3,), (2, 1)), ((0,), (1,))])
def test_an_edit_that_enlarges_a_constant_or_has_nothing_to_edit_is_no_map(
    shape: tuple[int, ...], scale: tuple[int, ...]
) -> None:
    node = Node(onnx.NodeProto(), None)  # type: ignore[arg-type]
    edit = Rescale(node, 1, shape, np.full(scale, 2.0))
    assert edit.as_affine(shape) is None
    assert Rescale(node, 1, (3,), np.full(1, 2.0)).as_affine((3,)) is not None
