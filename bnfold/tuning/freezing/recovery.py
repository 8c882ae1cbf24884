"""BatchNormalizations put back, for fine-tuning and for quantisers that want them.

    a folded convolution      y = Conv(x)        →  y = γ(Conv(x) − μ)/√(σ² + ε) + β
    a frozen layer            y = s·x + t        →  y = γ(x − μ)/√(σ² + ε) + β

with the μ and σ² that a file of moments has, so that training starts from the function that the
model computes. The numbers are chosen so that the maps are the same: of a convolution
γ = √(σ² + ε) and β = μ, exactly; of s and t by trying deviations and means close to what is known
until γ/√(σ² + ε) rounds to s and β − sμ to t.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.carried_maps import refs_of
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.onnx_io.protos import delete_named
from bnfold.options import Options
from bnfold.steps import Carried, Proof, Ref, to_json
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.tensor_moments.tensors import TensorMoments

EPSILON = 2.0**-17  # about 10⁻⁵, and exact in every type
_BITS = 12  # of a deviation, whose square is then exact in float32
_LARGEST = 2.0**60
_DEAD = 2.0**-8  # the deviation that a constant channel gets where there is no ε
_TRIES = 4096  # means around the one that is known, up to σ/8 off
_WITH_STATISTICS_ALONE = 9  # the opset from which on a BatchNormalization has no is_test or spatial
_TYPES: dict[int, Any] = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}


@dataclass(frozen=True)
class Recovered:
    """A BatchNormalization that was put back, of C channels.

    `tensor` is what it makes; `known` says whether its μ and σ² come from a file of moments, or are
    0 and 1. `guessed` is the number of channels whose mean could not be kept.
    """

    node: str
    tensor: str
    known: bool
    guessed: int = 0


@dataclass(frozen=True)
class Parameters:
    """Of a BatchNormalization: float64 vectors of C that are exact in the type of the model."""

    gamma: FloatArray
    beta: FloatArray
    mean: FloatArray
    variance: FloatArray
    epsilon: float


def put_back_folded(index: Index, moments: Iterable[TensorMoments]) -> tuple[Recovered, ...]:
    """A BatchNormalization behind each tensor that one had made. Changes `index.model`."""
    draft, editor = Draft(index, Options()), _Editor(index)
    known = _by_tensor(moments)
    done = []
    for node in index.scopes[0].nodes:
        for place, name in enumerate(node.proto.output if node.op != BATCH_NORM else ()):
            kind = _type(draft, node, place, known[name]) if name in known else None
            if kind is not None:
                m = known[name]
                editor.insert(node, place, m.batch_norm, identity(m.mean, m.deviation), kind)
                done.append(Recovered(m.batch_norm, name, known=True))
    editor.finish()
    return tuple(done)


def put_back_frozen(
    index: Index, moments: Iterable[TensorMoments]
) -> tuple[tuple[Recovered, ...], str]:
    """A BatchNormalization instead of each Mul and Add of constants. Changes `index.model`.

    The second is the proof that what it was is what freezing makes of what it is now.
    """
    editor, known, refs = _Editor(index), _by_tensor(moments), refs_of(index)
    pairs = list(_pairs(Draft(index, Options()), index.scopes[0].nodes))
    done = tuple(_of_pair(editor, pair, known.get(pair.add.output)) for pair in pairs)
    places = editor.finish()
    proof = Proof(
        new=tuple(refs[pair.mul] for pair in pairs),
        carried=tuple(Carried(Ref(0, places[pair.add])) for pair in pairs),
    )
    return done, to_json(proof).decode()


def _by_tensor(moments: Iterable[TensorMoments]) -> dict[str, TensorMoments]:
    """Of the main graph's tensors that a BatchNormalization has made."""
    return {m.name: m for m in moments if not m.scope and m.batch_norm and _complete(m)}


def supported(index: Index) -> bool:
    """Whether the model is of a version in which BatchNormalizations can be put back."""
    return index.model.ir_version >= 4 and index.scopes[0].opset >= _WITH_STATISTICS_ALONE


def _complete(m: TensorMoments) -> bool:
    """Whether float32 holds its means and variances."""
    held = (np.abs(m.mean) < _LARGEST) & (m.deviation < _LARGEST)
    return m.axis == 1 and bool(np.all(held) and len(m.mean))


