"""Writes PATTERNS.md: which BatchNormalizations bnfold folds, and which the peers leave.

    .venv-bench/bin/python benchmarks/patterns.py      (make patterns)

One small model for each pattern, each tool as `peers.py` runs it. Told is how many
BatchNormalizations are left, also those that are spelled out as arithmetic, and "wrong" where the
results are not those of the original, run in onnxruntime without optimisations.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, numpy_helper
from peers import PEERS

import bnfold

HERE = Path(__file__).parent
TOOLS = ("onnxruntime", "onnxsim", "onnxslim", "onnxoptimizer", "onnxscript")
_INTEGERS = {
    "rows": (1, 8, -1), "back": (8, 8, 3, 3), "cut": (0, 2, 4, 12, 12), "join": (0, 8, 12, 12),
}  # fmt: skip
NORM = "y = BatchNormalization (c, s, b, m, v)"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pattern:
    """A graph in text syntax between x [2,8,12,12] and y, with constants of these shapes."""

    title: str
    nodes: str
    shapes: dict[str, Shape] = field(default_factory=dict)
    head: str = "float[2,8,12,12] x"
    end: str = "float[A,B,C,D] y"
    channels: int = 8
    half: tuple[str, ...] = ()
    overridable: bool = False

    def model(self) -> ModelProto:
        """The model; scales are positive, statistics far from 0 and 1."""
        text = f'<ir_version: 8, opset_import: ["": 17]> g ({self.head}) => ({self.end}) {{'
        model = onnx.parser.parse_model(f"{text}\n{self.nodes}\n}}")
        shapes = dict.fromkeys(("s", "b", "m", "v"), (self.channels,)) | self.shapes
        words = set(self.nodes.replace(",", " ").replace("(", " ").replace(")", " ").split())
        for place, (name, shape) in enumerate(shapes.items()):
            if name in words:
                rng = np.random.default_rng(place)
                positive = name[0] in "sv"
                array = rng.uniform(0.5, 1.5, shape) if positive else rng.normal(0, 0.5, shape)
                dtype = np.float16 if name in self.half else np.float32
                model.graph.initializer.append(numpy_helper.from_array(array.astype(dtype), name))
                if self.overridable:
                    model.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, shape))
        for name, integers in _INTEGERS.items():
            if name in words:
                vector = np.array(integers, np.int64)
                model.graph.initializer.append(numpy_helper.from_array(vector, name))
        onnx.checker.check_model(model, full_check=True)
        return model


K: dict[str, Shape] = {"w": (8, 8, 3, 3), "d": (8,), "p": (8, 8, 1, 1)}
M: dict[str, Shape] = {"w": (16, 8), "d": (8,)}
ROWS = {"head": "float[2,16] x", "end": "float[2,8] y"}
PATTERNS = (
    Pattern("Conv → BN", f"c = Conv (x, w, d) {NORM}", K),
    Pattern("depthwise Conv → BN", f"c = Conv <group = 8> (x, w, d) {NORM}",
            K | {"w": (8, 1, 3, 3)}),
    Pattern("ConvTranspose → BN", f"c = ConvTranspose (x, w) {NORM}", K),
    Pattern("Conv → BN → BN", f"a = Conv (x, w) c = BatchNormalization (a, s, b, m, v) {NORM}", K),
    Pattern("Conv → Mul → Add → BN",
            f"a = Conv (x, w) e = Mul (a, s1) c = Add (e, b1) {NORM}",
            K | {"s1": (8, 1, 1), "b1": (8, 1, 1)}),
    Pattern("Gemm → BN", f"c = Gemm (x, w, d) {NORM}", M, **ROWS),
    Pattern("MatMul → BN", f"c = MatMul (x, w) {NORM}", M, **ROWS),
    Pattern("MatMul → Add → BN", f"a = MatMul (x, w) c = Add (a, d) {NORM}", M, **ROWS),
    Pattern("BN → Gemm", "c = BatchNormalization (x, s, b, m, v) y = Gemm (c, w, d)", M,
            channels=16, **ROWS),
    Pattern("BN → Conv", "c = BatchNormalization (x, s, b, m, v) y = Conv (c, w)", K),
    Pattern("Conv → Relu → BN → Conv",
            "a = Conv (x, w) r = Relu (a) c = BatchNormalization (r, s, b, m, v) y = Conv (c, p)",
            K),
    Pattern("two Convs → Concat → BN",
            f"a = Conv (x, w) e = Conv (x, w2) c = Concat <axis = 1> (a, e) {NORM}",
            K | {"w2": (8, 8, 3, 3)}, channels=16),
    Pattern("two Convs → Add → BN", f"a = Conv (x, w) e = Conv (x, w2) c = Add (a, e) {NORM}",
            K | {"w2": (8, 8, 3, 3)}),
    Pattern("Conv → AveragePool → BN",
            f"a = Conv (x, w) c = AveragePool <kernel_shape = [2, 2]> (a) {NORM}", K),
    Pattern("Conv → Flatten → Gemm, BN between",
            "a = Conv (x, w) f = GlobalAveragePool (a) e = Flatten (f) "
            "c = BatchNormalization (e, s, b, m, v) y = Gemm (c, w2)",
            K | {"w2": (8, 4)}, end="float[2,4] y"),
    Pattern("Conv read by two, one of them BN",
            "a = Conv (x, w) c = BatchNormalization (a, s, b, m, v) e = Conv (c, p) q = Relu (a) "
            "z = Add (e, q) y = Identity (z)", K),
    Pattern("Conv read by two BNs that are alike",
            "a = Conv (x, w) c = BatchNormalization (a, s, b, m, v) r = Relu (c) "
            "e = BatchNormalization (a, s, b, m, v) q = Sigmoid (e) y = Mul (r, q)", K),
    Pattern("Conv → channel shuffle → BN",
            "a = Conv (x, p) f = Reshape (a, cut) t = Transpose <perm = [0,2,1,3,4]> (f) "
            f"c = Reshape (t, join) {NORM}", K),
    Pattern("BN → padded Conv",
            "c = BatchNormalization (x, s, b, m, v) y = Conv <pads = [1,1,1,1]> (c, w)", K),
    Pattern("Einsum → BN", f'c = Einsum <equation = "nchw,oc->nohw"> (x, o) {NORM}',
            {"o": (8, 8)}),
    Pattern("weight standardisation → Conv",
            "f = Reshape (w, rows) "
            "n, i, j = BatchNormalization <training_mode = 1> (f, s, b, m, v) "
            "k = Reshape (n, back) y = Conv (x, k)", K),
    Pattern("weight normalisation → Conv → BN",
            "r = ReduceL2 <axes = [1,2,3]> (w) n = Div (w, r) k = Mul (n, s1) "
            f"c = Conv (x, k) {NORM}",
            K | {"s1": (8, 1, 1, 1)}),
    Pattern("float16 Conv → BN with float32 statistics", f"c = Conv (x, w) {NORM}", K,
            head="float16[2,8,12,12] x", end="float16[A,B,C,D] y", half=("w",)),
    Pattern("weights that callers may replace (must stay)", f"c = Conv (x, w) {NORM}", K,
            overridable=True),
)  # fmt: skip


def outcome(pattern: Pattern, tool: Callable[[str, str], None]) -> str:
    """How many BatchNormalizations a tool leaves, or what is wrong with what it makes."""
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in.onnx"), Path(name, "out.onnx")
        onnx.save(pattern.model(), source)
        quiet = io.StringIO()
        try:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                tool(str(source), str(target))
        except Exception as error:
            return f"fails: {type(error).__name__}"
        ops = [node.op_type for node in onnx.load(target).graph.node]
        left = ops.count("BatchNormalization") + ops.count("Sqrt")
        try:
            return str(left) if same(source, target, pattern) else f"{left}, wrong"
        except Exception:
            return f"{left}, does not load"


def same(source: Path, target: Path, pattern: Pattern) -> bool:
    """Whether both give the same, also where callers replace what they may."""
    results = []
    for path in (source, target):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        session = ort.InferenceSession(path, options)
        feed = {}
        names = {value.name for value in session.get_overridable_initializers()}
        given = {value.name: value for value in onnx.load(source).graph.input}
        for place, (name, value) in enumerate(given.items()):
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            dtype = np.float16 if value.type.tensor_type.elem_type == 10 else np.float32
            if name == "x" or name in names:
                drawn = np.random.default_rng(place).uniform(0.5, 1.5, shape)
                feed[name] = drawn.astype(dtype)
        results.append(session.run(None, feed)[0].astype(np.float64))
    tolerance = 1e-2 if pattern.half else 1e-4
    return bool(np.allclose(*results, rtol=tolerance, atol=tolerance))


def ours(source: str, target: str) -> None:
    """bnfold, as its command runs."""
    bnfold.optimize(source, target)


def table() -> str:
    """The whole page."""
    tools: dict[str, Callable[[str, str], None]] = {"bnfold": ours} | {
        name: lambda source, target, peer=PEERS[name]: peer(source, target, external=False)
        for name in TOOLS
    }
    lines = [
        f"| pattern | {' | '.join(tools)} |", f"|---|{'---|' * len(tools)}",
    ]  # fmt: skip
    for pattern in PATTERNS:
        cells = []
        for name, tool in tools.items():
            found = outcome(pattern, tool)
            cells.append(f"**{found}**" if name == "bnfold" else found)
        lines.append(f"| {pattern.title} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version(name)}" for name in ("bnfold", *TOOLS))
    return "\n".join(lines) + f"\n\n{versions}.\n"


def main() -> None:
    """Write the page beside this file."""
    logging.disable(logging.CRITICAL)
    head = (
        "# What is left\n\nBatchNormalizations left by each tool, of models with one (two in "
        '"Conv → BN → BN"). Written by `patterns.py`, which checks the results as well: "wrong" '
        "are those that differ from the original's, also where callers give other weights. "
        "onnxruntime is its offline optimiser at the basic level; onnxoptimizer spells a "
        "BatchNormalization out as arithmetic on constants, which counts as left.\n\n"
    )
    (HERE / "PATTERNS.md").write_text(head + table())


if __name__ == "__main__":
    sys.exit(main())
