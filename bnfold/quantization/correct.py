"""The function behind `bnfold correct`.

A quantised layer computes (W + ΔW)x + b, so that its mean is off by ΔW·E[x]: of a sum over many
weights, whose roundings are the same for every input, that is no noise. It is taken from the bias
(Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019,
§4.2). E[x] is known where a BatchNormalization stood, or measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import UsageError
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index, Node
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike, output_path, require_other_than
from bnfold.onnx_io.tensor_storage import InMemory
from bnfold.onnx_io.write_model import write_model
from bnfold.options import Options
from bnfold.progress import Progress
from bnfold.quantization.quantized_layers import QuantizedLayer, QuantizedLayers, StoredBias
from bnfold.quantization.regions import LINEAR, is_constant
from bnfold.tuning.data_statistics import Dataset, means, require_not_data
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import Carried, UnknownMomentsError, Values
from bnfold.tuning.prediction.rules import RULES
from bnfold.tuning.tensor_moments import files

_CLOSE = 1.001  # steps between a weight and its integer: quantisers round to either neighbour
_NUMBERS = ("dilations", "output_padding", "output_shape", "pads", "strides")
_DEFAULTS: dict[str, Any] = {
    "alpha": 1.0,
    "beta": 1.0,
    "transA": 0,
    "transB": 0,
    "group": 1,
    "auto_pad": b"NOTSET",
}


@dataclass(frozen=True)
class CorrectedLayer:
    """A layer whose bias was changed: by at most `largest`, by `rms` in the mean over channels.

    `steps` is the largest change in steps of a bias of 32 bits, 0 for one in float.
    """

    node: str
    channels: int
    largest: float
    rms: float
    steps: int


@dataclass(frozen=True)
class UncorrectedLayer:
    """A layer that stayed as the quantiser made it, and why."""

    node: str
    sentence: str


@dataclass(frozen=True)
class CorrectResult:
    """A quantised model with other biases; nothing else of it changed."""

    model: Path
    layers: tuple[CorrectedLayer, ...]
    left: tuple[UncorrectedLayer, ...]


def correct(
    original: PathLike,
    quantized: PathLike,
    path_out: PathLike | None = None,
    *,
    moments_file: PathLike | None = None,
    data: Dataset | None = None,
    progress: Progress | None = None,
) -> CorrectResult:
    """Take from the biases of a quantised file what rounding the weights adds to each mean.

    `original` is the float file that onnxruntime's quantiser read: the folded one, equalised or
    not. Either a `moments_file` says what the means of its values are, as `optimize` and `equalize`
    write it for that file, or they are measured on `data`, which `Dataset` describes. Biases change
    and nothing else; what cannot be recognised is left as it is, and told. `path_out` defaults to
    `quantized.corrected.onnx`.

    Raises ModelError, UsageError (no means, or the second file was not made of the first), and with
    `data` what `stats` raises.
    """
    if (moments_file is None) == (data is None):
        raise UsageError(
            "means come from one of two places", "give either `moments_file` or `data`, not both"
        )
    source, file = model_file.read(Path(original)), model_file.read(Path(quantized))
    target = output_path(Path(quantized), path_out, ".corrected.onnx")
    require_other_than(target, original, moments_file, data.path if data is not None else None)
    if data is not None:
        require_not_data(target, Path(data.path))
    index = Index(source.model, source.storage)
    draft = Draft(index, Options())
    layers = [
        node for node in index.scopes[0].nodes if node.op in LINEAR and is_constant(draft, node, 1)
    ]
    found = QuantizedLayers(Index(file.model, file.storage))
    if not found.count:
        raise UsageError(
            f"{quantized} has no layer with a weight of integers",
            "give what static quantisation wrote, in QDQ or QOperator form",
        )
    pairs = {node: _aligned(draft, node, found.of(node)) for node in layers}
    if all(isinstance(pair, str) for pair in pairs.values()):
        first = next((pair for pair in pairs.values() if isinstance(pair, str)), "it has no layer")
        raise UsageError(
            f"no layer of {quantized} was recognised as one of {original}: {first}",
            "give the float model that the quantiser has read",
        )
    if moments_file is not None:
        known = {m.name: m.mean for m in files.read(moments_file) if not m.scope and m.axis == 1}
    else:
        assert data is not None
        known = means(original, data, _wanted(pairs), progress)
    done: list[CorrectedLayer] = []
    left: list[UncorrectedLayer] = []
    for node, pair in pairs.items():
        told = pair if isinstance(pair, str) else _corrected(draft, node, pair, known)
        if isinstance(told, str):
            left.append(UncorrectedLayer(node.label, told))
        else:
            done.append(told)
    write_model(file, target, unchanged=not done)
    return CorrectResult(target, tuple(done), tuple(left))


def _wanted(pairs: Mapping[Node, QuantizedLayer | str]) -> Iterator[Node]:
    """Nodes that read a value whose mean is asked for."""
    for node, pair in pairs.items():
        if isinstance(pair, str) or isinstance(pair.bias, str):
            continue
        yield node
        pad = node.scope.producers.get(node.input(0))
        if pad is not None and pad.op == "Pad":
            yield pad


def _aligned(draft: Draft, node: Node, layer: QuantizedLayer | None) -> QuantizedLayer | str:
    """The layer, or why it is not what a quantiser made of this node."""
    if layer is None:
        return f"no quantised layer goes by the name of {node.label}"
    if layer.op != node.op or _attributes(layer.node) != _attributes(node):
        return f"{layer.node.label} is another operator than {node.label}"
    weight = draft.values(node, 1)
    if weight.shape != layer.weight.shape:
        return f"the weight of {node.label} has another shape"
    if not np.all(np.abs(layer.weight - weight) <= _CLOSE * np.abs(layer.step)):
        return f"the weight of {node.label} is more than a step away: it was made of another one"
    return layer


def _attributes(node: Node) -> list[object]:
    """What a linear operator is told, with its defaults."""
    return [
        *(node.numbers(name) for name in _NUMBERS),
        *(node.attribute(name, default) for name, default in _DEFAULTS.items()),
    ]


def _corrected(
    draft: Draft, node: Node, layer: QuantizedLayer, known: Mapping[str, FloatArray]
) -> CorrectedLayer | str:
    """Change the bias, and tell by how much; or why that cannot be."""
    bias = layer.bias
    if isinstance(bias, str):
        return bias
    if not _is_of(draft, node, bias):
        return f"the bias of {node.label} is no rounding of the float one: it was changed before"
    try:
        off = _added(draft, node, layer.weight - draft.values(node, 1), known)
    except UnknownMomentsError as unknown:
        return str(unknown)
    if off.shape != bias.constant.shape or not np.all(np.isfinite(off)):
        return f"the mean of what {node.label} reads is not known in every channel"
    beta = float(node.attribute("beta", 1.0)) if node.op == "Gemm" else 1.0
    if not beta:
        return f"{node.label} takes no part of its bias"
    change = -off / beta
    steps = _write(bias, change)
    if steps is None:
        return f"the bias of {node.label} would not fit into 32 bits"
    rms = float(np.sqrt(np.mean(off**2)))
    return CorrectedLayer(node.label, len(off), float(np.abs(off).max(initial=0.0)), rms, steps)


def _is_of(draft: Draft, node: Node, bias: StoredBias) -> bool:
    """Whether a bias is what the quantiser made of the float one, to a step and to float32."""
    if node.input(2) and not is_constant(draft, node, 2):
        return False
    wanted = draft.values(node, 2).reshape(-1) if node.input(2) else np.zeros(1)
    values, step = bias.constant.values(), 0.0 if bias.step is None else np.abs(bias.step)
    if wanted.size not in (1, values.size):
        return False
    now = values if bias.step is None else values * bias.step
    return bool(np.all(np.abs(now - wanted) <= _CLOSE * step + 2.0**-20 * np.abs(wanted)))


def _write(bias: StoredBias, change: FloatArray) -> int | None:
    """The largest change in steps; None, and nothing is written, where a number does not fit."""
    constant, values = bias.constant, bias.constant.values()
    if bias.step is None:
        new = (values + change).astype("<f4")
        if not np.all(np.isfinite(new)):
            return None
        constant.storage.fill(constant.tensor, InMemory(new.tobytes()))
        return 0
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.rint(np.where(change == 0, 0.0, change / bias.step))
    total = values + steps
    ends = np.iinfo(np.int32)
    if not np.all((total >= ends.min) & (total <= ends.max)):
        return None
    constant.storage.fill(constant.tensor, InMemory(total.astype("<i4").tobytes()))
    return int(np.abs(steps).max(initial=0.0))


def _added(
    draft: Draft, node: Node, difference: FloatArray, known: Mapping[str, FloatArray]
) -> FloatArray:
    """ΔW·E[x], of each output channel. Raises UnknownMomentsError."""
    if node.attribute("auto_pad", b"NOTSET").startswith(b"SAME") and difference[0, 0].size > 1:
        raise UnknownMomentsError(f"{node.label} has a padding that follows from its sizes")
    try:
        made = RULES[node.op](_Difference(draft, node, difference, known), node)
    except ValueError as error:
        raise UnknownMomentsError(f"{node.label} does not fit what it reads") from error
    assert isinstance(made, Carried), "linear operators have one output"
    if np.any(made.doubts > 0):
        raise UnknownMomentsError(
            f"how much of the padding {node.label} sees depends on sizes that are not known"
        )
    return made.mean


class _Difference(Values):
    """As if the layer had ΔW for its weight, and no bias."""

    def __init__(
        self, draft: Draft, node: Node, difference: FloatArray, known: Mapping[str, FloatArray]
    ) -> None:
        super().__init__(draft)
        self._node, self._weight, self._means = node, difference, known

    def of(self, node: Node, slot: int = 0) -> Carried:
        name = node.input(slot)
        mean = self._means.get(name)
        if mean is None or not np.all(np.isfinite(mean)):
            raise UnknownMomentsError(f"nothing is known of the mean of {name}")
        shape = self.shape(node, slot)
        axis = len(shape) - 1 if shape is not None and node.op == "MatMul" else 1
        return Carried(mean, np.full_like(mean, np.nan), axis)

    def constant(self, node: Node, slot: int) -> FloatArray | None:
        if node is not self._node:
            return super().constant(node, slot)
        return (None, self._weight, np.zeros(1))[slot]
