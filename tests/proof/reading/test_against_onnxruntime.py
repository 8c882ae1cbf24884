"""Shapes and constants, by the kernel's rules and by the folder's, against what onnxruntime makes.

Operators × opsets × attributes. What a rule does not know is no fault; what it says must be so. A
sample runs with the suite, `make differential` runs all.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from bnfold.graph.budget import Budget
from bnfold.graph.constant_evaluation import evaluate
from bnfold.graph.index import Index
from bnfold.graph.shape_inference import InferredShapes
from bnfold.graph.summed_constants import SUMMING
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.same_constants import roundings

OPSETS = range(7, 23)
SAMPLE = int(os.environ.get("BNFOLD_DIFFERENTIAL", "1000"))
Case = tuple[str, dict[str, Any], list[np.ndarray], list[int]]  # op, attributes, inputs, constants


def cases() -> Iterator[tuple[int, Case]]:
    """Operators with what varies in them; indices of inputs that are constants."""
    for opset in OPSETS:
        yield from ((opset, case) for case in windows())
        yield from ((opset, case) for case in moves(opset))
        yield from ((opset, case) for case in arithmetic(opset))
        yield from ((opset, case) for case in sums(opset))


def image(*shape: int) -> np.ndarray:
    """Numbers that are not all alike."""
    return np.linspace(-2, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def windows() -> Iterator[Case]:
    for size, kernel, stride, pad, ceil, dilation in itertools.product(
        (5, 6, 7), (1, 2, 3), (1, 2, 3), (0, 1), (0, 1), (1, 2)
    ):
        if pad >= kernel:
            continue
        given: dict[str, Any] = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [pad] * 4,
        }
        x = image(1, 2, size, size + 1)
        if dilation == 1:
            yield "AveragePool", given | ({"ceil_mode": 1} if ceil else {}), [x], []
            yield "MaxPool", given | ({"ceil_mode": 1} if ceil else {}), [x], []
        if not ceil:
            w = image(4, 2, kernel, kernel)
            yield "Conv", given | {"dilations": [dilation] * 2}, [x, w], [1]
            yield "ConvTranspose", given | {"dilations": [dilation] * 2}, [x, w[:2]], [1]
    for automatic in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for stride in (1, 2):
            given = {"auto_pad": automatic, "strides": [stride] * 2, "kernel_shape": [3, 3]}
            yield "Conv", given, [image(1, 2, 7, 8), image(4, 2, 3, 3)], [1]
            yield "MaxPool", given, [image(1, 2, 7, 8)], []
    for shape in ([6, 6], [7, 9], [3, 3]):
        yield "ConvTranspose", {"output_shape": shape}, [image(1, 2, 7, 7), image(2, 3, 1, 1)], [1]
    for more in ([1, 0], [1, 1]):
        given = {"output_padding": more, "strides": [2, 2]}
        yield "ConvTranspose", given, [image(1, 2, 5, 5), image(2, 3, 3, 3)], [1]
    yield "GlobalAveragePool", {}, [image(1, 2, 5, 5)], []


def ints(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(values, np.int64)


def moves(opset: int) -> Iterator[Case]:
    x = image(2, 3, 4)
    for start, end, step in itertools.product((-9, -4, -1, 0, 1, 9), (-9, -2, 0, 2, 9), (1, 2, -1)):
        if opset >= 10:
            yield "Slice", {}, [x, ints(start), ints(end), ints(2), ints(step)], [1, 2, 3, 4]
        elif step == 1:
            yield "Slice", {"starts": [start], "ends": [end], "axes": [2]}, [x], []
    for axes in ([0], [0, 2], [2, 0], [-1], [-1, 0], [-3, 2]):
        y = image(1, 3, 1)
        if opset >= 13:
            yield "Squeeze", {}, [y, ints(*axes)], [1]
            yield "Unsqueeze", {}, [y, ints(*axes)], [1]
        elif min(axes) >= 0 or opset >= 11:
            yield "Squeeze", {"axes": axes}, [y], []
            yield "Unsqueeze", {"axes": axes}, [y], []
    for first, last in itertools.product((None, -5, -1, 0, 1, 5), (None, -5, -2, 0, 2, 5)):
        given = {n: v for n, v in (("start", first), ("end", last)) if v is not None}
        if not given or opset >= 15:
            yield "Shape", given, [x], []
    for target in ((6, 4), (-1, 2), (0, -1), (0, 0, 4), (2, 0, 2, 2), (1, 24), (-1,)):
        yield "Reshape", {}, [x, ints(*target)], [1]
    for axis in range(-3 if opset >= 11 else 0, 4):
        yield "Flatten", {"axis": axis}, [x], []
    for axis, indices in itertools.product((0, 1, 2), (ints(0), ints(1, 0), np.array(1), ints(-1))):
        if opset >= 11 or indices.min() >= 0:
            yield "Gather", {"axis": axis}, [x, indices], [1]
    for perm in itertools.permutations(range(3)):
        yield "Transpose", {"perm": list(perm)}, [x], []
    yield "Transpose", {}, [x], []
    for axis in (0, 1, 2, *((-1, -2) if opset >= 11 else ())):
        yield "Concat", {"axis": axis}, [x, x], []
    for shape in ((2, 3, 4), (1, 1, 1, 1), (5, 2, 3, 4), (1, 4), (2, 1, 1)):
        if opset >= 8:
            yield "Expand", {}, [x, ints(*shape)], [1]
    for repeats in ((1, 2, 1), (2, 1, 3)):
        yield "Tile", {}, [x, ints(*repeats)], [1]
    for kept, axes in itertools.product((0, 1), ([0], [1, 2], [-1], [0, 1, 2])):
        for op in REDUCTIONS:
            if min(axes) < 0 and opset < 11:
                continue
            if opset >= (13 if op == "ReduceSum" else 18):
                yield op, {"keepdims": kept}, [x, ints(*axes)], [1]
            else:
                yield op, {"keepdims": kept, "axes": axes}, [x], []
    for pads in ((0, 0, 1, 0, 0, 2), (0, 0, 0, 0, 0, 0), (0, 1, 1, 0, 0, 0)):
        if opset >= 11:
            yield "Pad", {}, [x, ints(*pads)], [1]
        else:
            yield "Pad", {"pads": list(pads)}, [x], []
    for block in (1, 2):
        yield "DepthToSpace", {"blocksize": block}, [image(1, 8, 2, 3)], []
        yield "SpaceToDepth", {"blocksize": block}, [image(1, 2, 4, 6)], []
    for factors in ((1, 1, 2, 2), (1, 1, 1.5, 0.5), (1, 1, 0.7, 1.3)):
        scales = np.array(factors, np.float32)
        if opset >= 13:
            none = np.zeros(0, np.float32)
            yield "Resize", {"mode": "nearest"}, [image(1, 2, 5, 6), none, scales], [1, 2]
    for sizes in ([1, 2], [2, 1]):
        if opset >= 13:
            yield "Split", {"axis": 1}, [x, ints(*sizes)], [1]
        else:
            yield "Split", {"axis": 1, "split": sizes}, [x], []
    yield "ConstantOfShape", {}, [ints(2, 3)], [0]


def arithmetic(_: int) -> Iterator[Case]:
    shapes = [
        ((2, 3, 4), (3, 1)),
        ((2, 3, 4), (1,)),
        ((4,), (2, 3, 4)),
        ((2, 1, 4), (3, 1)),
        ((), (2,)),
    ]
    for op, (one, two) in itertools.product(("Add", "Div", "Mul", "Sub", "Pow"), shapes):
        yield op, {}, [np.abs(image(*one)) + 1, np.abs(image(*two)) + 1], []
    for one, two in (
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((2, 3), (5, 3, 4)),
    ):
        yield "MatMul", {}, [image(*one), image(*two)], []
    for a, b in itertools.product((0, 1), (0, 1)):
        left, right = image(2, 3), image(3, 4)
        given = [left.T.copy() if a else left, right.T.copy() if b else right]
        yield "Gemm", {"transA": a, "transB": b}, given, []
    for op in ("Neg", "Sqrt", "Reciprocal"):
        yield op, {}, [np.abs(image(3, 2)) + 1], []
    for to in (1, 6, 7, 9, 10, 11):
        yield "Cast", {"to": to}, [image(3, 2)], []
        yield "Cast", {"to": to}, [ints(3, -2, 0)], []


REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip


def sums(opset: int) -> Iterator[Case]:
    """Normalisations, products, and what picks numbers."""
    x, each, two = image(2, 4, 3), image(4), image(2)
    positive = np.abs(each) + 1
    if opset >= 9:
        for epsilon in (1e-5, 0.5):
            yield "BatchNormalization", {"epsilon": epsilon}, [x, each, each, each, positive], []
    yield "InstanceNormalization", {}, [x, each, positive], []
    if opset >= 17:
        for axis in (-1, 1):
            shape = x.shape[axis:]
            given = [x, image(*shape), image(*shape) + 1]
            yield "LayerNormalization", {"axis": axis}, given, []
    if opset >= 21:
        yield "GroupNormalization", {"num_groups": 2}, [x, each, positive], []
    elif opset >= 18:
        yield "GroupNormalization", {"num_groups": 2}, [x, two, two + 1], []
    for axis, p in itertools.product((0, 1, -1), (1, 2)):
        yield "LpNormalization", {"axis": axis, "p": p}, [x], []
    if opset >= 12:
        for equation, shapes in (
            ("ij,jk->ik", ((2, 3), (3, 4))),
            ("bij,kj->bki", ((2, 3, 4), (5, 4))),
        ):
            yield "Einsum", {"equation": equation}, [image(*shape) for shape in shapes], []
    for op in ("Abs", "Tanh", "Exp"):
        yield op, {}, [x], []
    for op in ("Max", "Min", "Sum"):
        yield op, {}, [x, image(4, 1), image(3)], []
    if opset >= 11:
        yield "Clip", {}, [x, np.array(-1, np.float32), np.array(0.5, np.float32)], [1, 2]
    else:
        yield "Clip", {"min": -1.0, "max": 0.5}, [x], []
    if opset >= 9:
        yield "Erf", {}, [x], []
        yield "Where", {}, [x > 0, x, image(4, 1)], [0]


def model_of(opset: int, case: Case, *, constant: bool) -> onnx.ModelProto:
    """A model of one node, of inputs and of those that must be constants; or all of them are."""
    op, attributes, arrays, fixed = case
    names = [f"i{k}" if a.size or op != "Resize" else "" for k, a in enumerate(arrays)]
    outputs = ["o", "o1"] if op == "Split" else ["o"]
    stored = [k for k in range(len(arrays)) if names[k] and (constant or k in fixed)]
    graph = helper.make_graph(
        [helper.make_node(op, names, outputs, "node", **attributes)], "g",
        [
            helper.make_tensor_value_info(
                names[k], helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)
            )
            for k, a in enumerate(arrays) if names[k] and k not in stored
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(arrays[k], names[k]) for k in stored],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, arrays: list[np.ndarray]) -> list[Any] | None:
    """What onnxruntime makes of it; None where it does not."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    feed = {value.name: arrays[int(value.name[1:])] for value in model.graph.input}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return list(session.run(None, feed))
    except Exception:
        return None


