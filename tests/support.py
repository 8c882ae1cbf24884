"""What the tests share: models in text syntax, the frame test, exact runs.

The numbers in these models are small multiples of powers of two and the variances are powers of
four with epsilon 0, so that float arithmetic makes no rounding error at all: the folded model must
give the original's outputs bit for bit, and no tolerance hides a mistake.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from click.testing import CliRunner, Result
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

import bnfold
from bnfold import FoldResult, Verdict
from bnfold.cli.main import main
from bnfold.onnx_io.protos import bodies
from bnfold.runtime.sessions import SessionFactory, run
from bnfold.runtime.synthetic_inputs import SyntheticInputs, input_specs, synthetic_feeds

Array = npt.NDArray[Any]


CONV_NORM = """
g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization (c, s, b, m, v)
}"""


def invoke(*words: object) -> Result:
    """Run a command in this process; one string alone is a whole line."""
    line = list(map(str, words))
    return CliRunner().invoke(main, shlex.split(line[0]) if len(line) == 1 else line)


def parse(text: str, opset: int = 17, ir_version: int = 8, /, **tensors: Array) -> ModelProto:
    """The model of a graph in ONNX text syntax; `tensors` become initializers."""
    header = "" if text.lstrip().startswith("<") else _header(opset, ir_version)
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in tensors.items())
    return model


def _header(opset: int, ir_version: int) -> str:
    return f'<ir_version: {ir_version}, opset_import: ["": {opset}]>'


def free(model: ModelProto) -> ModelProto:
    """The model with the shape of its output left to inference."""
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found = inferred.graph.output[0].type.tensor_type
    model.graph.output[0].type.tensor_type.CopyFrom(found)
    if not found.HasField("shape"):
        del model.graph.output[0].type.tensor_type.shape.dim[:]
    return model


def numbers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Small integers, none of them 0."""
    rng = np.random.default_rng(seed)
    drawn: Array = rng.integers(1, 8, shape) * rng.choice([-1, 1], shape)
    return drawn.astype(dtype)


def bn(
    channels: int, *, seed: int = 0, dtype: Any = np.float32, name: str = ""
) -> dict[str, Array]:
    """Parameters s, b, m, v of a BatchNormalization: γ, β, μ integers, σ² a power of four."""
    rng = np.random.default_rng(100 + seed)
    return {
        f"s{name}": numbers(channels, seed=seed + 1, dtype=dtype),
        f"b{name}": numbers(channels, seed=seed + 2, dtype=dtype),
        f"m{name}": numbers(channels, seed=seed + 3, dtype=dtype),
        f"v{name}": rng.choice([0.25, 1, 4, 16], channels).astype(dtype),
    }


def affine(parameters: dict[str, Array], name: str = "") -> tuple[Array, Array]:
    """γ′ and β′ of these parameters, in float64 (ε = 0)."""
    s, b, m, v = (parameters[f"{key}{name}"].astype(np.float64) for key in "sbmv")
    return s / np.sqrt(v), b - s / np.sqrt(v) * m


@dataclass(frozen=True)
class Folded:
    """A fold that has passed every check: the model before, and the result."""

    before: ModelProto
    result: FoldResult[ModelProto]

    @property
    def model(self) -> ModelProto:
        return self.result.model

    @property
    def node(self) -> NodeProto:
        """The only node that is left."""
        (node,) = self.model.graph.node
        return node

    def tensor(self, name: str) -> Array:
        """An initializer of the main graph."""
        return initializer(self.model, name)

    @property
    def ops(self) -> list[str]:
        return [node.op_type for node in self.model.graph.node]


def initializer(model: ModelProto, name: str) -> Array:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor)


def folded(
    model: ModelProto,
    *,
    count: int | None = None,
    execute: bool = True,
    options: bnfold.Options | None = None,
) -> Folded:
    """Fold the model, which must fold `count` sites (all, by default), and check all there is.

    That the fold is proven as well, `tests.proving` sees to in every test.
    """
    onnx.checker.check_model(model, full_check=True)
    bytes_before = model.SerializeToString(deterministic=True)
    result = bnfold.fold(model, options=options)
    assert model.SerializeToString(deterministic=True) == bytes_before, "the argument was changed"
    assert len(result.folded) == (len(result.verdicts) if count is None else count), result.verdicts
    assert result.folded, "nothing was folded"
    onnx.checker.check_model(result.model, full_check=True)
    assert result.after.nodes <= result.before.nodes
    assert_frame(model, result)
    if execute:
        assert_same_outputs(model, result.model)
    return Folded(model, result)


def kept(model: ModelProto, *, check: bool = True) -> Verdict:
    """Fold the model, of which nothing may change, and return the verdict on its only site."""
    if check:
        onnx.checker.check_model(model)
    result = bnfold.fold(model)
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    (verdict,) = result.verdicts
    assert not verdict.folded
    return verdict


def shift_stays(model: ModelProto, *, execute: bool = True) -> Folded:
    """Fold the model, whose only BatchNormalization must become an Add, and check all there is."""
    (norm,) = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    result = folded(model, execute=execute)
    (stays,) = (node for node in result.model.graph.node if node.name == norm.name)
    assert stays.op_type == "Add"
    assert len(result.model.graph.node) == len(model.graph.node)
    return result


def reason(model: ModelProto, *, check: bool = True) -> str:
    """The code of the reason for which the model's only site stays."""
    refusal = kept(model, check=check).refusal
    assert refusal is not None
    assert "{" not in refusal.sentence, "the sentence was not completed"
    return refusal.reason.code


