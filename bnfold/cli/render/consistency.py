"""Whether stored statistics fit each other, to be read by people and by programs. Pure."""

from __future__ import annotations

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from bnfold.cli.render.console import table
from bnfold.graph.index import BATCH_NORM
from bnfold.text.formatting import count, plain
from bnfold.text.json_encoding import dumps
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.verdicts import Consistency, ConsistencyResult, LayerConsistency

_STYLES = {
    Consistency.CONSISTENT: "green",
    Consistency.CONTRADICTS: "red",
    Consistency.UNKNOWN: "yellow",
}


def of_consistency(result: ConsistencyResult) -> RenderableType:
    """The report of `bnfold stats` without data, a line for each BatchNormalization."""
    figures = ("median", "worst channel")
    rows = table("BatchNormalization", *figures, "", "because", right=figures)
    for layer in result.layers:
        rows.add_row(
            Text(plain(layer.node)), _shift(layer.median_shift), _shift(layer.worst_shift),
            Text(layer.verdict.value, style=_STYLES[layer.verdict]), Text(plain(_because(layer))),
        )  # fmt: skip
    total = count(len(result.layers), BATCH_NORM)
    unknown = sum(layer.verdict is Consistency.UNKNOWN for layer in result.layers)
    closing = f"\n{len(result.contradicting)} of {total} contradicted by what stands before"
    closing += f", {unknown} that cannot be told" if unknown else ""
    return Group(rows, Text(closing, style="bold"))


def _shift(value: float) -> str:
    return f"{value:.2f} σ" if np.isfinite(value) else "–"


def _because(layer: LayerConsistency) -> str:
    return "; ".join(filter(None, (layer.sentence, *layer.notes)))


def consistency_as_json(result: ConsistencyResult) -> str:
    """All of it, with the figures of every channel; null where nothing is predicted."""
    return dumps({
        "batchnorms": [
            {
                "node": layer.node,
                "verdict": layer.verdict.value,
                "sentence": layer.sentence,
                "channels": layer.channels,
                "assumes": list(layer.assumes),
                "notes": list(layer.notes),
                "shift": _finite(layer.shift),
                "ratio": _finite(layer.ratio),
                "mean": _finite(layer.mean),
                "variance": _finite(layer.variance),
                "predicted_mean": _finite(layer.predicted_mean),
                "predicted_variance": _finite(layer.predicted_variance),
                "epsilon": layer.epsilon,
            }
            for layer in result.layers
        ]
    })  # fmt: skip


def _finite(values: FloatArray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