CASES = sorted(
    random.Random(1).sample(list(cases()), min(SAMPLE, len(list(cases())))),
    key=lambda entry: (entry[1][0], entry[0]),
)


@pytest.mark.parametrize("op", sorted({case[0] for _, case in CASES}))
def test_no_shape_and_no_constant_is_contradicted(op: str) -> None:
    tried = 0
    for opset, case in CASES:
        if case[0] != op:
            continue
        model = model_of(opset, case, constant=False)
        made = run(model, case[2])
        if made is None:
            continue
        tried += 1
        what = f"opset {opset}: {case[0]} {case[1]} {[a.tolist() for a in case[2][1:]]}"
        kernel, folder = Model(model, Storage()), InferredShapes(model, Storage())
        for name, result in zip([o.name for o in model.graph.output], made, strict=True):
            for shape in (kernel.shapes.of(kernel.main, name), folder.shape(kernel.main, name)):
                if shape is not None:
                    assert len(shape) == result.ndim, what
                    for dim, size in zip(shape, result.shape, strict=True):
                        assert not isinstance(dim, int) or dim == size, what
            kind = kernel.element_type(kernel.main, name)
            assert kind in (0, helper.np_dtype_to_tensor_dtype(result.dtype)), what
        require_same_constant(model_of(opset, case, constant=True), case, made[0], what)
    assert tried


