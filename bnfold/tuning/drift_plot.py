"""Which layers have drifted, at a glance: the worst on top, of living channels only."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.folding.layer_details import Spread
from bnfold.tuning.drift import ChannelDrift, DriftLimits, Fit
from bnfold.tuning.statistics_plot import BAD, DOUBTFUL, GOOD, Picture, Row

_COLOURS = {Fit.DRIFTED: BAD, Fit.TOO_LITTLE: DOUBTFUL, Fit.FITS: GOOD}


def picture(drifts: Sequence[ChannelDrift], limits: DriftLimits) -> Picture:
    """What the data shows of all BatchNormalizations."""
    return Picture(
        "Do the stored statistics fit the data?",
        ("shift of the mean, in stored standard deviations", "variance of the data / stored"),
        (limits.shift, limits.ratio),
        tuple((fit.value, colours) for fit, colours in _COLOURS.items()),
        tuple(
            Row(drift.node, _COLOURS[drift.fit], Spread.of(drift.shift), Spread.of(drift.ratio))
            for drift in drifts
        ),
    )
