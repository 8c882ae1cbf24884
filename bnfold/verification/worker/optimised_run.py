"""The folded model as it is deployed: with onnxruntime's optimisations on.

Where activations are rounded to integers, a rounding that falls differently moves an output by one
of its steps, and what is behind it by a few. That is no fault; but onnxruntime also fuses quantised
operators, and some of these compute something else on some processors (they saturate, or take the
bias for less than it is). So differences are counted in steps, and held against what the original
shows when it is optimised as well, and when its roundings fall by a step the other way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from bnfold.graph.index import Node
from bnfold.onnx_io.model_file import ModelFile
from bnfold.proof.reading.model import Model
from bnfold.runtime.sessions import Feed, Run, is_float
from bnfold.verification.comparison import Deployed, OutputDifference
from bnfold.verification.numerics.noise import perturb_integers

_FEW = 2.0  # steps by which roundings that fall differently may move an output
_PASSING = frozenset(
    {"Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class Optimised:
    """What a model gives with onnxruntime's optimisations on; or why onnxruntime refuses it."""

    differences: tuple[OutputDifference, ...]  # from the original without optimisations
    results: tuple[Run, ...] = ()
    refused: str = ""

    @property
    def most(self) -> float:
        """The largest difference."""
        return max((d.max_abs for d in self.differences), default=0.0)


def verdict_on_refusal(folded: Optimised, original: Optimised) -> Deployed:
    """A folded model that the optimiser refuses is no worse where it refuses the original, too."""
    note = f"onnxruntime's optimiser refuses the folded model: {folded.refused}"
    too = bool(original.refused)
    return Deployed(too, 0.0, f"{note}; the original as well" if too else note)


def verdict(folded: Optimised, original: Optimised, wrong: OutputDifference) -> Deployed:
    """On an output of which roundings do not explain the difference, in a model of floats."""
    said = f"output {wrong.name!r} differs by {wrong.max_abs:.3g}"
    same = next((d for d in original.differences if d.name == wrong.name), None)
    if same is not None and not same.equal:
        return Deployed(True, folded.most, f"{said}, the original by {same.max_abs:.3g} as well")
    return Deployed(False, folded.most, said)


def verdict_in_steps(
    folded: Optimised, original: Optimised, truth: Sequence[Run], wrong: OutputDifference,
    worth: float | None, moved: float, fused: str,
) -> Deployed:  # fmt: skip
    """Likewise, in a model that rounds its activations.

    `worth` is what one step of the output is worth, None where it is not made of integers. `moved`
    is how far the output moves where all roundings fall by one step the other way; `fused` names
    the operators that onnxruntime has fused in the folded model alone.
    """
    name = wrong.name
    ours = largest_difference(folded.results, truth, name)
    theirs = largest_difference(original.results, truth, name)
    both = largest_difference(folded.results, original.results, name) if original.results else ours
    if worth is not None:
        said = (
            f"differs by {ours / worth:.0f} steps, the optimised original by {theirs / worth:.0f}"
        )
    else:
        said = f"differs by {ours:.3g}, the optimised original by {theirs:.3g}"
        said += f", and roundings that are one step off by {moved:.3g}"
    said = f"output {name!r} {said}"
    if min(ours, both) <= _FEW * max(worth or 0.0, moved, theirs):
        return Deployed(True, folded.most, f"{said}: roundings to integers fall differently")
    return Deployed(False, folded.most, f"{said}{f': by {fused}' if fused else ''}")


def one_step_off(feed: Feed, cut: Collection[str], rng: np.random.Generator) -> Feed:
    """What a model that is cut open at its roundings is fed, each rounding one step off, or not."""
    return {
        name: perturb_integers(array, rng) if name in cut and array.dtype.kind in "iu" else array
        for name, array in feed.items()
    }


def largest_difference(one: Sequence[Run], other: Sequence[Run], name: str) -> float:
    """The largest difference of an output in all runs."""
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) if name in a and name in b]
    return max(
        (float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
         for a, b in pairs if a.shape == b.shape),
        default=0.0,
    )  # fmt: skip


def step_of(file: ModelFile, name: str, results: Sequence[Run]) -> float | None:
    """What one step of an output is worth; None where no integers are behind it."""
    if results and name in results[0] and not is_float(results[0][name]):
        return 1.0
    model = Model(file.model, file.storage)
    scope = model.main
    node: Node | None = scope.producers.get(name)
    while node is not None and node.op in _PASSING:
        node = scope.producers.get(node.input(0))
    if node is None or node.op != "DequantizeLinear":
        return None
    scale = model.value_at(node, 1)
    return None if scale is None else float(np.max(np.abs(scale.astype(np.float64))))


def fused(original: Path, folded: Path) -> str:
    """The quantised operators that only the optimised folded model has, by its saved graphs."""
    names = [_quantised(onnx.load(path, load_external_data=False)) for path in (original, folded)]
    more = names[1] - names[0]
    return ", ".join(f"{op} ({count} of them)" if count > 1 else op for op, count in more.items())


def _quantised(model: ModelProto) -> Counter[str]:
    return Counter(
        node.op_type for node in model.graph.node
        if node.op_type.startswith(("QLinear", "QGemm", "QAttention", "Dynamic"))
        or node.op_type.endswith("Integer")
    )  # fmt: skip