def require_same_constant(model: onnx.ModelProto, case: Case, made: Any, what: str) -> None:
    """What the node makes of constants, by both evaluators, is what onnxruntime makes of them.

    Where it adds up, to as many roundings of its terms as the kernel counts.
    """
    kernel = Model(model, Storage())
    (node,) = Index(model).nodes()
    operands = [a if node.proto.input[k] else None for k, a in enumerate(case[2])]
    own = kernel.value(kernel.main, "o")
    theirs = evaluate(node.proto, node.scope.opset, operands, Budget(1 << 20))
    for value in (own, theirs if case[0] in FOLDED else None):
        if value is None:
            continue
        assert value.dtype == made.dtype, what
        assert value.shape == made.shape, what
        allowed = roundings(kernel, kernel.main, "o")
        if value.dtype.kind == "f" and allowed:
            terms = max(float(np.max(np.abs(a))) for a in case[2] if a.dtype.kind == "f")
            terms = max(terms, float(np.max(np.abs(made))))
            unit = float(np.finfo(value.dtype).eps) / 2
            np.testing.assert_allclose(value, made, 0, allowed * unit * terms, err_msg=what)
        elif value.dtype.kind == "f":
            np.testing.assert_array_max_ulp(value, made, 1 if case[0] == "Pow" else 0)
        else:
            np.testing.assert_array_equal(value, made, what)


FOLDED = {
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather", "Mul", "Neg",
    "Pow", "Reciprocal", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose",
    "Unsqueeze", *SUMMING,
}  # fmt: skip
