"""Operators on constants, evaluated with ONNX's own reference implementation, bounded in size.

Those whose result does not depend on who computes it: those that move data, and the arithmetic that
IEEE 754 rounds correctly. Pow is the exception, for the sake of the square roots that exporters
write with it: it may differ by an ulp from one runtime to the next. And those that need several
roundings (`summed_constants`). Nothing is evaluated that could become much larger than what the
file holds, in one step or in all together: a few bytes of ConstantOfShape or Expand can ask for
terabytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto

from bnfold.graph import summed_constants
from bnfold.graph.budget import Budget, BudgetExceededError
from bnfold.graph.summed_constants import SUMMING
from bnfold.onnx_io.protos import Array

REARRANGING = frozenset(
    {"Concat", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)  # fmt: skip
MOVES = REARRANGING | {
    "Cast", "CastLike", "ConstantOfShape", "Expand", "Flatten", "Gather", "Shape", "Slice", "Tile",
}  # fmt: skip
QUANTIZATION = frozenset({"DequantizeLinear", "QuantizeLinear"})
ARITHMETIC = frozenset({"Add", "Div", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"})
SUPPORTED = MOVES | ARITHMETIC | QUANTIZATION | SUMMING.keys()

_NARROW = tuple(
    number for name, number in TensorProto.DataType.items()
    if name.endswith(("INT4", "INT2", "FLOAT4E2M1"))
)  # fmt: skip
_FLOATS = ({np.dtype(np.float32)}, {np.dtype(np.float64)})
_FUNCTIONS: dict[str, np.ufunc] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
    "Neg": np.negative, "Sqrt": np.sqrt,
}  # fmt: skip
_LEAST = 1 << 24  # elements that are always allowed
_GROWTH = 8  # times the largest operand


def evaluate(
    node: NodeProto, opset: int, operands: Sequence[Array | None], budget: Budget
) -> Array | None:
    """The first output of `node`, None where it has no such value.

    `operands` are the values of the inputs in order, None for those that are absent. Raises
    TooMuchError where it is too large, by itself or for what is left of the budget.
    """
    if not operands or (node.op_type == "QuantizeLinear" and not _well_defined(node, operands)):
        return None
    if opset < 7 and node.op_type in ARITHMETIC:
        return None  # another kind of broadcasting, by attributes
    if _misjudged(node, operands):
        return None
    given = [operand for operand in operands if operand is not None]
    largest = max((operand.size for operand in given), default=0)
    size = _size(node.op_type, given)
    if size > max(_LEAST, _GROWTH * largest):
        raise BudgetExceededError
    budget.spend_on_constant(int(size))
    if node.op_type in SUMMING:
        return summed_constants.evaluate(node, opset, operands)
    if len(given) == len(operands):  # without the reference where that is possible
        result = rearranged(node, given)
        result = _computed(node, given) if result is None else result
        if result is not None:
            return result
    from onnx.reference import ReferenceEvaluator  # slow to import, and seldom needed

    try:
        evaluator = ReferenceEvaluator(node, opsets={"": opset})
        feed = {
            name: operand
            for name, operand in zip(node.input, operands, strict=True)
            if operand is not None
        }
        with np.errstate(all="ignore"):  # what is not finite is refused where it is used
            result = next(iter(evaluator.run(None, feed)))
    except MemoryError:
        raise
    except Exception:  # the model is wrong here, or the reference lacks the operator's version
        return None
    return np.asarray(result)


def rearranged(node: NodeProto, operands: Sequence[Array]) -> Array | None:
    """What an operator of REARRANGING makes; None where it is wrong, or not certain."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    try:
        match node.op_type, operands:
            case "Identity", [value]:
                return value
            case "Transpose", [value]:
                return np.transpose(value, attributes["perm"].ints if attributes else None)
            case "Squeeze", [value, *_] if "axes" in attributes:  # which the reference overlooks
                return np.squeeze(value, tuple(attributes["axes"].ints))
            case "Squeeze", [value, axes]:
                return np.squeeze(value, tuple(axes.tolist()))
            case "Unsqueeze", [value] if "axes" in attributes:
                return np.expand_dims(value, tuple(attributes["axes"].ints))
            case "Unsqueeze", [value, axes]:
                return np.expand_dims(value, tuple(axes.tolist()))
            case "Reshape", [value, shape] if np.all((shape == -1) | (shape > 0)):
                return value.reshape(shape.tolist())
            case "Concat", [value, *_] if len({operand.dtype for operand in operands}) == 1:
                return np.concatenate(operands, attributes["axis"].i)
    except (KeyError, TypeError, ValueError):
        pass
    return None


