"""Writes faults.md: which faults in stored statistics `bnfold stats` finds without data.

python docs/fault_table.py MODEL...    trained models, besides the sample models

Each fault is put into one layer at a time, or into the whole model, and the model is asked again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

import bnfold
from bnfold import Dataset
from bnfold.graph.index import BATCH_NORM, Index
from bnfold.tuning.prediction.consistency import consistency_of
from bnfold.tuning.prediction.verdicts import Consistency, ConsistencyResult

Array = npt.NDArray[np.float32]
MOST = 40  # layers of a model that a fault is put into
SAMPLES = Path(__file__).parents[1] / "sample_models"

HEAD = """\
# Faults that `bnfold stats` finds without data

Written by `docs/fault_table.py`. Faults are put into {models}:
{layers} BatchNormalizations, of which {judged} have something before them to be judged by; as they
are, {alarms} of them contradict.

## In one layer

The fault stands in one layer at a time. *Found*: the layer contradicts; *of those judged*: of the
layers that can be judged at all; *named rightly*: of the models found, those in which no sound
layer contradicts.

| Fault | Tried | Found | Of those judged | Named rightly |
|---|---|---|---|---|
"""

WHOLE = """
## In the whole model

The models in which any layer contradicts, and the layers, of all that there are.

| Fault | Models found | Layers that contradict |
|---|---|---|
"""

DATA = """
## Against data

Means predicted for the sample models, against those that their own data shows, in units of the
deviation that the data shows: |predicted − measured|/σ over all channels; and by what factor the
predicted variance differs, in the middle.

| The mean rests on | Layers | Channels | Median | 95 % | Largest | Variance |
|---|---|---|---|---|---|---|
"""

NOTES = """
## What stays invisible

- **A wrong ε** moves no mean, and hardly a variance.
- **A standard deviation stored for a variance**, or its square, is within what dependent channels
  make of a variance, unless it is far from 1.
- **Little noise on the weights**, and averages of checkpoints that lie close together, move means
  by less than what training leaves between them.
- **Another preprocessing** (a factor of 255, other means) changes what the first layer reads, of
  which nothing is known. It takes data: `bnfold stats --inputs`.
- Behind operators without a rule (MaxPool, Softmax, channel shuffles, Flatten of several pixels)
  only what needs no prediction is found.
"""


class Copy:
    """A model to spoil, and its BatchNormalizations with constant statistics."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self._stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.norms = [
            node for node in self.model.graph.node
            if node.op_type == BATCH_NORM and all(n in self._stored for n in node.input[1:])
        ]  # fmt: skip

    def get(self, name: str) -> Array:
        return np.array(numpy_helper.to_array(self._stored[name]))

    def set(self, name: str, values: npt.ArrayLike) -> None:
        new = np.asarray(values, self.get(name).dtype)
        self._stored[name].CopyFrom(numpy_helper.from_array(new, name))

    def change(self, name: str, function: Callable[[Array], npt.ArrayLike]) -> None:
        self.set(name, function(self.get(name)))

    def weights(self) -> Iterator[str]:
        for node in self.model.graph.node:
            if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in self._stored:
                yield node.input[1]


def _default(copy: Copy, norm: NodeProto) -> None:
    copy.change(norm.input[3], np.zeros_like)
    copy.change(norm.input[4], np.ones_like)


def _zeros(copy: Copy, norm: NodeProto) -> None:
    copy.change(norm.input[3], np.zeros_like)
    copy.change(norm.input[4], np.zeros_like)


def _lost_means(copy: Copy, norm: NodeProto) -> None:
    copy.change(norm.input[3], np.zeros_like)


def _negated(copy: Copy, norm: NodeProto) -> None:
    copy.change(norm.input[3], np.negative)


def _other_order(copy: Copy, norm: NodeProto) -> None:
    for slot in (3, 4):
        copy.change(norm.input[slot], np.flip)


def _square_root(copy: Copy, norm: NodeProto) -> None:
    copy.change(norm.input[4], np.sqrt)


def _square(copy: Copy, norm: NodeProto) -> None:
    copy.change(norm.input[4], np.square)


