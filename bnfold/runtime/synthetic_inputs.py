"""Inputs for a model: the user's own, or drawn ones in shapes that the model accepts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from bnfold.errors import UndecidedError, UsageError
from bnfold.onnx_io.protos import Array
from bnfold.runtime.sessions import Feed

_SIZES = (64, 224, 32, 128, 16, 256, 8, 1)  # tried in turn for a dimension left open
_CHANNELS = (3, 1)
_MOST_ELEMENTS = 1 << 30

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputSpec:
    """A required input. A dimension is a number, a symbol, or "" if it has no name.

    `open_rank`: not even the number of dimensions is declared.
    """

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | str, ...]
    open_rank: bool = False

    def symbol(self, axis: int) -> str:
        """What names the dimension in an assignment: its symbol, or a name of its own."""
        dim = self.dims[axis]
        return str(dim) if dim else f"{self.name}[{axis}]"


@dataclass(frozen=True)
class SyntheticInputs:
    """How inputs are drawn: from which seed, how many, and what.

    `fill` is "mixed" (normal and uniform in [0, 1) in turn), "normal", "uniform", "zeros", "ones"
    or "arange". `ranges` gives the least and the largest number by input name, "" for all inputs.
    """

    seed: int = 0
    runs: int = 3
    fill: str = "mixed"
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def input_specs(
    model: ModelProto, shapes: Mapping[str, Shape], *, given: bool = False
) -> list[InputSpec]:
    """The inputs a caller must give: those without an initializer behind them.

    Raises UndecidedError for an input that cannot be made up, unless all are `given`.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    required = [value for value in model.graph.input if value.name not in defaults]
    _reject_unknown(shapes, [value.name for value in required], "input_shapes", "input")
    return [_spec(value, shapes.get(value.name), given=given) for value in required]


def _spec(value: ValueInfoProto, shape: Shape | None, *, given: bool) -> InputSpec:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type == TensorProto.STRING:
        raise UndecidedError(
            f"the input {value.name!r} is no tensor of numbers, which bnfold cannot make up",
            'write without comparing: `verify="none"`',
        )
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if shape is None and not tensor.HasField("shape"):
        if given:
            return InputSpec(value.name, dtype, (), open_rank=True)
        raise UndecidedError(
            f"the input {value.name!r} has no declared shape",
            f"give it with `input_shapes={value.name}:1,3,224,224`, or data with `inputs`",
        )
    # some exporters write -1 or 0 for "any"
    declared = [d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim]
    if shape is not None and tensor.HasField("shape"):
        fits = len(shape) == len(declared) and all(
            size == dim or isinstance(dim, str) for size, dim in zip(shape, declared, strict=True)
        )
        if not fits:
            raise UsageError(
                f"`input_shapes={value.name}:{dims_text(shape)}` does not fit the model, which "
                f"declares {dims_text(declared)}"
            )
    dims = tuple(shape) if shape is not None else tuple(declared)
    return InputSpec(value.name, dtype, dims)


def synthetic_feeds(
    model: ModelProto, inputs: list[InputSpec], dims: Mapping[str, int], drawing: SyntheticInputs
) -> Iterator[list[Feed]]:
    """Lists of feeds, one list for each guess at the open dimensions, the likeliest first."""
    symbols = {
        spec.symbol(axis) for spec in inputs for axis, dim in enumerate(spec.dims) if dim == ""
    } | {dim for spec in inputs for dim in spec.dims if isinstance(dim, str) and dim}
    _reject_unknown(dims, sorted(symbols), "dims", "open dimension")
    names = [spec.name for spec in inputs]
    _reject_unknown({n: r for n, r in drawing.ranges.items() if n}, names, "val_range", "input")
    for assignment in _assignments(model, inputs, dims):
        yield [_draw(inputs, assignment, drawing, k) for k in range(drawing.runs)]


def remedy_for_guesses(inputs: list[InputSpec]) -> str:
    """Which options settle what had to be guessed."""
    dims = [
        f"`dims={spec.symbol(axis)}=N`"
        for spec in inputs
        for axis, dim in enumerate(spec.dims)
        if not isinstance(dim, int)
    ]
    ranges = [
        f"`val_range={spec.name}:LOW,HIGH`" for spec in inputs if spec.dtype.kind in "iub"
    ]  # fmt: skip
    guessed = ", ".join(dict.fromkeys([*dims, *ranges]))
    say = f"say what had to be guessed: {guessed}; or " if guessed else ""
    return f"{say}give real inputs with `inputs`"


