"""Draws the graphs of graphs.json with NNSmith, which finds shapes that fit with an SMT solver.

    pip install nnsmith
    python -m tests.nnsmith.generate

Only operators that carry, take or stop affine maps are drawn: those that are or take maps, and a
few others for each graph. Kept are graphs of small values that run and in which something folds.
Weights and BatchNormalizations are not stored: `tests.nnsmith.stored` adds them.
"""

from __future__ import annotations

import json
import random
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import bnfold
from tests.nnsmith import stored

COUNT, NODES, LARGEST = 300, 8, 4096
PATIENCE = 1500  # milliseconds for one graph
LONGEST = 20  # seconds
MEMORY = 3 << 30
NAMES = (
    "NCHWConv2d", "Conv1d", "Add", "Sub", "Mul", "Div", "ReLU", "LeakyReLU", "PReLU",
    "Sigmoid", "Neg", "Abs", "Clip", "GELU", "MaxPool2d", "AvgPool2d", "Slice", "ConstPad",
    "ReflectPad", "ReplicatePad", "ExpandLast4", "Reshape", "Transpose", "NearestInterp",
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "Squeeze", "Concat2", "Concat3", "Max",
    "Min",
)  # fmt: skip
AFFINE = ("NCHWConv2d", "Conv1d", "Add", "Sub", "Mul", "Div")
OTHERS = 6  # operators beside these
ATTRIBUTES = (
    "in_channels", "out_channels", "kernel_size", "kernel_h_size", "kernel_w_size", "stride",
    "padding", "dilation", "dilation_h", "dilation_w", "start", "end", "step", "padding_list",
    "expand_n", "expand_last_dim", "size",
)  # fmt: skip
EXTRA = ("axis", "dim0", "dim1", "reduce_dim")


def drawn(seed: int, number: int) -> dict[str, Any] | None:
    """The graph of a seed as plain data; None where none fits."""
    from nnsmith.abstract import op
    from nnsmith.abstract.dtype import DType
    from nnsmith.graph_gen import model_gen

    others = random.Random(seed).sample([name for name in NAMES if name not in AFFINE], OTHERS)
    names = [*AFFINE, *others]
    graph = model_gen(
        [getattr(op, name) for name in names], method="symbolic-cinit", max_nodes=NODES, seed=seed,
        timeout_ms=PATIENCE,
        rank_choices=[4], dtype_choices=[DType.float32],
    ).make_concrete()  # fmt: skip
    nodes = []
    for inst in graph.insts:
        one = inst.iexpr.op
        values = {name: vars(one)[name] for name in ATTRIBUTES if name in vars(one)}
        values |= {name: one.extra_attrs[name] for name in EXTRA if name in one.extra_attrs}
        attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        nodes.append([type(one).__name__, list(inst.iexpr.args), inst.retvals()[0], attributes])
    shapes = {name: list(value.shape) for name, value in graph.vars.items()}
    fits = all(size(shape) <= LARGEST for shape in shapes.values())
    kernels = all(
        node[3]["kernel_h_size"] * node[3]["kernel_w_size"] * node[3]["in_channels"] < LARGEST
        for node in nodes if node[0] == "NCHWConv2d"
    )  # fmt: skip
    grows = all(min(node[3].get("padding_list", [0])) >= 0 for node in nodes)
    found = {"nodes": nodes, "shapes": shapes}
    return found if fits and kernels and grows and folds(found, number) else None


def folds(graph: dict[str, Any], number: int) -> bool:
    """Whether the graph is valid and runs, and bnfold has something to fold in it."""
    exact = stored.build(graph, number, np.float64)
    onnx.checker.check_model(stored.build(graph, number), full_check=True)
    stored.outputs(exact, stored.feeds(exact, number))
    return bool(bnfold.fold(exact).folded)


def size(shape: list[int]) -> int:
    """How many elements a value has."""
    total = 1
    for dim in shape:
        total *= dim
    return total


def _give_up(*_: object) -> None:
    raise TimeoutError  # some seeds keep the solver busy for hours


def main() -> None:
    """Write the file."""
    found: list[dict[str, Any]] = []
    seed = 0
    signal.signal(signal.SIGALRM, _give_up)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # some take gigabytes to run
    while len(found) < COUNT:
        signal.alarm(LONGEST)
        try:
            graph = drawn(seed, len(found))
        except Exception as error:  # of the generator: it has drawn itself into a corner
            print(seed, type(error).__name__)
            graph = None
        if graph is not None:
            found.append(graph)
            print(f"{len(found)} of {COUNT}: seed {seed}", flush=True)
        seed += 1
    lines = ",\n".join(json.dumps(graph, separators=(",", ":")) for graph in found)
    Path(__file__).with_name("graphs.json").write_text(f"[{lines}]\n")
    print(f"{COUNT} of {seed}")


if __name__ == "__main__":
    main()