def _type(draft: Draft, node: Node, place: int, m: TensorMoments) -> Any:
    """The type of an output that has as many channels; None for any other."""
    shape = draft.output_shape(node, place)
    kind = draft.inferred.element_type(node.scope, node.proto.output[place])
    fits = shape is not None and len(shape) > 1 and shape[1] == len(m.mean)
    return _TYPES.get(kind or 0) if fits else None


# --- behind what made the value ------------------------------------------------------------------


def identity(mean: FloatArray, deviation: FloatArray) -> Parameters:
    """γ = √(σ² + ε), β = μ: y = x, exactly, with σ to 12 bits and μ in float32.

    σ² = γ² − ε is exact in float32's 24 bits up to a deviation of 16. Where one is larger ε is 0,
    and constant channels get a small σ.
    """
    if deviation.max(initial=0.0) < 16:
        epsilon, least = EPSILON, np.sqrt(EPSILON)
    else:
        epsilon, least = 0.0, 0.0
        deviation = np.where(deviation == 0, _DEAD, deviation)
    gamma = _rounded(np.maximum(deviation, least))
    beta = mean.astype(np.float32).astype(np.float64)
    return Parameters(gamma, beta, beta, gamma**2 - epsilon, epsilon)


def _rounded(values: FloatArray) -> FloatArray:
    """Upwards to 12 bits."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.ceil(mantissa * 2**_BITS) / 2**_BITS, exponent))


# --- instead of Mul and Add ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """A Mul by a constant and the Add of one behind it, as the kernel knows them."""

    mul: Node
    add: Node
    map: Affine
    type: Any  # of numpy


def _pairs(draft: Draft, nodes: Iterable[Node]) -> Iterator[_Pair]:
    """Those between which nobody else reads, and which together are a map of channels."""
    for add in nodes:
        after = affine_map(draft, add) if add.op == "Add" else None
        mul = add.scope.producers.get(add.input(0)) if isinstance(after, tuple) else None
        first = affine_map(draft, mul) if mul is not None and mul.op == "Mul" else None
        if mul is None or not isinstance(first, tuple) or not isinstance(after, tuple):
            continue
        if (first[0], after[0]) != (0, 0):  # the constants come second
            continue
        total, shape = first[1].then(after[1]), draft.shape(mul, first[0])
        exact = _TYPES.get(draft.inferred.element_type(add.scope, add.output) or 0)
        if total is None or exact is None or len(mul.scope.uses[mul.output]) > 1:
            continue
        whole = all(np.all(v.astype(exact) == v) for v in (total.scale, total.shift))
        of_channels = total.axis == 1 and shape is not None and shape[1] == total.channels
        if whole and of_channels:
            yield _Pair(mul, add, total, exact)


def _of_pair(editor: _Editor, pair: _Pair, m: TensorMoments | None) -> Recovered:
    s, t = pair.map.scale, pair.map.shift
    label = m.batch_norm if m is not None else pair.add.proto.name or pair.add.output
    zeros, guessed = np.zeros_like(s), 0
    parameters = Parameters(s, t, zeros, zeros + 1, 0.0)
    known = m is not None and len(m.mean) == len(s) and pair.type is np.float32
    if known and m is not None:
        # y = s·x + t has mean m and deviation d: then x has (m − t)/s and d/|s|
        alive = s != 0  # of the others nothing is known
        mean = np.divide(m.mean - t, s, out=np.zeros_like(s), where=alive)
        deviation = np.divide(m.deviation, np.abs(s), out=np.ones_like(s), where=alive)
        known = bool(np.all((np.abs(mean) < _LARGEST) & (deviation < _LARGEST)))
        if known:
            parameters, guessed = with_statistics(s, t, mean, deviation)
            guessed += int(np.count_nonzero(~alive))
    editor.replace(pair, label, parameters)
    return Recovered(label, pair.add.output, known, guessed)


def with_statistics(
    scale: FloatArray, shift: FloatArray, mean: FloatArray, deviation: FloatArray
) -> tuple[Parameters, int]:
    """γ, β, μ, σ² of s·x + t, and of how many channels μ had to become 0.

    σ is within 2⁻⁷ and μ within σ/8 of what is asked for, so that in float32
    fl(γ/√(σ² + ε)) = s and fl(β − s·μ) = t.
    """
    f32 = np.float32
    chosen = identity(mean, deviation)
    root, gamma = chosen.gamma.copy(), np.full_like(scale, np.nan)
    for place in range(1 << (_BITS - 6)):  # deviations of 12 bits, the closest first
        step = (place + 1) // 2 * (1 if place % 2 else -1)
        left = ~np.isfinite(gamma)
        at = _rounded(np.maximum(chosen.gamma * (1 + step * 2.0**-_BITS), np.sqrt(chosen.epsilon)))
        made = (scale * at).astype(f32).astype(np.float64)
        right = left & ((made / at).astype(f32) == scale.astype(f32))
        root[right], gamma[right] = at[right], made[right]
        if not np.any(left & ~right):
            break
    ratio = gamma / root
    best, beta = np.zeros_like(mean), shift.copy()
    left = np.isfinite(ratio)
    for place in range(_TRIES):  # means around what is known, the closest first
        step = (place + 1) // 2 * (1 if place % 2 else -1)
        at = (mean + root * step / (4 * _TRIES)).astype(f32).astype(np.float64)
        sum_ = (shift + scale * at).astype(f32).astype(np.float64)
        right = left & ((sum_ - ratio * at).astype(f32) == shift.astype(f32))
        best[right], beta[right] = at[right], sum_[right]
        left &= ~right
        if not np.any(left):
            break
    lost = ~np.isfinite(ratio)
    root[lost] = 1.0  # s·1 is exact
    gamma[lost] = scale[lost] * root[lost]
    found = Parameters(gamma, beta, best, root**2 - chosen.epsilon, chosen.epsilon)
    return found, int(np.count_nonzero(left | lost))


# --- edits ---------------------------------------------------------------------------------------


class _Editor:
    """Collects new nodes, and puts them into the main graph."""

    def __init__(self, index: Index) -> None:
        self._index, self._graph = index, index.model.graph
        self._made: dict[Node, list[NodeProto]] = {}  # by the node they stand behind
        self._gone: set[Node] = set()
        self._names = {node.proto.name for node in index.nodes()}

    def insert(self, node: Node, place: int, label: str, p: Parameters, kind: Any) -> None:
        """A BatchNormalization behind an output, which keeps its name."""
        name = node.proto.output[place]
        before = self._index.fresh_name(f"{name}.before")
        node.proto.output[place] = before
        self._add(node, before, name, label, p, kind)

    def replace(self, pair: _Pair, label: str, p: Parameters) -> None:
        """A BatchNormalization instead of both, which makes what the Add made."""
        self._gone |= {pair.mul, pair.add}
        self._add(pair.add, pair.mul.input(0), pair.add.output, label, p, pair.type)

    def _add(
        self, behind: Node, read: str, made: str, label: str, p: Parameters, kind: Any
    ) -> None:  # fmt: skip
        names = []
        for what in ("gamma", "beta", "mean", "variance"):
            names.append(self._index.fresh_name(f"{label}.{what}"))
            tensor = numpy_helper.from_array(getattr(p, what).astype(kind), names[-1])
            self._graph.initializer.append(tensor)
        node = NodeProto()
        if behind in self._gone:  # it takes the place of this one, with all that is said of it
            node.CopyFrom(behind.proto)
            del node.input[:], node.output[:], node.attribute[:]
        else:
            node.name = self._free_name(label)
        node.op_type = BATCH_NORM
        node.input.extend([read, *names])
        node.output.append(made)
        node.attribute.append(helper.make_attribute("epsilon", p.epsilon))
        self._made.setdefault(behind, []).append(node)

    def _free_name(self, label: str) -> str:
        """Onnxruntime refuses two nodes of one name."""
        name = label
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def finish(self) -> dict[Node, int]:
        """Write the nodes, and drop the constants that only those that went have read.

        Gives the places of the new nodes, by the nodes behind which, or instead of which, they are.
        """
        main = self._index.scopes[0]
        unread = {
            name for node in self._gone for name in node.proto.input
            if all(use.node in self._gone for use in main.uses[name])
        }  # fmt: skip
        delete_named(self._graph.initializer, unread)
        kept: list[NodeProto] = []
        places: dict[Node, int] = {}
        for node in main.nodes:
            unread_constant = node.op == "Constant" and node.output in unread
            if node not in self._gone and not unread_constant:
                kept.append(node.proto)
            if node in self._made:
                places[node] = len(kept)
                kept += self._made[node]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del self._graph.node[:]
        self._graph.node.extend(copies)
        return places
