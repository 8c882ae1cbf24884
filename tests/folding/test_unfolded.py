"""Maps put where they can be taken out again: the nodes are as many as before, and all is proven.

The models have no BatchNormalization, or theirs are folded first. Behind some of their convolutions
and products a BatchNormalization is put, or the Mul and Add that disguise one.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import bnfold

SAMPLES = sorted(Path(__file__).parents[2].joinpath("sample_models").glob("*.onnx"))
KINDS = {"Conv": 0, "ConvTranspose": 1, "Gemm": None}  # the weight's axis of output channels


def channels(model: ModelProto, node: onnx.NodeProto) -> int | None:
    """Of a linear node; None where it cannot be told, or ConvTranspose has groups."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = tensors.get(node.input[1]) if len(node.input) > 1 else None
    if weight is None or node.op_type not in KINDS:
        return None
    axis = KINDS[node.op_type]
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if given.get("group", 1) != 1 and node.op_type == "ConvTranspose":
        return None
    if axis is None:
        axis = 0 if given.get("transB", 0) else 1
    return int(weight.dims[axis])


def put_behind(model: ModelProto, node: onnx.NodeProto, count: int, rng: random.Random) -> None:
    """A BatchNormalization, or a Mul and an Add; whoever read the node reads that."""
    draw = np.random.default_rng(rng.randrange(1 << 30))
    behind = f"{node.output[0]}_mapped"
    for other in model.graph.node:
        for slot, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[slot] = behind
    for value in model.graph.output:
        assert value.name != node.output[0]
    ones = (count,) if node.op_type == "Gemm" else (count, 1, 1)
    kinds = {
        "s": draw.uniform(0.5, 2, count), "b": draw.normal(size=count),
        "m": draw.normal(size=count), "v": draw.uniform(0.5, 2, count),
    }  # fmt: skip
    names = {key: f"{behind}_{key}" for key in kinds}
    batch_norm = rng.random() < 0.6
    used = ("s", "b", "m", "v") if batch_norm else ("s", "b")
    for key in used:
        array = kinds[key].astype(np.float32)
        array = array if batch_norm else array.reshape(ones)
        model.graph.initializer.append(numpy_helper.from_array(array, names[key]))
    if batch_norm:
        given = [node.output[0], *(names[key] for key in used)]
        new = [helper.make_node("BatchNormalization", given, [behind])]
    else:
        between = f"{behind}_scaled"
        new = [
            helper.make_node("Mul", [node.output[0], names["s"]], [between]),
            helper.make_node("Add", [between, names["b"]], [behind]),
        ]
    place = list(model.graph.node).index(node) + 1
    for offset, added in enumerate(new):
        model.graph.node.insert(place + offset, added)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_what_was_put_in_comes_out_again(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    options = bnfold.Options(freeze_initializers=True)
    bare = bnfold.fold(onnx.load(path), options=options)
    model = ModelProto()
    model.CopyFrom(bare.model)
    outputs = {value.name for value in model.graph.output}
    put = 0
    for node in list(model.graph.node):
        count = channels(model, node)
        if count is not None and node.output[0] not in outputs and rng.random() < 0.6:
            put_behind(model, node, count, rng)
            put += 1
    result = bnfold.fold(model, options=options)
    assert put == 0 or result.folded
    assert len(result.kept) == len(bare.kept)
    assert result.after.nodes == bare.after.nodes