def _thousandfold(copy: Copy, norm: NodeProto) -> None:
    copy.change(norm.input[4], lambda v: 1000 * v)


def _epsilon(_: Copy, norm: NodeProto) -> None:
    kept = [a for a in norm.attribute if a.name != "epsilon"]
    del norm.attribute[:]
    norm.attribute.extend([*kept, onnx.helper.make_attribute("epsilon", 1e-3)])


IN_ONE: dict[str, Callable[[Copy, NodeProto], None]] = {
    "never updated: μ = 0, σ² = 1": _default,
    "zeros: μ = 0, σ² = 0": _zeros,
    "means lost: μ = 0": _lost_means,
    "sign of the means": _negated,
    "channels in another order": _other_order,
    "variances 1,000 times as large": _thousandfold,
    "σ stored for σ²": _square_root,
    "σ⁴ stored for σ²": _square,
    "ε = 0.001": _epsilon,
}


def _noisy(share: float) -> Callable[[Copy], None]:
    def fault(copy: Copy) -> None:
        rng = np.random.default_rng(0)
        for name in set(copy.weights()):
            copy.change(name, lambda w: w + share * w.std() * rng.normal(size=w.shape))

    return fault


def _pruned(share: float) -> Callable[[Copy], None]:
    def fault(copy: Copy) -> None:
        for name in set(copy.weights()):
            copy.change(name, lambda w: np.where(np.abs(w) < np.quantile(np.abs(w), share), 0, w))

    return fault


def _everywhere(one: Callable[[Copy, NodeProto], None]) -> Callable[[Copy], None]:
    def fault(copy: Copy) -> None:
        for norm in copy.norms:
            one(copy, norm)

    return fault


def _other_preprocessing(copy: Copy) -> None:
    copy.change(next(copy.weights()), lambda w: 255 * w)


IN_ALL: dict[str, Callable[[Copy], None]] = {
    "never updated": _everywhere(_default),
    "half of all weights pruned": _pruned(0.5),
    "weights averaged with others that differ by their deviation": _noisy(0.5),
    "5 % of noise on the weights": _noisy(0.05),
    "σ stored for σ²": _everywhere(_square_root),
    "inputs 255 times as large": _other_preprocessing,
}


@dataclass
class Tally:
    tried: int = 0
    found: int = 0
    judged: int = 0
    found_of_judged: int = 0
    right: int = 0


def loaded(path: Path) -> ModelProto:
    """A model whose constants are all initializers."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            node.attribute[0].t.name = node.output[0]
            model.graph.initializer.append(node.attribute[0].t)
        elif node.op_type == "Constant":
            nodes.append(node)
    nodes.sort(key=lambda node: node.op_type != "Constant")
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def asked(model: ModelProto) -> ConsistencyResult:
    return consistency_of(Index(model))


def contradicted(result: ConsistencyResult) -> set[str]:
    return {layer.node for layer in result.contradicting}


def in_one_layer(model: ModelProto, tally: dict[str, Tally]) -> None:
    """Puts each fault into each layer, and two layers into each other's place."""
    sound = {x.node: x.verdict is not Consistency.UNKNOWN for x in asked(model).layers}
    count = len(Copy(model).norms)
    places = sorted({*np.linspace(0, count - 1, min(count, MOST)).astype(int).tolist()})
    for name, fault in IN_ONE.items():
        for place in places:
            copy = Copy(model)
            norm = copy.norms[place]
            fault(copy, norm)
            told(copy, {_label(copy, norm)}, sound, tally.setdefault(name, Tally()))
    alike: dict[int, list[int]] = {}
    for place in places:
        norm = Copy(model).norms[place]
        alike.setdefault(len(Copy(model).get(norm.input[3])), []).append(place)
    for group in alike.values():
        for one, other in pairwise(group):
            copy = Copy(model)
            norms = [copy.norms[one], copy.norms[other]]
            for slot in (3, 4):
                values = [copy.get(norm.input[slot]) for norm in norms]
                copy.set(norms[0].input[slot], values[1])
                copy.set(norms[1].input[slot], values[0])
            where = {_label(copy, norm) for norm in norms}
            told(copy, where, sound, tally.setdefault("two layers swapped", Tally()))