def _computed(node: NodeProto, operands: Sequence[Array]) -> Array | None:
    """What floats of one type make; None for what is not in _FUNCTIONS."""
    function = _FUNCTIONS.get(node.op_type)
    kinds = {operand.dtype for operand in operands}
    if function is None or function.nin != len(operands) or kinds not in _FLOATS:
        return None
    with np.errstate(all="ignore"):  # what is not finite is refused where it is used
        try:
            return np.asarray(function(*operands))
        except ValueError:
            return None


def _well_defined(node: NodeProto, operands: Sequence[Array | None]) -> bool:
    """Whether every runtime rounds alike: float32 to integers.

    What narrower types are divided in, and how 8-bit floats saturate, is not the same everywhere.
    """
    x, zero_point = operands[0], operands[2] if len(operands) > 2 else None
    kind = "u" if zero_point is None else zero_point.dtype.kind
    plain = not any(a.name in ("output_dtype", "precision") and a.i for a in node.attribute)
    return x is not None and x.dtype == np.float32 and kind in "iu" and plain


def _misjudged(node: NodeProto, operands: Sequence[Array | None]) -> bool:
    """Whether the reference implementation is known to give what onnxruntime contradicts.

    Shape and Slice with bounds beyond what there is, and Cast to integers and floats of 4 bits.
    """
    value = operands[0]
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in ("Cast", "CastLike"):
        target = given["to"].i if "to" in given else 0
        return target in _NARROW or (value is not None and value.dtype.itemsize < 1)
    if value is None:
        return False
    if node.op_type == "Shape":
        bounds = [given[name].i for name in ("start", "end") if name in given]
        return any(not -value.ndim <= bound <= value.ndim for bound in bounds)
    if node.op_type == "Slice" and len(operands) > 4 and operands[4] is not None:
        starts, axes, steps = operands[1], operands[3], operands[4]
        if starts is None or np.all(steps > 0):
            return False
        named = range(starts.size) if axes is None else axes.reshape(-1).tolist()
        if any(not -value.ndim <= axis < value.ndim for axis in named):
            return True
        sizes = [value.shape[axis] for axis in named]
        return any(
            start < -size for start, size in zip(starts.reshape(-1), sizes, strict=False)
        )  # fmt: skip
    return False


def _size(op: str, operands: list[Array]) -> float:
    """How many elements the result has, at most."""
    try:
        if op == "ConstantOfShape":
            return _product(operands[0])
        if op == "MatMul":
            one, two = operands
            return float(one.size * two.shape[-1] / max(one.shape[-1], 1))
        if op in ("Expand", "Tile"):
            return _product(operands[1]) * operands[0].size
        if op == "Gather":
            return operands[1].size * operands[0].size
        if op in ARITHMETIC or op in ("Max", "Min", "Sum", "Where"):
            return math.prod(map(float, np.broadcast_shapes(*(a.shape for a in operands))))
        return sum(a.size for a in operands)
    except (IndexError, ValueError):
        return 0  # there is no result


def _product(sizes: Array) -> float:
    """The product of sizes; a 0 counts as 1, for what is made before it is thrown away."""
    return math.prod(max(float(size), 1.0) for size in sizes.ravel())
