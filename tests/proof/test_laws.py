"""Each law of the kernel on numbers that float64 holds exactly: f(a(x)) = a′(f(x)), to the bit.

Every operator that lets maps pass, in forms that differ in what its law asks for, is given every
kind of map along every axis. Where the law says what passes, that must be so; where it says that
nothing does, there must be nothing, but for what is listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.laws.joining import joined
from bnfold.proof.laws.passing import LAWS, passed
from bnfold.proof.numbers.functions import Functions
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import Real
from bnfold.proof.reading.model import Model
from tests.support import Array, parse

SCALES = {"grow": (2.0, 0.5), "turn": (-1.0, 2.0), "die": (0.0, 1.0), "stay": (1.0,)}
SHIFTS = {"0": (0.0,), "t": (3.0, -5.0)}


@dataclass(frozen=True)
class Case:
    """An operator that reads x, its other inputs as constants, and the opset."""

    text: str
    shape: tuple[int, ...] = (2, 3, 4, 4)
    opset: int = 17
    constants: tuple[tuple[str, tuple[float, ...] | float], ...] = ()
    integers: bool = True

    def model(self) -> ModelProto:
        dims = ",".join(map(str, self.shape))
        kind = np.int64 if self.integers else np.float64
        given = {name: np.array(values, kind) for name, values in self.constants}
        outputs = self.text.split("=")[0].split(",")
        listed = ", ".join(f"double {name.strip()}" for name in outputs)
        text = f"g (double[{dims}] x) => ({listed}) {{ {self.text} }}"
        return parse(text, self.opset, 8, **given)


def ints(name: str, *values: int) -> tuple[str, tuple[float, ...]]:
    return (name, tuple(float(v) for v in values))


CASES = {
    "relu": Case("y = Relu (x)"),
    "leaky relu": Case("y = LeakyRelu <alpha = 0.25> (x)"),
    "prelu": Case("y = PRelu (x, k)", constants=(("k", (0.5,)),), integers=False),
    "abs": Case("y = Abs (x)"),
    "neg": Case("y = Neg (x)"),
    "trilu": Case("y = Trilu (x)"),
    "cumulative sum": Case("y = CumSum (x, k)", constants=(("k", -1.0),)),
    "cumulative sum of channels": Case("y = CumSum (x, k)", constants=(("k", 1.0),)),
    "reverse sequence": Case(
        "y = ReverseSequence <batch_axis = 0, time_axis = 2> (x, k)", constants=(ints("k", 4, 3),)
    ),
    "lp pool": Case("y = LpPool <kernel_shape = [2,2], p = 1, pads = [1,0,0,1]> (x)"),
    "reduce l1": Case("y = ReduceL1 <axes = [0,3], keepdims = 0> (x)"),
    "identity": Case("y = Identity (x)"),
    "dropout": Case("y = Dropout (x)"),
    "cast to what it is": Case("y = Cast <to = 11> (x)"),
    "average pool": Case("y = AveragePool <kernel_shape = [2,2]> (x)"),
    "average pool with zeros": Case(
        "y = AveragePool <kernel_shape = [2,2], pads = [1,1,1,1], count_include_pad = 1> (x)"
    ),
    "average pool with a border": Case(
        "y = AveragePool <kernel_shape = [2,2], pads = [0,0,1,1], strides = [2,2]> (x)"
    ),
    "max pool": Case("y = MaxPool <kernel_shape = [2,1]> (x)"),
    "max pool with a border": Case("y = MaxPool <kernel_shape = [2,2], pads = [1,1,0,0]> (x)"),
    "global average pool": Case("y = GlobalAveragePool (x)"),
    "global max pool": Case("y = GlobalMaxPool (x)"),
    "reduce mean": Case("y = ReduceMean <axes = [2,3]> (x)"),
    "reduce mean, axes gone": Case("y = ReduceMean <axes = [0,2], keepdims = 0> (x)"),
    "reduce max": Case("y = ReduceMax <axes = [1]> (x)"),
    "reduce min, axes gone": Case("y = ReduceMin <axes = [-1], keepdims = 0> (x)"),
    "reduce sum": Case("y = ReduceSum (x, k)", constants=(ints("k", 3),)),
    "resize": Case(
        'y = Resize <mode = "nearest"> (x, , k)', constants=(("k", (1.0, 1.0, 2.0, 2.0)),),
        integers=False,
    ),
    "resize of the channels": Case(
        'y = Resize <mode = "nearest"> (x, , k)', constants=(("k", (1.0, 2.0, 1.0, 1.0)),),
        integers=False,
    ),
    "pad with zeros": Case("y = Pad (x, k)", constants=(ints("k", 0, 0, 1, 0, 0, 0, 0, 1),)),
    "pad with a copy of the border": Case(
        'y = Pad <mode = "edge"> (x, k)', constants=(ints("k", 0, 0, 1, 0, 0, 0, 0, 1),)
    ),
    "pad of the channels": Case("y = Pad (x, k)", constants=(ints("k", 0, 1, 0, 0, 0, 0, 0, 0),)),
    "transpose": Case("y = Transpose <perm = [2,0,3,1]> (x)", (2, 3, 4, 2)),
    "transpose, all axes": Case("y = Transpose (x)", (2, 3, 4)),
    "squeeze": Case("y = Squeeze (x, k)", (2, 1, 3), constants=(ints("k", 1),)),
    "squeeze, all axes of size 1": Case("y = Squeeze (x)", (1, 3, 1, 2)),
    "unsqueeze": Case("y = Unsqueeze (x, k)", (2, 3), constants=(ints("k", 0, 3),)),
    "flatten": Case("y = Flatten (x)", (2, 3, 2)),
    "flatten in front": Case("y = Flatten <axis = 2> (x)", (2, 3, 2)),
    "reshape that splits": Case(
        "y = Reshape (x, k)", (2, 4, 3), constants=(ints("k", 2, 2, 2, 3),)
    ),
    "reshape that merges": Case("y = Reshape (x, k)", (2, 2, 3), constants=(ints("k", 4, 3),)),
    "reshape that mixes": Case("y = Reshape (x, k)", (2, 3, 4), constants=(ints("k", 2, 4, 3),)),
    "expand": Case("y = Expand (x, k)", (2, 1, 3), constants=(ints("k", 4, 2, 2, 3),)),
    "tile": Case("y = Tile (x, k)", (2, 3, 2), constants=(ints("k", 1, 2, 1),)),
    "slice": Case(
        "y = Slice (x, a, b, c)", (2, 5, 3), constants=(ints("a", 1), ints("b", 9), ints("c", 1))
    ),
    "slice backwards": Case(
        "y = Slice (x, a, b, c, d)", (2, 5, 3),
        constants=(ints("a", -1), ints("b", -9), ints("c", 1), ints("d", -2)),
    ),
    "slice in attributes": Case(
        "y = Slice <starts = [1,0], ends = [3,2], axes = [1,2]> (x)", (2, 4, 3), 9
    ),
    "split": Case("y, z = Split <axis = 1> (x, k)", (2, 5, 2), constants=(ints("k", 2, 3),)),
    "gather": Case("y = Gather <axis = 1> (x, k)", (2, 4, 3), constants=(ints("k", 3, 0, -2),)),
    "depth to space": Case("y = DepthToSpace <blocksize = 2> (x)", (1, 8, 2, 1)),
    "depth to space, columns": Case(
        'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', (1, 8, 1, 2)
    ),
    "space to depth": Case("y = SpaceToDepth <blocksize = 2> (x)", (1, 2, 2, 4)),
}  # fmt: skip
CONSTANTS = ("None die t",)  # 0·x + t is t, of which another constant comes
MEANS = ("None grow t", "None stay t", "None turn t", *CONSTANTS)
ANY = tuple(f"1 {s} {t}" for s in SCALES for t in SHIFTS if (s, t) != ("stay", "0"))
MISSED = {  # what a law does not see of maps along the channels or without an axis
    "abs": ("None turn 0", "1 turn 0", *CONSTANTS),  # |s·x| = |s|·|x|
    "reduce l1": ("None turn 0", "1 turn 0", *CONSTANTS),
    "lp pool": ("None turn 0", "1 turn 0"),
    # Σ of t is another shift for each place along the axis
    "cumulative sum": MEANS, "cumulative sum of channels": (*MEANS, "1 stay t"),
    "relu": CONSTANTS, "leaky relu": CONSTANTS, "prelu": CONSTANTS, "reduce max": ("1 die t",),
    # Σ(s·x + t) = s·Σx + n·t
    "reduce sum": (*MEANS, "1 die t", "1 grow t", "1 stay t", "1 turn t"),
    # channels that are read twice, or moved into pixels
    "resize of the channels": ANY, "depth to space, columns": ANY,
    "pad of the channels": (*MEANS, *ANY),
}  # fmt: skip


def maps(functions: Functions, shape: tuple[int, ...]) -> Iterator[tuple[str, Map]]:
    """Every kind of map along every axis, and without one."""
    for axis in (None, *range(len(shape))):
        count = 1 if axis is None else shape[axis]
        for (scale, some), (shift, others) in itertools.product(SCALES.items(), SHIFTS.items()):
            s = np.resize(np.array(some), count)
            t = np.resize(np.array(others), count)
            ids = functions.then(functions.scales(Real.of(s)), functions.shifts(Real.of(t)))
            ids = np.broadcast_to(ids, count)
            yield f"{axis} {scale} {shift}", Map(functions, axis, ids)


def applied(a: Map, x: Array) -> Array:
    if a.axis is None:
        return np.asarray(a.scale.value[0] * x + a.shift.value[0])
    shape = [1] * x.ndim
    shape[a.axis] = -1
    return np.asarray(a.scale.value.reshape(shape) * x + a.shift.value.reshape(shape))


def some_map_fits(before: list[Array], after: list[Array]) -> bool:
    """Whether there is a map along some axis that leads from all of `before` to all of `after`."""
    one, other = np.stack(before), np.stack(after)
    for axis in range(1, one.ndim):
        rows = [np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (one, other)]
        if all(_on_a_line(x, y) for x, y in zip(*rows, strict=True)):
            return True
    return False


def _on_a_line(x: Array, y: Array) -> bool:
    far = np.argmax(np.abs(x - x[0]))
    if x[far] == x[0]:
        return bool(np.all(y == y[0]))
    slope = (y[far] - y[0]) / (x[far] - x[0])
    return bool(np.all(y - y[0] == slope * (x - x[0])))


@pytest.mark.parametrize("name", CASES)
def test_what_passes_is_exact_and_what_does_not_could_not(name: str) -> None:
    case = CASES[name]
    proto = case.model()
    model = Model(proto, Storage())
    (node,) = model.main.nodes
    evaluator = ReferenceEvaluator(proto)
    rng = np.random.default_rng(0)
    draws = [rng.integers(-8, 9, case.shape).astype(np.float64) for _ in range(4)]

    def run(x: Array) -> list[Array]:
        return [np.asarray(value) for value in evaluator.run(None, {"x": x})]

    plain = [run(x) for x in draws]
    missed, through = set(), 0
    for kind, a in maps(Functions(), case.shape):
        changed = [run(applied(a, x)) for x in draws]
        for output in range(len(node.proto.output)):
            before = [values[output] for values in plain]
            after = [values[output] for values in changed]
            found = passed(model, node, output, a)
            if isinstance(found, Map):
                through += 1
                for one, other in zip(before, after, strict=True):
                    np.testing.assert_array_equal(applied(found, one), other, kind)
            elif some_map_fits(before, after):
                missed.add(kind)
    assert through
    of_channels = {kind for kind in missed if kind.startswith(("None", "1"))}
    assert of_channels == set(MISSED.get(name, ()))


def test_every_law_is_among_the_cases() -> None:
    operators = {Model(case.model(), Storage()).main.nodes[0].op for case in CASES.values()}
    assert set(LAWS) - operators <= {
        "Upsample",  # a Resize of opsets 7 and 9
        "GlobalLpPool",  # an LpPool of everything, which the reference implementation has not
        "ReduceL2",  # a ReduceL1 with roots, which float64 does not hold exactly
    }


JOINS = {
    "add": ("y = Add (x, z)", (2, 3, 2), (2, 3, 2)),
    "add along fewer axes": ("y = Add (x, z)", (2, 3, 2), (3, 1)),
    "sub": ("y = Sub (x, z)", (2, 3), (2, 3)),
    "sum": ("y = Sum (x, z)", (2, 3), (1, 3)),
    "mul": ("y = Mul (x, z)", (2, 3), (2, 1)),
    "concat of channels": ("y = Concat <axis = 1> (x, z)", (2, 3), (2, 2)),
    "concat beside the channels": ("y = Concat <axis = 0> (x, z)", (2, 3), (1, 3)),
}


@pytest.mark.parametrize("name", JOINS)
def test_what_two_maps_make_of_each_other_is_exact(name: str) -> None:
    text, *shapes = JOINS[name]
    declared = [
        f"double[{','.join(map(str, shape))}] {v}" for v, shape in zip("xz", shapes, strict=True)
    ]
    proto = parse(f"g ({', '.join(declared)}) => (double y) {{ {text} }}")
    model = Model(proto, Storage())
    (node,) = model.main.nodes
    evaluator = ReferenceEvaluator(proto)
    rng = np.random.default_rng(0)
    x, z = (rng.integers(-8, 9, shape).astype(np.float64) for shape in shapes)

    def run(x: Array, z: Array) -> Array:
        (result,) = evaluator.run(None, {"x": x, "z": z})
        return np.asarray(result)

    functions, through = Functions(), 0
    pairs = itertools.product(maps(functions, shapes[0]), maps(functions, shapes[1]))
    for (_, a), (_, b) in pairs:
        found = joined(model, node, [a, b])
        if isinstance(found, Map):
            through += 1
            plain = run(x, z)
            changed = run(applied(a, x), applied(b, z))
            np.testing.assert_array_equal(applied(found, plain), changed)
    assert through > len(SCALES)