def assert_same_outputs(before: ModelProto, after: ModelProto) -> None:
    """Both give the same bits in onnxruntime, on integer inputs."""
    sessions = [SessionFactory().open(model.SerializeToString()) for model in (before, after)]
    inputs = input_specs(before, {})
    for feed in next(synthetic_feeds(before, inputs, {}, SyntheticInputs())):
        whole = {
            name: np.trunc(array * 4) if array.dtype.kind == "f" else array
            for name, array in feed.items()
        }
        one, other = (run(session, whole) for session in sessions)
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


# --- the frame: what the fold did not claim is byte for byte what it was ------------------------


def assert_frame(before: ModelProto, result: FoldResult[ModelProto]) -> None:
    """Everything but the folded sites and the nodes that took them is unchanged."""
    after = result.model
    for field in ModelProto.DESCRIPTOR.fields:
        if field.name not in ("graph", "functions"):
            assert getattr(before, field.name) == getattr(after, field.name), field.name
    claimed = {name for verdict in result.folded for name in verdict.into}
    _same_graph(before.graph, after.graph, claimed, before.ir_version)
    assert len(before.functions) == len(after.functions)
    for old, new in zip(before.functions, after.functions, strict=True):
        _same_nodes(old.node, new.node, claimed, before.ir_version)
        assert (old.name, old.domain, list(old.input), list(old.output)) == (
            new.name, new.domain, list(new.input), list(new.output),
        )  # fmt: skip


def _same_graph(old: GraphProto, new: GraphProto, claimed: set[str], ir_version: int) -> None:
    for field in GraphProto.DESCRIPTOR.fields:
        if field.name not in ("node", "initializer", "value_info", "input"):
            assert getattr(old, field.name) == getattr(new, field.name), field.name
    rewritten = _same_nodes(old.node, new.node, claimed, ir_version)
    used = _used_names(new)
    for kind in ("initializer", "value_info", "input"):
        entries = {entry.name: entry for entry in getattr(new, kind)}
        for entry in getattr(old, kind):
            if entry.name not in entries:
                assert entry.name not in used, f"{kind} {entry.name} is gone but used"
                assert kind != "input" or ir_version < 4, f"the input {entry.name} is gone"
            elif kind != "initializer" or entry.name not in rewritten:
                assert entries[entry.name] == entry, f"{kind} {entry.name} changed"
        order = [entry.name for entry in getattr(old, kind) if entry.name in entries]
        assert [e.name for e in getattr(new, kind)][: len(order)] == order, f"{kind} reordered"


def _same_nodes(
    old: Sequence[NodeProto], new: Sequence[NodeProto], claimed: set[str], ir_version: int
) -> set[str]:
    """Compare, and return what the claimed nodes read, in bodies too."""
    old = list(old)
    pairs, remaining = [], iter(old)
    rewritten: set[str] = set()
    for node in new:
        if node.op_type == "Constant" and not any(o.output[:] == node.output[:] for o in old):
            continue  # a new constant, where initializers are not to be had
        match = next((o for o in remaining if _corresponds(o, node)), None)
        assert match is not None, f"node {node.name} came from nowhere, or nodes were reordered"
        pairs.append((match, node))
        if _label(match) in claimed:
            rewritten.update(node.input)
    for match, node in pairs:
        for (_, a_body), (_, b_body) in zip(bodies(match), bodies(node), strict=True):
            rewritten |= _same_graph_of_body(a_body, b_body, claimed, ir_version)
    matched = {id(match) for match, _ in pairs}
    reached: dict[str, set[str]] = {}  # what a node that is gone may have been replaced by
    for gone in (o for o in old if id(o) not in matched):
        sources = set(gone.input) | {n for name in gone.input for n in reached.get(name, ())}
        reached.update(dict.fromkeys(gone.output, sources))
    for match, node in pairs:
        assert match.metadata_props == node.metadata_props
        assert match.doc_string == node.doc_string
        if _label(match) in claimed:
            continue
        assert match.op_type == node.op_type
        assert len(match.input) == len(node.input)
        for a, b in zip(match.input, node.input, strict=True):
            assert a == b or b in reached.get(a, ()), f"{node.name} reads {b} instead of {a}"
        if node.op_type == "Constant" and node.output[0] in rewritten:
            continue
        for one, other in zip(match.attribute, node.attribute, strict=True):
            if not (one.HasField("g") or one.graphs):
                assert one == other
    return rewritten


def _same_graph_of_body(
    old: GraphProto, new: GraphProto, claimed: set[str], ir_version: int
) -> set[str]:
    _same_graph(old, new, claimed, ir_version)
    return _same_nodes(old.node, new.node, claimed, ir_version)


def _corresponds(old: NodeProto, new: NodeProto) -> bool:
    if old.name or new.name:
        return old.name == new.name
    same_output = old.output[:] == new.output[:]
    return same_output or bool(old.input and new.input and old.input[0] == new.input[0])


def _label(node: NodeProto) -> str:
    return node.name or f"{node.op_type}→{node.output[0]}"


def _used_names(graph: GraphProto) -> set[str]:
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input, node.output)
        for _, body in bodies(node):
            names |= _used_names(body)
    return names


def nodes(model: ModelProto, *ops: str) -> list[NodeProto]:
    """The main graph's nodes of these operators."""
    return [node for node in model.graph.node if node.op_type in ops]