def _assignments(
    model: ModelProto, inputs: list[InputSpec], dims: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    known = {**_read_by_weights(model.graph, inputs), **dims}
    batch: set[str] = set()
    channel: set[str] = set()
    size: set[str] = set()
    for spec in inputs:
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, int) or spec.symbol(axis) in known:
                continue
            rank = len(spec.dims)
            role = batch if axis == 0 < rank - 1 else channel if axis == 1 < rank - 1 else size
            role.add(spec.symbol(axis))
    size -= batch
    channel -= batch | size
    ones = dict.fromkeys(batch, 1)
    seen = []
    for width, depth in itertools.product(_SIZES, (None, *_CHANNELS)):
        deep = dict.fromkeys(channel, depth or width)
        assignment = {**ones, **dict.fromkeys(size, width), **deep, **known}
        if assignment not in seen:
            seen.append(assignment)
            yield assignment


def _read_by_weights(graph: GraphProto, inputs: list[InputSpec]) -> dict[str, int]:
    """The open dimensions that weights settle: the channels of a Conv, the K of a Gemm."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    by_name = {spec.name: spec for spec in inputs}
    known: dict[str, int] = {}
    for node in graph.node:
        spec = by_name.get(node.input[0]) if len(node.input) > 1 else None
        weight = shapes.get(node.input[1]) if spec else None
        if spec is None or not weight or len(spec.dims) < 2:
            continue
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "Conv" and len(weight) > 2:
            axis, dim = 1, weight[1] * attributes.get("group", 1)
        elif node.op_type in ("ConvTranspose", "BatchNormalization"):
            axis, dim = 1, weight[0]
        elif node.op_type == "Gemm" and len(weight) == 2:
            axis, dim = 1 - attributes.get("transA", 0), weight[attributes.get("transB", 0)]
        elif node.op_type == "MatMul" and len(weight) == 2:
            axis, dim = len(spec.dims) - 1, weight[0]
        else:
            continue
        if isinstance(spec.dims[axis], str):
            known[spec.symbol(axis)] = dim
    return known


def _draw(
    inputs: list[InputSpec], assignment: Mapping[str, int], drawing: SyntheticInputs, run: int
) -> Feed:
    rng = np.random.default_rng([drawing.seed, run])
    fill = ("normal", "uniform")[run % 2] if drawing.fill == "mixed" else drawing.fill
    feed = {}
    for spec in inputs:
        shape = tuple(
            dim if isinstance(dim, int) else assignment[spec.symbol(axis)]
            for axis, dim in enumerate(spec.dims)
        )
        if math.prod(shape) > _MOST_ELEMENTS:
            raise UndecidedError(
                f"the input {spec.name!r} of shape {dims_text(shape)} is too large to make up",
                "give a smaller one with `input_shapes` or `dims`",
            )
        given = drawing.ranges.get(spec.name, drawing.ranges.get(""))
        feed[spec.name] = _fill(spec.dtype, shape, rng, fill, given)
    return feed


def _fill(
    dtype: np.dtype[np.generic], shape: Shape, rng: np.random.Generator, fill: str,
    given: tuple[float, float] | None,
) -> Array:  # fmt: skip
    if fill in ("zeros", "ones"):
        return np.full(shape, fill == "ones").astype(dtype)
    if fill == "arange":
        return np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    if np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16:
        if given is not None:
            return rng.uniform(*given, shape).astype(dtype)
        return (rng.random(shape) if fill == "uniform" else rng.normal(size=shape)).astype(dtype)
    if given is not None:
        return rng.integers(round(given[0]), round(given[1]), shape, endpoint=True).astype(dtype)
    if dtype in (np.dtype(np.uint8), np.dtype(np.int8)):  # pixels, quantised activations
        low, high = (0, 256) if dtype == np.uint8 else (-128, 128)
        return rng.integers(low, high, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)  # indices, flags: 0 and 1 are valid everywhere


def _reject_unknown(given: Mapping[str, object], known: list[str], option: str, what: str) -> None:
    for name in given:
        if name not in known:
            raise UsageError(
                f"`{option}`: the model has no {what} {name!r}",
                f"it has {', '.join(map(str, known)) or 'none'}",
            )


def dims_text(dims: object) -> str:
    """Dimensions as the command line takes them."""
    return ",".join(str(dim) or "?" for dim in dims)  # type: ignore[attr-defined]
