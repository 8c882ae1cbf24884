"""Which layers contradict what stands before them, at a glance, in the order of the nodes."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.tuning.prediction.consistency import FARTHEST, MOST_TIMES
from bnfold.tuning.prediction.verdicts import Consistency, LayerSummary
from bnfold.tuning.statistics_plot import BAD, DOUBTFUL, GOOD, Picture, Row

_COLOURS = {
    Consistency.CONTRADICTS: BAD, Consistency.UNKNOWN: DOUBTFUL, Consistency.CONSISTENT: GOOD,
}  # fmt: skip


def picture(layers: Sequence[LayerSummary]) -> Picture:
    """Predicted against stored, of all BatchNormalizations."""
    return Picture(
        "Do the stored statistics fit each other?",
        ("predicted less stored mean, in stored deviations", "predicted variance / stored"),
        (FARTHEST, MOST_TIMES),
        tuple((verdict.value, colours) for verdict, colours in _COLOURS.items()),
        tuple(Row(x.node, _COLOURS[x.verdict], x.shift, x.ratio) for x in layers),
    )
