"""Random small graphs of every operator in the table, in float64.

In float64 the reference evaluator's rounding is far below any mistake of a fold, and every number
type of the fold itself is exercised elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.support import Array

DOUBLE = TensorProto.DOUBLE


class Builder:
    """Grows a graph node by node; `value` is the newest value, `shape` its shape."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.tensors: list[Any] = []
        self.seen: list[tuple[str, tuple[int, ...]]] = []
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.shape: tuple[int, ...] = (2, 4, 6, 6)
        self.value = "x"

    # --- plumbing --------------------------------------------------------------------------------

    def constant(self, array: Any) -> str:
        name = f"k{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def normal(self, *shape: int) -> Array:
        return np.asarray(self.rng.normal(size=shape))

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> None:
        output = f"v{len(self.nodes)}"
        node = helper.make_node(op, inputs, [output], f"{op}_{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        self.seen.append((self.value, self.shape))
        self.value, self.shape = output, shape

    def maybe(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    @property
    def images(self) -> bool:
        return len(self.shape) == 4 and min(self.shape[2:]) >= 2

    # --- operators -------------------------------------------------------------------------------

    def batch_norm(self) -> None:
        if len(self.shape) < 2:
            return
        c = self.shape[1]
        scale = np.abs(self.normal(c)) if self.maybe(0.6) else self.normal(c)
        shift = self.normal(c)
        mean = self.normal(c)
        if self.maybe(0.4):  # no shift in all: β = γ′μ
            variance = np.ones(c)
            shift, epsilon = scale * mean, 0.0
        else:
            variance, epsilon = self.rng.uniform(0.5, 2, c), 1e-3
        names = [self.constant(a) for a in (scale, shift, mean, variance)]
        self.add("BatchNormalization", [self.value, *names], self.shape, epsilon=epsilon)

    def conv(self) -> None:
        if not self.images:
            return
        n, c, h, w = self.shape
        group = int(self.rng.choice([g for g in (1, 2, c) if c % g == 0]))
        m = group * int(self.rng.integers(1, 4))
        k = int(self.rng.integers(1, 3))
        pad = int(self.rng.integers(0, 2))
        inputs = [self.value, self.constant(self.normal(m, c // group, k, k))]
        if self.maybe(0.5):
            inputs.append(self.constant(self.normal(m)))
        size = (h + 2 * pad - k + 1, w + 2 * pad - k + 1)
        self.add("Conv", inputs, (n, m, *size), group=group, pads=[pad] * 4)

    def conv_transpose(self) -> None:
        if not self.images:
            return
        n, c, h, w = self.shape
        m = int(self.rng.integers(1, 4))
        weight = self.constant(self.normal(c, m, 2, 2))
        self.add("ConvTranspose", [self.value, weight], (n, m, h + 1, w + 1))

    def gemm(self) -> None:
        if len(self.shape) != 2:
            return
        k, m = self.shape[1], int(self.rng.integers(1, 6))
        transposed = self.maybe(0.5)
        weight = self.constant(self.normal(*((m, k) if transposed else (k, m))))
        inputs = [self.value, weight]
        if self.maybe(0.6):
            inputs.append(self.constant(self.normal(*[(m,), (1, m), (1,)][self.rng.integers(3)])))
        self.add(
            "Gemm", inputs, (self.shape[0], m), transB=int(transposed),
            alpha=float(self.rng.choice([1.0, 0.5])), beta=float(self.rng.choice([1.0, 2.0, 0.0])),
        )  # fmt: skip

    def matmul(self) -> None:
        if len(self.shape) < 2:
            return
        if self.maybe(0.7):
            m = int(self.rng.integers(1, 6))
            weight = self.constant(self.normal(self.shape[-1], m))
            self.add("MatMul", [self.value, weight], (*self.shape[:-1], m))
        else:
            m = int(self.rng.integers(1, 6))
            weight = self.constant(self.normal(m, self.shape[-2]))
            self.add("MatMul", [weight, self.value], (*self.shape[:-2], m, self.shape[-1]))

    def einsum(self) -> None:
        if len(self.shape) != 4:
            return
        n, c, h, w = self.shape
        m = int(self.rng.integers(1, 6))
        equation, sizes, shape = [
            ("nchw,oc->nohw", (m, c), (n, m, h, w)),
            ("nchw,noc->nohw", (n, m, c), (n, m, h, w)),
            ("nchw,cho->ncow", (c, h, m), (n, c, m, w)),
            ("nchw,wo->ncho", (w, m), (n, c, h, m)),
        ][self.rng.integers(4)]
        names = [self.value, self.constant(self.normal(*sizes))]
        if self.maybe(0.3):
            left, out = equation.split("->")
            equation = ",".join(reversed(left.split(","))) + "->" + out
            names.reverse()
        self.add("Einsum", names, shape, equation=equation)

    def shuffle(self) -> None:
        if len(self.shape) != 4 or self.shape[1] % 2 or self.shape[1] < 4:
            return
        n, c, h, w = self.shape
        perm = [0, 2, 1, 3, 4] if self.maybe(0.8) else [0, 1, 2, 4, 3]
        self.add("Reshape", [self.value, self.integers(0, 2, c // 2, h, w)], (n, 2, c // 2, h, w))
        self.add("Transpose", [self.value], tuple(self.shape[axis] for axis in perm), perm=perm)
        self.add("Reshape", [self.value, self.integers(n, c, h, w)], (n, c, h, w))

    def alike_norms(self) -> None:
        """Two that are the same, of one value."""
        if len(self.shape) < 2:
            return
        value, shape, c = self.value, self.shape, self.shape[1]
        names = [self.constant(a) for a in (*self.normal(3, c), self.rng.uniform(0.5, 2, c))]
        parts = []
        for op in ("Relu", "Neg"):
            self.add("BatchNormalization", [value, *names], shape, epsilon=1e-3)
            self.add(op, [self.value], shape)
            parts.append(self.value)
        self.add("Add", parts, shape)

    def instance_norm(self) -> None:
        if self.images:
            c = self.shape[1]
            names = [self.constant(self.normal(c)), self.constant(self.normal(c))]
            self.add("InstanceNormalization", [self.value, *names], self.shape)

    def arithmetic(self) -> None:
        op = str(self.rng.choice(["Add", "Sub", "Mul", "Div"]))
        rank = len(self.shape)
        axis = int(self.rng.integers(rank))
        kind = int(self.rng.integers(4))
        shape: tuple[int, ...] = ()
        if kind in (1, 2):
            axis = min(1, rank - 1) if self.maybe(0.7) else axis
            shape = (self.shape[axis], *(1,) * (rank - axis - 1))
            shape = (*(1,) * (rank - len(shape)), *shape) if kind == 2 else shape
        elif kind == 3:
            shape = self.shape[1:] if self.maybe(0.5) else (1,) * rank
        name = self.constant(self.rng.uniform(0.5, 2, shape) * self.rng.choice([-1, 1, 1], shape))
        inputs = [self.value, name] if self.maybe(0.7) else [name, self.value]
        if op == "Div":
            inputs = [self.value, name]
        self.add(op, inputs, self.shape)

    def unary(self) -> None:
        op = str(
            self.rng.choice(["Relu", "LeakyRelu", "Identity", "Relu", "Sigmoid", "Neg", "Abs"])
        )
        self.add(op, [self.value], self.shape)

    def of_places(self) -> None:
        """What adds up along an axis, or keeps a triangle."""
        if self.maybe(0.5):
            axis = int(self.rng.integers(len(self.shape)))
            self.add("CumSum", [self.value, self.constant(np.array(axis))], self.shape)
        elif len(self.shape) > 1:
            self.add("Trilu", [self.value], self.shape)

    def norms(self) -> None:
        if self.images:
            n, c, h, w = self.shape
            size = (n, c, h - 1, w - 1)
            self.add("LpPool", [self.value], size, kernel_shape=[2, 2], p=int(self.maybe(0.5)) + 1)

    def prelu(self) -> None:
        if self.images:
            slope = self.constant(self.rng.uniform(0, 1, (self.shape[1], 1, 1)))
            self.add("PRelu", [self.value, slope], self.shape)

    def dropout(self) -> None:
        self.add("Dropout", [self.value], self.shape)

    def cast(self) -> None:
        self.add("Cast", [self.value], self.shape, to=DOUBLE)

    def pool(self) -> None:
        if not self.images:
            return
        op = str(self.rng.choice(["MaxPool", "AveragePool"]))
        pad = int(self.rng.integers(0, 2))
        extra = {"count_include_pad": int(self.rng.integers(2))} if op == "AveragePool" else {}
        n, c, h, w = self.shape
        size = (h + 2 * pad - 1, w + 2 * pad - 1)
        self.add(op, [self.value], (n, c, *size), kernel_shape=[2, 2], pads=[pad] * 4, **extra)

    def global_pool(self) -> None:
        if self.images:
            op = str(self.rng.choice(["GlobalAveragePool", "GlobalMaxPool"]))
            self.add(op, [self.value], (*self.shape[:2], 1, 1))

    def reduce(self) -> None:
        if len(self.shape) < 3:
            return
        op = str(self.rng.choice(["ReduceMean", "ReduceMax", "ReduceMin"]))
        axis = int(self.rng.integers(1, len(self.shape)))
        keep = int(self.rng.integers(2))
        shape = list(self.shape)
        shape[axis] = 1
        if not keep:
            del shape[axis]
        self.add(op, [self.value], tuple(shape), axes=[axis], keepdims=keep)

    def reduce_sum(self) -> None:
        if len(self.shape) == 4:
            axes = self.integers(2, 3)
            self.add("ReduceSum", [self.value, axes], self.shape[:2], keepdims=0)

    def transpose(self) -> None:
        perm = self.rng.permutation(len(self.shape)).tolist()
        self.add("Transpose", [self.value], tuple(self.shape[p] for p in perm), perm=perm)

    def flatten(self) -> None:
        axis = int(self.rng.integers(1, len(self.shape))) if len(self.shape) > 1 else 0
        shape = (math.prod(self.shape[:axis]), math.prod(self.shape[axis:]))
        self.add("Flatten", [self.value], shape, axis=axis)

    def reshape(self) -> None:
        total = math.prod(self.shape)
        options = [
            (*self.shape, 1), (1, *self.shape), (self.shape[0], total // self.shape[0]),
            (total // self.shape[-1], self.shape[-1]),
        ]  # fmt: skip
        if len(self.shape) > 2:
            options.append((*self.shape[:2], math.prod(self.shape[2:])))
        if len(self.shape) > 1 and self.shape[1] % 2 == 0:
            options.append((self.shape[0], 2, self.shape[1] // 2, *self.shape[2:]))
        if len(self.shape) == 2 and self.shape[1] % 4 == 0:
            options.append((self.shape[0], self.shape[1] // 4, 2, 2))
        shape = options[self.rng.integers(len(options))]
        if len(shape) <= 5:
            self.add("Reshape", [self.value, self.integers(*shape)], tuple(shape))

    def reshape_like(self) -> None:
        """By the shape of a value in front, as reshape_as is exported."""
        same = [v for v, shape in self.seen if math.prod(shape) == math.prod(self.shape)]
        if same:
            source = str(self.rng.choice(same))
            name = f"shape{len(self.nodes)}"
            self.nodes.append(helper.make_node("Shape", [source], [name]))
            shape = dict(self.seen)[source]
            self.add("Reshape", [self.value, name], shape)

    def squeeze(self) -> None:
        ones = [axis for axis, dim in enumerate(self.shape) if dim == 1]
        if ones and len(self.shape) > 2:
            shape = tuple(dim for axis, dim in enumerate(self.shape) if axis != ones[-1])
            self.add("Squeeze", [self.value, self.integers(ones[-1])], shape)

    def unsqueeze(self) -> None:
        if len(self.shape) < 5:
            axis = int(self.rng.integers(len(self.shape) + 1))
            shape = (*self.shape[:axis], 1, *self.shape[axis:])
            self.add("Unsqueeze", [self.value, self.integers(axis)], shape)

    def pad(self) -> None:
        if not self.images:
            return
        mode = str(self.rng.choice(["constant", "reflect", "edge"]))
        inputs = [self.value, self.integers(0, 0, 1, 1, 0, 0, 1, 0)]
        if mode == "constant" and self.maybe(0.5):
            inputs.append(self.constant(np.float64(self.rng.choice([0.0, 1.5]))))
        n, c, h, w = self.shape
        self.add("Pad", inputs, (n, c, h + 2, w + 1), mode=mode)

    def resize(self) -> None:
        if self.images and max(self.shape) < 20:
            mode = str(self.rng.choice(["nearest", "linear"]))
            scales = self.constant(np.array([1, 1, 2, 2], np.float32))
            n, c, h, w = self.shape
            self.add("Resize", [self.value, "", scales], (n, c, 2 * h, 2 * w), mode=mode)

    def depth_to_space(self) -> None:
        if self.images and self.shape[1] % 4 == 0:
            n, c, h, w = self.shape
            mode = str(self.rng.choice(["DCR", "CRD"]))
            shape = (n, c // 4, 2 * h, 2 * w)
            self.add("DepthToSpace", [self.value], shape, blocksize=2, mode=mode)

    def space_to_depth(self) -> None:
        if self.images and self.shape[2] % 2 == 0 and self.shape[3] % 2 == 0:
            n, c, h, w = self.shape
            self.add("SpaceToDepth", [self.value], (n, 4 * c, h // 2, w // 2), blocksize=2)

    def concat(self) -> None:
        same = [v for v, shape in self.seen if shape == self.shape]
        if same:
            axis = int(self.rng.integers(len(self.shape)))
            other = str(self.rng.choice(same))
            shape = list(self.shape)
            shape[axis] *= 2
            self.add("Concat", [other, self.value], tuple(shape), axis=axis)

    def parallel(self) -> None:
        """Two convolutions of one value, joined: what goes up has to be shared out."""
        if not self.images:
            return
        n, c, h, w = self.shape
        branches = []
        for _ in range(2):
            name = f"v{len(self.nodes)}"
            weight = self.constant(self.normal(3, c, 1, 1))
            inputs = [self.value, weight]
            self.nodes.append(helper.make_node("Conv", inputs, [name], f"Conv_{len(self.nodes)}"))
            branches.append(name)
        op = str(self.rng.choice(["Add", "Sub", "Sum", "Mul", "Concat"]))
        self.seen.append((self.value, self.shape))
        attributes = {"axis": 1} if op == "Concat" else {}
        self.add(op, branches, (n, 6 if op == "Concat" else 3, h, w), **attributes)

    def branches(self) -> None:
        """Convolutions of one value, alike or not, with maps behind them, in sums of sums."""
        if not self.images:
            return
        source, shape = self.value, self.shape
        c = shape[1]
        group = int(self.rng.choice([1, c]))
        found = []
        for _ in range(int(self.rng.integers(2, 5))):
            self.value, self.shape = source, shape
            if self.maybe(0.75):
                own = group if self.maybe(0.8) else int(self.rng.choice([1, c]))
                size = self.rng.integers(1, 4, 2)
                dilation = 2 if self.maybe(0.2) else 1
                spans = (size - 1) * dilation
                begins = [int(self.rng.integers(0, span + 1)) for span in spans]
                pads = [*begins, *(int(s) - b for s, b in zip(spans, begins, strict=True))]
                inputs = [source, self.constant(self.normal(c, c // own, *size))]
                inputs += [self.constant(self.normal(c))] if self.maybe(0.4) else []
                self.add("Conv", inputs, shape, group=own, pads=pads, dilations=[dilation] * 2)
            for operator in (self.batch_norm, self.arithmetic, self.dropout):
                if self.maybe(0.4):
                    operator()
            found.append(self.value)
        while len(found) > 1:
            op = str(self.rng.choice(["Add", "Sub", "Sum"]))
            taken = [found.pop(int(self.rng.integers(len(found)))) for _ in range(2)]
            self.add(op, taken, shape)
            if self.maybe(0.3):
                self.arithmetic()
            found.append(self.value)

    def residual(self) -> None:
        same = [v for v, shape in self.seen if shape == self.shape]
        if same:
            op = str(self.rng.choice(["Add", "Sub", "Mul"]))
            self.add(op, [self.value, str(self.rng.choice(same))], self.shape)

    def split(self) -> None:
        axis = min(1, len(self.shape) - 1)
        if self.shape[axis] < 2:
            return
        first = int(self.rng.integers(1, self.shape[axis]))
        sizes = [first, self.shape[axis] - first]
        names = [f"v{len(self.nodes)}", f"v{len(self.nodes)}b"]
        inputs = [self.value, self.integers(*sizes)]
        label = f"Split_{len(self.nodes)}"
        self.nodes.append(helper.make_node("Split", inputs, names, label, axis=axis))
        pick = int(self.rng.integers(2))
        shape = list(self.shape)
        shape[axis] = sizes[pick]
        if self.maybe(0.5):
            other = list(shape)
            other[axis] = sizes[1 - pick]
            self.outputs[names[1 - pick]] = tuple(other)
        self.value, self.shape = names[pick], tuple(shape)

    def slice(self) -> None:
        axis = int(self.rng.integers(1, len(self.shape))) if len(self.shape) > 1 else 0
        if self.shape[axis] < 3:
            return
        step = int(self.rng.choice([1, 2]))
        bounds = [self.integers(v) for v in (1, self.shape[axis], axis, step)]
        shape = list(self.shape)
        shape[axis] = len(range(1, self.shape[axis], step))
        self.add("Slice", [self.value, *bounds], tuple(shape))

    def gather(self) -> None:
        axis = int(self.rng.integers(len(self.shape)))
        count = int(self.rng.integers(1, 4))
        indices = self.rng.integers(0, self.shape[axis], count)
        shape = list(self.shape)
        shape[axis] = count
        self.add("Gather", [self.value, self.integers(*indices)], tuple(shape), axis=axis)

    def expand(self) -> None:
        if len(self.shape) < 5:
            shape = (3, *self.shape)
            self.add("Expand", [self.value, self.integers(*shape)], shape)

    def tile(self) -> None:
        if len(self.shape) == 4 and self.shape[3] < 10:
            repeats = self.integers(1, 1, 1, 2)
            self.add("Tile", [self.value, repeats], (*self.shape[:3], 2 * self.shape[3]))

    def expose(self) -> None:
        if self.nodes:
            self.outputs[self.value] = self.shape

    # --- the model -------------------------------------------------------------------------------

    def model(self) -> ModelProto:
        self.add("Identity", [self.value], self.shape)
        outputs = {**self.outputs, self.value: self.shape}
        graph = helper.make_graph(
            self.nodes, "random",
            [helper.make_tensor_value_info("x", DOUBLE, [2, 4, 6, 6])],
            [helper.make_tensor_value_info(name, DOUBLE, s) for name, s in outputs.items()],
            self.tensors,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


OPERATORS: dict[str, Callable[[Builder], None]] = {
    name: function
    for name, function in vars(Builder).items()
    if callable(function)
    and not name.startswith("_")
    and name not in ("constant", "integers", "normal", "add", "maybe", "model")
}


def build(operators: list[str], seed: int) -> ModelProto:
    """The graph of these operators in a row, each left out where it does not fit."""
    builder = Builder(seed)
    for name in operators:
        OPERATORS[name](builder)
    return builder.model()