def _label(copy: Copy, norm: NodeProto) -> str:
    return next(n.label for n in Index(copy.model).nodes() if n.output == norm.output[0])


def told(copy: Copy, where: set[str], sound: dict[str, bool], tally: Tally) -> None:
    """Counts one fault: found where one of its layers contradicts."""
    names = contradicted(asked(copy.model))
    tally.tried += 1
    tally.found += bool(names & where)
    if any(sound[name] for name in where):
        tally.judged += 1
        tally.found_of_judged += bool(names & where)
    tally.right += bool(names & where) and names <= where


def share(part: int, of: int) -> str:
    return f"{part} of {of}, {part / of:.0%}" if of else "–"


def against_data() -> Iterator[str]:
    """Rows of predicted against measured moments of the sample models."""
    rows: dict[tuple[str, ...], list[tuple[npt.NDArray[np.float64], float]]] = {}
    images = np.load(SAMPLES / "digits_test.npz")["image"].astype(np.float32) / 16
    for path in sorted(SAMPLES.glob("digits_*.onnx")):
        measured = {drift.node: drift for drift in _stats(path, images)}
        for layer in bnfold.consistency(path).layers:
            drift = measured.get(layer.node)
            if drift is None or not np.any(np.isfinite(layer.shift)):
                continue
            off = np.abs(layer.shift - drift.shift) / np.sqrt(drift.ratio)
            times = (layer.ratio / drift.ratio)[np.isfinite(layer.ratio / drift.ratio)]
            middle = float(np.median(times)) if times.size else float("nan")
            rows.setdefault(layer.assumes, []).append((off, middle))
    for assumes, found in sorted(rows.items(), key=lambda row: len(row[0])):
        every = np.concatenate([off for off, _ in found])
        every = every[np.isfinite(every)]
        middle = float(np.nanmedian([m for _, m in found]))
        yield (
            f"| {', '.join(assumes) or 'nothing'} | {len(found)} | {len(every)} "
            f"| {np.median(every):.3f} | {np.quantile(every, 0.95):.2f} | {every.max():.2f} "
            f"| {middle:.2f} |\n"
        )


def _stats(model: Path, images: Array) -> tuple[bnfold.ChannelDrift, ...]:
    (name,) = [entry.name for entry in onnx.load(model).graph.input]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "data.npz"), **{name: images})  # type: ignore[arg-type]
        return bnfold.stats(model, Dataset(Path(folder, "data.npz"))).drifts


def main() -> None:
    """The whole page."""
    trained = [*sorted(SAMPLES.glob("digits_*.onnx")), *map(Path, sys.argv[1:])]
    models = {path.name: loaded(path) for path in trained}
    results = {name: asked(model) for name, model in models.items()}
    layers = [layer for result in results.values() for layer in result.layers]
    judged = [layer for layer in layers if layer.verdict is not Consistency.UNKNOWN]
    alarms = sum(len(result.contradicting) for result in results.values())
    tally: dict[str, Tally] = {}
    for model in models.values():
        in_one_layer(model, tally)
    page = HEAD.format(
        models=",\n".join(f"`{name}`" for name in models),
        layers=len(layers),
        judged=len(judged),
        alarms=alarms,
    )
    for name, t in tally.items():
        page += f"| {name} | {t.tried} | {share(t.found, t.tried)} "
        page += f"| {share(t.found_of_judged, t.judged)} | {share(t.right, t.found)} |\n"
    page += WHOLE
    for name, fault in IN_ALL.items():
        found = hit = 0
        for model in models.values():
            copy = Copy(model)
            fault(copy)
            count = len(contradicted(asked(copy.model)))
            found, hit = found + bool(count), hit + count
        page += f"| {name} | {share(found, len(models))} | {share(hit, len(layers))} |\n"
    page += DATA + "".join(against_data()) + NOTES
    (Path(__file__).parent / "faults.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
